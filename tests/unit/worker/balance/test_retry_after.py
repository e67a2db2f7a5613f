"""When a client should come back: the estimate, and how it is spread."""

from __future__ import annotations

import pytest

from app.worker.balance.retry_after import seconds, until_healthy

NOW = 1_000_000


@pytest.mark.parametrize(
    ("estimate", "draw", "expected"),
    [
        (0.0, 0.0, 1),
        (0.0, 0.4, 1),
        (0.0, 0.999, 2),
        (0.3, 0.0, 1),
        (0.3, 0.9, 3),
        (5.0, 0.0, 5),
        (5.0, 0.999, 10),
        (5.2, 0.0, 6),
        (-3.0, 0.0, 1),
        (1e9, 0.0, 300),
        (1e9, 0.999, 600),
    ],
)
def test_whole_seconds_never_before_the_estimate(
    estimate: float, draw: float, expected: int
) -> None:
    """And up to twice as late."""
    assert seconds(estimate, draw) == expected


@pytest.mark.parametrize("estimate", [0.0, 0.5, 3.0, 30.0])
def test_clients_that_were_refused_together_do_not_come_back_together(estimate: float) -> None:
    """At least two different seconds, and for a long wait as many as it has."""
    given = {seconds(estimate, draw / 100) for draw in range(100)}
    assert len(given) >= max(2, int(estimate))


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([NOW - 100], 0.4),
        ([NOW - 100, NOW - 300], 0.2),  # the soonest counts
        ([NOW - 9000], 0.0),  # late
        ([0], 0.0),  # never checked
        ([NOW + 60_000], 0.5),  # the clock was set back
        ([], 0.5),
        ([NOW] * 1000, 2.0),  # so many are not asked more often
    ],
)
def test_the_soonest_time_at_which_a_server_can_be_healthy(
    checks: list[int], expected: float
) -> None:
    """With fast checks every 0.5 s, the next of which is enough."""
    assert until_healthy(checks, 5.0, 0.5, NOW) == expected
