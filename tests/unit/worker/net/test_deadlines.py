"""The tick of a worker: one thing that goes wrong in it costs nothing else its turn. No timer runs here."""

from __future__ import annotations

from time import monotonic
from typing import Any

import gevent
import pytest

from app.telemetry import log
from app.worker.net.deadlines import NEVER, PAUSE_SECONDS, Deadlines, Expired


@pytest.fixture(name="told")
def _told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged as uncaught."""
    told: list[str] = []
    monkeypatch.setattr(log, "uncaught", lambda _, __, error: told.append(str(error)))
    return told


def in_hub(deadlines: Deadlines) -> None:
    """One tick where ticks happen."""
    gevent.get_hub().loop.run_callback(deadlines._tick)
    gevent.sleep(0)
    gevent.sleep(0)


@pytest.mark.parametrize("error", [ValueError, AssertionError, OSError, Expired])
def test_a_callable_that_raises_starves_no_other(told: list[str], error: type[Exception]) -> None:
    """It is logged once, not ten times a second, and again when it has worked in between."""
    deadlines = Deadlines()
    called: list[str] = []
    is_broken = True

    def fail(_now: float) -> None:
        called.append("first")
        if is_broken:
            raise error("no")

    deadlines.every_tick(fail)
    deadlines.every_tick(lambda _: called.append("second"))
    for _ in range(3):
        in_hub(deadlines)
    assert called == ["first", "second"] * 3
    assert told == ["no"]
    is_broken = False
    in_hub(deadlines)
    is_broken = True
    in_hub(deadlines)
    assert told == ["no", "no"]


@pytest.mark.parametrize(("until", "is_over"), [(0.0, True), (5.0, False)])
def test_who_may_outlast_a_deadline_is_asked_when_it_is_over(until: float, is_over: bool) -> None:
    """Not before; a later time is the new one."""
    deadlines = Deadlines()
    asked: list[float] = []

    def outlast(now: float) -> float:
        asked.append(now)
        return now + until if until else 0.0

    def wait() -> str:
        deadline = deadlines.enter()
        deadline.outlast = outlast
        deadline.at = monotonic() + 3600.0
        in_hub(deadlines)
        assert asked == []
        deadline.at = monotonic()
        try:
            in_hub(deadlines)
        except Expired:
            return "over"
        finally:
            deadlines.leave(deadline)
        return "later" if deadline.at == asked[0] + until else "never"

    assert gevent.spawn(wait).get() == ("over" if is_over else "later")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("at", "limit", "is_over"),
    [(60.0, -1.0, True), (60.0, 60.0, False), (-1.0, 60.0, True), (NEVER, -1.0, False)],
)
def test_no_wait_goes_beyond_the_limit(at: float, limit: float, is_over: bool) -> None:
    """Whatever it is for; who does not wait is left alone."""
    deadlines = Deadlines()

    def wait() -> bool:
        deadline = deadlines.enter()
        deadline.at, deadline.limit = monotonic() + at, monotonic() + limit
        try:
            in_hub(deadlines)
        except Expired:
            return True
        finally:
            deadlines.leave(deadline)
        return False

    assert gevent.spawn(wait).get() == is_over


def test_who_would_outlast_is_not_asked_when_the_limit_is_over() -> None:
    """What all waits have together ends a wait that could go on by itself."""
    deadlines = Deadlines()

    def wait() -> bool:
        deadline = deadlines.enter()
        deadline.outlast = lambda now: now + 60
        deadline.at, deadline.limit = monotonic() + 60, monotonic() - 1
        try:
            in_hub(deadlines)
        except Expired:
            return True
        finally:
            deadlines.leave(deadline)
        return False

    assert gevent.spawn(wait).get()


def test_one_that_waits_in_the_hub_starves_no_other(told: list[str]) -> None:
    """Nothing may wait there; gevent says so by an exception."""
    deadlines = Deadlines()
    called: list[float] = []
    deadlines.every_tick(lambda _: gevent.sleep(1))
    deadlines.every_tick(called.append)
    in_hub(deadlines)
    assert len(called) == len(told) == 1


def test_a_greenlet_that_fails_when_its_time_is_over_takes_no_other_along(told: list[str]) -> None:
    """Each of those whose deadline has passed is told, and the callables have their turn."""
    deadlines = Deadlines()
    woken: list[int] = []

    def wait(number: int) -> None:
        deadline = deadlines.enter()
        deadline.at = 0.0
        hub: Any = gevent.get_hub()
        try:
            hub.switch()
        except Expired:
            woken.append(number)
            raise ValueError(f"{number}") from None
        finally:
            deadlines.leave(deadline)

    for number in range(3):
        gevent.spawn_raw(wait, number)
    gevent.sleep(0)
    deadlines.every_tick(lambda now: woken.append(99))
    in_hub(deadlines)
    assert sorted(woken) == [0, 1, 2, 99]
    assert sorted(told) == ["0", "1", "2"]


def test_a_question_that_fails_ends_its_wait_and_no_other(told: list[str]) -> None:
    """Who cannot say that it would wait on does not; the rest of the tick goes on."""
    deadlines = Deadlines()
    called: list[float] = []
    deadlines.every_tick(called.append)

    def outlast(_now: float) -> float:
        raise ValueError("no")

    def wait() -> bool:
        deadline = deadlines.enter()
        deadline.outlast, deadline.at = outlast, 0.0
        try:
            in_hub(deadlines)
        except Expired:
            return True
        finally:
            deadlines.leave(deadline)
        return False

    assert gevent.spawn(wait).get()
    assert told == ["no"]
    assert len(called) == 1


def test_who_does_not_wait_is_left_alone() -> None:
    """Before its time, and without one."""
    deadlines = Deadlines()
    for at in (NEVER, monotonic() + 60):
        deadlines.enter().at = at
    in_hub(deadlines)


def test_a_pause_of_the_process_counts_for_no_deadline() -> None:
    """What came in it can be read before the first tick that judges; a limit is a limit all the same."""
    deadlines = Deadlines()
    ticks: list[float] = []
    deadlines.every_tick(ticks.append)

    def wait(limit: float) -> str:
        deadline = deadlines.enter()
        deadline.at, deadline.limit = monotonic() - PAUSE_SECONDS, limit
        deadlines.now = monotonic() - 3 * PAUSE_SECONDS
        try:
            in_hub(deadlines)
            assert ticks == []
            in_hub(deadlines)
        except Expired:
            return "over"
        finally:
            deadlines.leave(deadline)
        return "waits on"

    assert gevent.spawn(wait, NEVER).get() == "waits on"
    assert len(ticks) == 1
    ticks.clear()
    assert gevent.spawn(wait, monotonic() - 1.0).get() == "over"


def test_what_was_before_the_ticks_began_is_no_pause() -> None:
    """However long ago these deadlines were made: nobody waited for them then."""
    deadlines = Deadlines()
    deadlines.now = monotonic() - 3 * PAUSE_SECONDS
    deadlines.start()
    deadlines.stop()
    assert monotonic() - deadlines.now < PAUSE_SECONDS
