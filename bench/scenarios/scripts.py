"""What happens to the servers in each scenario, and when: data, and nothing else.

An order is (seconds, what is said of it on the plot, server, verb, argument). Verbs are methods of
``stage.Stage``. Phases are named by the moment at which they begin; the first begins at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Order:
    at: float
    server: int
    verb: str
    argument: Any = None


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    seconds: float
    phases: tuple[tuple[float, str], ...]
    orders: tuple[Order, ...]
    rate: float = 400.0
    servers: int = 4
    algorithms: tuple[str, ...] = ("round_robin",)
    repaired: tuple[int, ...] = field(default=())
    """Servers of which it is told when they are used again after ``repair_at``; then all shares."""
    repair_at: float = 0.0
    until: float = 0.0
    """The judging ends here: when the next fault begins, or at the end."""


COMBINED = Scenario(
    "combined",
    "Kill, hang, half 500s, repair, slow",
    40.0,
    (
        (0, "all well"),
        (5, "one killed"),
        (12, "+ one hung"),
        (20, "+ one half 500s"),
        (26, "all repaired"),
        (34, "one 50x slower"),
    ),
    (
        Order(5, 0, "kill"),
        Order(12, 1, "hang"),
        Order(20, 2, "misbehave", {"errors": 0.5}),
        Order(26, 0, "start"),
        Order(26, 1, "wake"),
        Order(26, 2, "misbehave", {}),
        Order(34, 3, "misbehave", {"slow": 50}),
    ),
    repaired=(0, 1, 2),
    repair_at=26.0,
    until=34.0,
)

SHORT = Scenario(
    "short",
    "The same in 19 s",
    19.0,
    (
        (0, "all well"),
        (2.5, "one killed"),
        (5, "+ one hung"),
        (8, "+ one half 500s"),
        (10.5, "all repaired"),
        (16.5, "one 50x slower"),
    ),
    (
        Order(2.5, 0, "kill"),
        Order(5, 1, "hang"),
        Order(8, 2, "misbehave", {"errors": 0.5}),
        Order(10.5, 0, "start"),
        Order(10.5, 1, "wake"),
        Order(10.5, 2, "misbehave", {}),
        Order(16.5, 3, "misbehave", {"slow": 50}),
    ),
    rate=200.0,
    repaired=(0, 1, 2),
    repair_at=10.5,
    until=16.5,
)
"""Too short for figures worth comparing: it shows that the bench works, and what ours does."""

ALL: tuple[Scenario, ...] = (
    COMBINED,
    Scenario(
        "kill",
        "SIGKILL, restart 6 s later",
        16.0,
        ((0, "all well"), (3, "one killed"), (9, "restarted")),
        (Order(3, 0, "kill"), Order(9, 0, "start")),
        repaired=(0,),
        repair_at=9.0,
        until=16.0,
    ),
    Scenario(
        "hang",
        "SIGSTOP, SIGCONT 7 s later",
        17.0,
        ((0, "all well"), (3, "one hung"), (10, "continued")),
        (Order(3, 0, "hang"), Order(10, 0, "wake")),
        repaired=(0,),
        repair_at=10.0,
        until=17.0,
    ),
    Scenario(
        "errors",
        "Half of one server's answers are 500, its check passes",
        16.0,
        ((0, "all well"), (3, "one half 500s"), (10, "repaired")),
        (Order(3, 0, "misbehave", {"errors": 0.5}), Order(10, 0, "misbehave", {})),
        repaired=(0,),
        repair_at=10.0,
        until=16.0,
    ),
    Scenario(
        "slow",
        "One server 50x slower",
        25.0,
        ((0, "all well"), (3, "one 50x slower"), (11, "repaired")),
        (Order(3, 0, "misbehave", {"slow": 50}), Order(11, 0, "misbehave", {})),
        repaired=(0,),
        repair_at=11.0,
        until=25.0,
        algorithms=("round_robin", "least_connections", "peak_ewma"),
    ),
    Scenario(
        "cut",
        "A third of one server's answers reset in mid-body, its check passes",
        16.0,
        ((0, "all well"), (3, "one resets"), (10, "repaired")),
        (Order(3, 0, "misbehave", {"cut": 0.33}), Order(10, 0, "misbehave", {})),
        repaired=(0,),
        repair_at=10.0,
        until=16.0,
    ),
    Scenario(
        "rolling",
        "Rolling restart of all four: SIGTERM, 1 s away, the next 3 s later",
        20.0,
        ((0, "all well"), (3, "rolling restart"), (17, "done")),
        tuple(
            order
            for server in range(4)
            for order in (
                Order(3 + 3.5 * server, server, "terminate"),
                Order(4 + 3.5 * server, server, "start"),
            )
        ),
    ),
    Scenario(
        "all-down",
        "All killed, all back 4 s later",
        16.0,
        ((0, "all well"), (3, "all killed"), (7, "all back")),
        (
            *(Order(3, server, "kill") for server in range(4)),
            *(Order(7, server, "start") for server in range(4)),
        ),
        repaired=(0, 1, 2, 3),
        repair_at=7.0,
        until=16.0,
    ),
    Scenario(
        "cold",
        "One killed, back cold: 50x slower at first, warm after 300 answers, 4 at once",
        24.0,
        ((0, "all well"), (2, "one killed"), (6, "back, cold")),
        (Order(2, 0, "kill"), Order(6, 0, "start", {"warm_up": 300})),
    ),
    Scenario(
        "flapping",
        "1 of 50 flapping: killed, back after 1.5 s, every 3 s",
        20.0,
        ((0, "all well"), (2, "one flapping"), (17, "stays")),
        tuple(
            order
            for turn in range(5)
            for order in (Order(2 + 3 * turn, 0, "kill"), Order(3.5 + 3 * turn, 0, "start"))
        ),
        servers=50,
    ),
    Scenario(
        "pauses",
        "Each server pauses for 0.5 s every 5 s, as for a garbage collection",
        28.0,
        ((0, "all well"), (3, "pauses")),
        tuple(
            order
            for turn in range(20)
            for order in (
                Order(3 + 1.25 * turn, turn % 4, "hang"),
                Order(3.5 + 1.25 * turn, turn % 4, "wake"),
            )
        ),
    ),
)
