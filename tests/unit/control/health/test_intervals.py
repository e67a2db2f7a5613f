"""How long to wait before a server is checked again."""

from __future__ import annotations

import pytest

from app.control.health.intervals import CheckState, pause
from app.shared.check_pace import FAST_CHECKS_PER_SECOND


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (CheckState(), 8),
        (CheckState(is_open=True), 1),
        (CheckState(is_unhealthy=True), 1),
        (CheckState(is_unhealthy=True, failures=2), 4),
        (CheckState(is_unhealthy=True, failures=9), 8),
        (CheckState(is_unhealthy=True, failures=10**6), 8),
        (CheckState(is_unhealthy=True, failures=9, nobody_is_healthy=True), 1),
        (CheckState(nobody_is_healthy=True), 8),
    ],
)
def test_in_doubt_soon_and_of_the_ill_less_and_less(state: CheckState, expected: float) -> None:
    """Never later than an interval, and soon while any may be the first that is back."""
    assert pause(state, 8, 1, crowd=1) == expected


def test_a_crowd_in_doubt_is_not_checked_more_often_than_we_can() -> None:
    """However short the fast interval is; still not later than an interval."""
    state = CheckState(is_open=True)
    assert pause(state, 60, 0.01, crowd=10) == 10 / FAST_CHECKS_PER_SECOND
    assert pause(state, 5, 0.01, crowd=10**6) == 5
