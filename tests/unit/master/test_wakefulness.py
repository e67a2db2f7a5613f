"""Whether the master has been asleep."""

from __future__ import annotations

from app.master.wakefulness import PAUSE_SECONDS, Wakefulness


def test_who_looks_regularly_has_always_been_awake() -> None:
    """From the first look on."""
    awake = Wakefulness()
    for now in (1000.0, 1001.0, 1001.0 + PAUSE_SECONDS):
        assert (awake.seconds(now), awake.pause) == (float("inf"), 0.0)


def test_work_that_takes_long_is_no_pause() -> None:
    """A reload, many forks; the first look may be long after the beginning, too."""
    awake = Wakefulness()
    awake.looked(900.0)
    assert awake.seconds(900.0 + 2 * PAUSE_SECONDS) == 0.0
    awake.looked(1000.0)
    assert awake.seconds(1001.0) == 1001.0 - 910.0
    assert awake.pause == 0.0


def test_a_pause_begins_it_anew() -> None:
    """Its length is told once."""
    awake = Wakefulness()
    awake.seconds(1000.0)
    assert (awake.seconds(1035.0), awake.pause) == (0.0, 35.0)
    assert (awake.seconds(1036.0), awake.pause) == (1.0, 0.0)
    assert (awake.seconds(1041.0), awake.pause) == (6.0, 0.0)
