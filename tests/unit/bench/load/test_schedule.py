"""What the open loops share."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.load import schedule


def test_everybody_gets_the_same_arrivals() -> None:
    """In order, within the time, as many as the rate says."""
    dues = schedule.arrivals(schedule.source(), 400, 5)
    assert dues == schedule.arrivals(schedule.source(), 400, 5)
    assert dues == sorted(dues)
    assert len(dues) == 2000
    assert 0 <= dues[0] < dues[-1] < 5


def test_arrivals_come_as_a_poisson_process_does() -> None:
    """Gaps are distributed exponentially: their mean and their deviation are the same."""
    dues = schedule.arrivals(schedule.source(), 1000, 20)
    gaps = [later - earlier for earlier, later in pairwise(dues)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 51), (0.99, 100), (0.999, 100), (1, 100), (0, 1)]
)
def test_percentiles(share: float, expected: float) -> None:
    """Of 1 to 100."""
    assert schedule.percentile([float(value) for value in range(1, 101)], share) == expected


def test_nothing_has_no_latency() -> None:
    """A phase without requests."""
    assert schedule.percentile([], 0.99) == 0.0
