"""The retry budget: a share of the requests of the last ten seconds."""

from __future__ import annotations

import pytest

from app.worker.proxy.retry_budget import GrowthWindow, limit


def test_what_came_lately_is_counted() -> None:
    """From the first look on, which has all that was before it."""
    lately = GrowthWindow()
    assert lately.observe(100.0, 7) == 7
    assert lately.observe(100.1, 9) == 9


def test_what_is_older_than_ten_seconds_is_forgotten() -> None:
    """At eight a second there are eighty in the window, however long it goes on."""
    lately = GrowthWindow()
    counts = [lately.observe(tick / 8, tick) for tick in range(1000)]
    assert counts[50] == 50
    assert set(counts[80:]) == {80}


def test_a_burst_leaves_as_a_whole() -> None:
    """It counts for ten seconds and then not at all."""
    lately = GrowthWindow()
    lately.observe(0.0, 0)
    lately.observe(1.0, 500)
    assert [lately.observe(float(second), 500) for second in range(2, 14)] == [500] * 9 + [0] * 3


def test_a_long_silence_is_no_flood() -> None:
    """What came while nobody looked counts as of now."""
    lately = GrowthWindow()
    lately.observe(0.0, 0)
    assert [lately.observe(at, 500) for at in (60.0, 69.0, 70.0)] == [500, 500, 0]


@pytest.mark.parametrize(
    ("requests", "share", "per_second", "allowed"),
    [(0, 0.2, 3.0, 30), (100, 0.2, 3.0, 30), (1000, 0.2, 3.0, 200), (10_000, 0.0, 0.0, 0)],
)
def test_the_share_and_the_least(
    requests: int, share: float, per_second: float, allowed: float
) -> None:
    """The larger of the two."""
    assert limit(requests, share, per_second) == allowed
