"""What the scenario bench makes of a run: phases, errors, shares after a repair, doubts about itself."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scenarios.figures import doubts, summarize
from bench.scenarios.scripts import Scenario

TWO = Scenario(
    "two",
    "One of two is repaired at 2 s",
    8.0,
    ((0, "well"), (1, "one killed"), (2, "repaired")),
    (),
    servers=2,
    repaired=(0,),
    repair_at=2.0,
    until=8.0,
)


def columns(*requests: tuple[float, float, bool, str, int]) -> dict[str, Any]:
    """From (due, done, is a POST, outcome, server)."""
    due, done, post, outcome, server = (list(column) for column in zip(*requests, strict=True))
    return {
        "due": due, "sent": due, "done": done, "post": post, "outcome": outcome, "server": server,
        "connections": 1,
    }  # fmt: skip


def spread(
    start: float, end: float, servers: list[int]
) -> list[tuple[float, float, bool, str, int]]:
    """A hundred requests a second, the servers in turn, 4 ms each."""
    dues = [start + number / 100 for number in range(round((end - start) * 100))]
    return [
        (due, due + 0.004, False, "", servers[number % len(servers)])
        for number, due in enumerate(dues)
    ]


def test_a_request_belongs_to_the_phase_in_which_it_was_due() -> None:
    """Its failure too, however late; and the latency of a failed one counts."""
    result = summarize(
        TWO,
        columns(
            (0.5, 0.504, False, "", 0),
            (0.9, 2.9, False, "504", -1),
            (1.5, 1.6, True, "closed", -1),
        ),
        [(False, 0), (False, 1)],
        [],
    )
    first, second, third = result["phases"]
    assert first["errors"] == {"GET": {"504": 1}}
    assert first["max_ms"] == 2000
    assert (second["failed_post"], second["errors"]) == (1, {"POST": {"closed": 1}})
    assert third["requests"] == 0
    assert result["failed_posts_not_executed"] == 1


def test_requests_that_ran_twice_are_found() -> None:
    """A GET may run twice, which costs something; a POST may not."""
    requests = columns((0.1, 0.2, True, "", 0), (0.1, 0.2, False, "", 1))
    executed = [(True, 0), (True, 0), (False, 1), (False, 1)]
    result = summarize(TWO, requests, executed, [])
    assert (result["posts_executed_twice"], result["gets_executed_twice"]) == (1, 1)


def test_shares_are_judged_from_two_seconds_after_the_first_passed_check() -> None:
    """What a hung server finds in its sockets when it wakes is no check."""
    requests = [*spread(0, 3, [1]), *spread(3, 4.6, [0, 0, 0, 1]), *spread(4.6, 8, [0, 1])]
    result = summarize(TWO, columns(*requests), [], [(0, 1.0), (0, 2.01), (0, 2.6), (1, 2.2)])
    assert result["first_check_after_s"] == {0: 0.6}
    assert result["first_answer_after_s"] == {0: 1.0}
    assert result["settled_off"] == 0.0
    assert result["settled_requests"] == 340


def test_without_active_checks_the_first_answer_counts() -> None:
    """Of 300 requests from then on one server gets two thirds."""
    requests = [*spread(0, 3, [1]), *spread(3, 8, [0, 0, 1])]
    result = summarize(TWO, columns(*requests), [], [])
    assert result["first_check_after_s"] == {0: None}
    assert result["settled_requests"] == 300
    assert result["settled_off"] == pytest.approx(1 / 3, abs=1e-3)


def test_a_bench_that_does_not_work_is_noticed() -> None:
    """Nothing was acted upon, nobody answered, a phase without requests: that is no measurement."""
    good = summarize(
        TWO, columns(*spread(0, 8, [0, 1])), [(False, number) for number in range(800)], []
    )
    assert doubts(TWO, good) == []
    bad = summarize(TWO, columns((0.1, 0.2, False, "", 0), (0.2, 0.3, False, "500", 0)), [], [])
    assert doubts(TWO, bad) == [
        "1 requests failed while all was well",
        "a server got nothing while all was well",
        "phases without requests: one killed, repaired",
        "more requests were answered than the servers acted upon",
    ]
