"""The slowest of late: what is remembered of durations, and how it fades."""

from __future__ import annotations

import pytest

from app.shared.slowest import Slowest


def test_the_slowest_stands_until_a_slower_one_comes() -> None:
    slowest = Slowest(60.0)
    assert slowest.as_of(5.0) == 0.0
    assert [slowest.observe(value, 5.0) for value in (0.2, 0.1, 0.4)] == [0.2, 0.2, 0.4]


def test_an_older_one_is_forgotten_to_a_third() -> None:
    """And then a faster one may be the slowest of late."""
    slowest = Slowest(60.0)
    slowest.observe(3.0, 0.0)
    assert slowest.as_of(60.0) == pytest.approx(1.1, abs=0.01)
    assert slowest.observe(1.0, 120.0) == 1.0
