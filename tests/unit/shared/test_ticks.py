"""What is done at every tick: all of it, in order, and no failure is another's."""

from __future__ import annotations

import pytest

from app.shared.ticks import Ticks
from app.telemetry import log


@pytest.fixture(name="told")
def _told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged as uncaught."""
    told: list[str] = []
    monkeypatch.setattr(log, "uncaught", lambda _, __, error: told.append(str(error)))
    return told


class Task:
    """Done at a tick; raises while it is ``broken``."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.times: list[float] = []

    def __call__(self, now: float) -> None:
        self.times.append(now)
        if self.broken:
            raise ValueError(self.broken)


def ticks_of(*tasks: Task) -> Ticks[float]:
    ticks: Ticks[float] = Ticks()
    for task in tasks:
        ticks.add(task)
    return ticks


def test_each_is_called_with_the_time_of_the_tick() -> None:
    order: list[str] = []
    ticks: Ticks[float] = Ticks()
    ticks.add(lambda now: order.append(f"first {now}"))
    ticks.add(lambda now: order.append(f"second {now}"))
    ticks.run(1.5)
    ticks.run(2.0)
    assert order == ["first 1.5", "second 1.5", "first 2.0", "second 2.0"]


def test_one_that_raises_takes_nothing_from_those_behind_it(told: list[str]) -> None:
    """The first health check, the flush of the log and the sweep share one tick."""
    broken, behind = Task("no"), Task()
    ticks = ticks_of(broken, behind)
    ticks.run(1.0)
    ticks.run(2.0)
    assert behind.times == broken.times == [1.0, 2.0]


def test_a_failure_is_told_once_until_it_has_worked_again(told: list[str]) -> None:
    """Ten lines a second would bury the first."""
    task = Task("no")
    ticks = ticks_of(task)
    for broken in ("no", "no", "", "again"):
        task.broken = broken
        ticks.run(0.0)
    assert told == ["no", "again"]


def test_the_failure_of_one_does_not_hide_that_of_another(told: list[str]) -> None:
    """Nor does one that works speak for another."""
    one, works, other = Task("one"), Task(), Task()
    ticks = ticks_of(one, works, other)
    ticks.run(0.0)
    other.broken = "other"
    ticks.run(0.0)
    assert told == ["one", "other"]
    assert repr(ticks) == "<Ticks of 3, failing 2>"


def test_what_ends_the_process_is_no_failure_of_a_task(told: list[str]) -> None:
    """The exit of a worker passes through a tick like any other place."""
    ticks: Ticks[float] = Ticks()

    def leave(_: float) -> None:
        raise SystemExit

    ticks.add(leave)
    with pytest.raises(SystemExit):
        ticks.run(0.0)
    assert told == []
