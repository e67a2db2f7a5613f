"""The checker: what it does with results. No greenlet runs and no socket is opened here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fakes.world import Entry, World, url

from app.control.health.checker import BUMP_SECONDS, START_PACE_SECONDS, Checker, Watch
from app.control.health.probe import CheckResult
from app.control.health.slow_start import SlowStart
from app.shared import publication
from app.shared.check_pace import FAST_CHECKS_PER_SECOND
from app.shared.layout import (
    CHANGED_MS,
    CHECKED,
    CHECKED_MS,
    EJECTED,
    EJECTION,
    EPOCH,
    IDENTITY,
    STALLED,
    STATE,
    TRUSTED,
    UNCHECKED,
)

OK = CheckResult(True, "ok", 200, 1.5)
FAILED = CheckResult(False, "connection_refused")
EXCUSED = CheckResult(None, "local_error", detail="no descriptors")


class Later:
    """Takes the place of gevent.spawn_later: remembers what would run, and when."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.killed = 0

    def __call__(self, seconds: float, function: Callable[..., None], *arguments: Any) -> Later:
        self.calls.append((seconds, function, arguments))
        return self

    def kill(self, block: bool) -> None:
        self.killed += 1

    def watches(self) -> dict[str, Watch]:
        return {call[2][0].server.url: call[2][0] for call in self.calls if call[2]}

    def delays(self) -> list[float]:
        return [seconds for seconds, _, arguments in self.calls if arguments]


class CheckerBench(World):
    """A checker that runs no greenlets and makes no checks: results are given to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.breaks: Exception | None = None  # what a check raises
        self.result = OK
        self.checker = self.successor()

    def successor(self) -> Checker:
        """The checker of a new control process, as after the death of the former."""
        self.later = Later()
        slow_start = self.slow_start = SlowStart(self.table)
        return Checker(self.table, slow_start, lambda server, config: self.check, self.later)

    def check(self) -> CheckResult:
        if self.breaks is not None:
            raise self.breaks
        return self.result

    def adopt(self, *servers: Entry, **health_check: Any) -> int:
        check = False if health_check.get("off") else health_check
        sequence, config = self.propose(*servers, health_check=check)
        self.checker.adopt(sequence, config)
        publication.publish(self.table, sequence)
        return sequence

    def watch(self, port: int) -> Watch:
        return self.later.watches()[url(port)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> CheckerBench:
    return CheckerBench(monkeypatch)


def test_acknowledges_once_every_new_server_has_a_verdict(bench: CheckerBench) -> None:
    sequence = bench.adopt(1, 2)
    bench.checker.record(bench.watch(1), OK)
    assert bench.table.cells[CHECKED] < sequence
    bench.checker.record(bench.watch(2), FAILED)
    assert bench.table.cells[CHECKED] == sequence
    assert (bench.is_healthy(1), bench.is_healthy(2)) == (True, False)


def test_who_becomes_healthy_starts_slowly(
    bench: CheckerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New ones and those that come back; not who was healthy all along, and before workers see it."""
    begun: list[tuple[int, bool]] = []

    def begin(row: int) -> None:
        begun.append((row, bench.table.is_healthy(row)))

    monkeypatch.setattr(bench.slow_start, "begin", begin)
    bench.adopt(1, 2, unhealthy_threshold=1, healthy_threshold=1)
    watch = bench.watch(1)
    for outcome in (OK, OK, FAILED, OK):
        bench.checker.record(watch, outcome)
    bench.checker.record(bench.watch(2), FAILED)
    assert begun == [(watch.row, False)] * 2
    bench.adopt(1, 2, off=True)
    assert begun[2:] == [(bench.watch(2).row, False)]


def test_without_servers_there_is_nothing_to_wait_for(bench: CheckerBench) -> None:
    assert bench.adopt() == bench.table.cells[CHECKED]


def test_without_health_checks_every_server_is_healthy_and_none_is_watched(
    bench: CheckerBench,
) -> None:
    sequence = bench.adopt(1, 2, off=True)
    assert (bench.is_healthy(1), bench.is_healthy(2)) == (True, True)
    assert bench.table.cells[CHECKED] == sequence
    assert bench.later.watches() == {}


def test_times_of_checks_are_of_the_clock_that_is_never_set(
    bench: CheckerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ejections wait for a later check, and the wall clock may be set back meanwhile."""
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7_000_000_000)
    bench.adopt(1)
    bench.checker.record(bench.watch(1), OK)
    assert (bench.read(1, CHANGED_MS), bench.read(1, CHECKED_MS)) == (7_000, 7_000)


def test_logs_a_change_once_and_with_all_its_fields(bench: CheckerBench) -> None:
    bench.adopt(1, unhealthy_threshold=2)
    for outcome in (OK, OK, FAILED, FAILED, FAILED, FAILED):
        bench.checker.record(bench.watch(1), outcome)
    up, down = bench.events
    assert up["message"] == "backend is healthy"
    assert down == {
        "logger": "health",
        "level": "warning",
        "message": "backend is unhealthy",
        "backend": "127.0.0.1:1",
        "reason": "connection_refused",
        "healthy": False,
        "status": None,
        "consecutive": 2,
        "duration_ms": 0.0,
    }


def test_while_nobody_is_healthy_one_pass_is_enough(bench: CheckerBench) -> None:
    """A server that may be well is better than none; with another in service the threshold holds."""
    bench.adopt(1, 2, healthy_threshold=3, unhealthy_threshold=1)
    for port in (1, 2):
        bench.checker.record(bench.watch(port), FAILED)
    bench.checker.record(bench.watch(1), OK)
    assert bench.is_healthy(1)
    bench.checker.record(bench.watch(2), OK)
    assert not bench.is_healthy(2)


def test_a_successor_knows_that_somebody_is_healthy(bench: CheckerBench) -> None:
    """The threshold of others holds after the death of the former too."""
    bench.adopt(1, 2, healthy_threshold=2)
    bench.checker.record(bench.watch(1), OK)
    bench.checker.record(bench.watch(2), FAILED)
    bench.checker = bench.successor()
    bench.adopt(1, 2, healthy_threshold=2)
    bench.checker.record(bench.watch(2), OK)
    assert not bench.is_healthy(2)


def test_the_next_check_comes_soon_while_in_doubt(bench: CheckerBench) -> None:
    """Between thresholds and while set aside; of an unhealthy server at first, then less and less."""
    bench.adopt(1, 2, interval=8, fast_interval=1, unhealthy_threshold=2)
    one, two = bench.watch(1), bench.watch(2)

    def next_after(watch: Watch, outcome: CheckResult) -> float:
        bench.checker.record(watch, outcome)
        return bench.checker.seconds_to_next(watch)

    bench.checker.record(two, OK)
    assert next_after(one, OK) == 8
    bench.table.cells[bench.table.server(one.row) + EJECTION] = EJECTED
    assert next_after(one, OK) == 1
    bench.table.cells[bench.table.server(one.row) + EJECTION] = TRUSTED
    assert [next_after(one, FAILED) for _ in range(6)] == [1, 1, 2, 4, 8, 8]
    assert next_after(one, OK) == 1
    assert next_after(one, OK) == 8


def test_while_nobody_is_healthy_all_are_checked_soon(bench: CheckerBench) -> None:
    """Each may be the first that is back."""
    bench.adopt(1, 2, interval=8, fast_interval=1, unhealthy_threshold=1)
    one, two = bench.watch(1), bench.watch(2)
    bench.checker.record(two, OK)
    for _ in range(5):
        bench.checker.record(one, FAILED)
    assert bench.checker.seconds_to_next(one) == 8
    bench.checker.record(two, FAILED)
    assert bench.checker.seconds_to_next(one) == 1


def test_many_in_doubt_are_not_checked_more_often_than_we_can(bench: CheckerBench) -> None:
    """A fleet that is down must not keep this process busy."""
    bench.adopt(*range(1, 11), interval=60, fast_interval=0.01)
    for port in range(1, 11):
        bench.checker.record(bench.watch(port), FAILED)
        bench.checker.seconds_to_next(bench.watch(port))
    assert bench.checker.seconds_to_next(bench.watch(1)) == 10 / FAST_CHECKS_PER_SECOND
    bench.adopt(1, interval=60, fast_interval=0.01)
    assert bench.checker.seconds_to_next(bench.watch(1)) == 0.01


def test_a_check_that_is_wanted_now_does_not_wait(bench: CheckerBench) -> None:
    """An ejection asks for it; a row that nobody watches is no error."""
    bench.adopt(1)
    bench.checker.hasten(bench.watch(1).row)
    assert bench.watch(1).soon.is_set()
    bench.checker.hasten(15)


def test_only_an_answer_tells_whether_a_server_hangs(bench: CheckerBench) -> None:
    """The kernel of a process that hangs takes connections."""
    bench.adopt(1)
    row = bench.watch(1).row
    assert bench.checker.question(row) is not None
    assert bench.checker.question(row + 1) is None
    bench.adopt(1, type="tcp")
    assert bench.checker.question(row) is None


def test_a_question_knows_how_long_its_answer_usually_takes(bench: CheckerBench) -> None:
    """The slowest of late; not of those that found no server, nor of one that waited out a stall."""
    bench.adopt(1)
    question = bench.checker.question(bench.watch(1).row)
    assert question is not None
    assert question.usual_ms() == 0.0
    for bench.result, ejection in (
        (OK, TRUSTED),
        (CheckResult(False, "status_503", 503, 300.0), TRUSTED),
        (CheckResult(False, "timeout", None, 2_000.0), TRUSTED),
        (CheckResult(True, "ok", 200, 1_000.0), STALLED),
    ):
        bench.write(1, EJECTION, ejection)
        question.put()
    assert question.usual_ms() == pytest.approx(300.0, abs=1)


def test_a_question_that_breaks_is_a_fault_of_our_own(bench: CheckerBench) -> None:
    """Who asks is told so, and lives on."""
    bench.adopt(1)
    question = bench.checker.question(bench.watch(1).row)
    assert question is not None
    assert question.put() == OK
    bench.breaks = RuntimeError("broken")
    assert question.put() == CheckResult(None, "internal_error", detail="RuntimeError('broken')")


def test_bumps_the_epoch_after_a_change_and_only_then(bench: CheckerBench) -> None:
    bench.adopt(1)
    before = bench.table.cells[EPOCH]
    bench.checker.record(bench.watch(1), OK)
    changed = bench.table.cells[EPOCH]
    bench.checker.record(bench.watch(1), OK)
    assert changed != before
    assert bench.table.cells[EPOCH] == changed


def test_many_changes_at_once_are_two_bumps_the_last_of_them_after_all(bench: CheckerBench) -> None:
    bench.adopt(1, 2, 3)
    bench.checker.record(bench.watch(1), OK)
    first = bench.table.cells[EPOCH]
    bench.checker.record(bench.watch(2), OK)
    bench.checker.record(bench.watch(3), OK)
    assert bench.table.cells[EPOCH] == first
    (seconds, bump, _) = bench.later.calls[-1]
    assert seconds == BUMP_SECONDS
    bump()
    assert bench.table.cells[EPOCH] != first


def test_a_successor_neither_forgets_verdicts_nor_logs_them_again(bench: CheckerBench) -> None:
    bench.adopt(1, 2)
    bench.checker.record(bench.watch(1), OK)
    bench.checker.record(bench.watch(2), FAILED)
    bench.events.clear()
    bench.checker = bench.successor()
    sequence = bench.adopt(1, 2)
    assert bench.table.cells[CHECKED] == sequence
    bench.checker.record(bench.watch(1), FAILED)
    bench.checker.record(bench.watch(2), OK)
    assert bench.events == []
    assert (bench.is_healthy(1), bench.is_healthy(2)) == (True, False)


def test_a_streak_goes_on_in_the_successor(bench: CheckerBench) -> None:
    bench.adopt(1)
    for outcome in (OK, FAILED, FAILED):
        bench.checker.record(bench.watch(1), outcome)
    bench.checker = bench.successor()
    bench.adopt(1)
    bench.checker.record(bench.watch(1), FAILED)
    assert not bench.is_healthy(1)


def test_new_servers_are_checked_at_once_and_known_ones_within_an_interval(
    bench: CheckerBench,
) -> None:
    bench.adopt(1, 2, interval=60)
    assert bench.later.delays() == [0, START_PACE_SECONDS]
    for port in (1, 2):
        bench.checker.record(bench.watch(port), OK)
    bench.checker = bench.successor()
    bench.adopt(1, 2, 3, interval=60)
    *known, new = bench.later.delays()
    assert new == 0
    assert known[0] != known[1]
    assert all(0 <= delay <= 60 for delay in known)


def test_a_reload_leaves_the_watches_of_servers_that_stay_alone(bench: CheckerBench) -> None:
    bench.adopt(1, 2)
    kept = bench.watch(2)
    bench.adopt(2, 3)
    assert bench.watch(2) is kept
    assert bench.later.killed == 1
    assert len(bench.later.delays()) == 3


def test_a_reload_with_another_health_check_starts_every_watch_anew(bench: CheckerBench) -> None:
    bench.adopt(1)
    bench.checker.record(bench.watch(1), OK)
    bench.adopt(1, timeout=1)
    assert bench.later.killed == 1
    assert bench.watch(1).health_check.timeout == 1
    assert bench.is_healthy(1)


def test_a_result_for_a_row_that_another_server_has_now_is_dropped(bench: CheckerBench) -> None:
    bench.adopt(1)
    watch = bench.watch(1)
    at = bench.table.server(watch.row)
    bench.table.cells[at + IDENTITY] = 99
    bench.checker.record(watch, OK)
    assert bench.table.cells[at + STATE] == UNCHECKED


def test_a_check_that_could_not_be_made_keeps_the_verdict_and_is_logged_once(
    bench: CheckerBench,
) -> None:
    sequence = bench.adopt(1, unhealthy_threshold=1)
    for outcome in (EXCUSED, EXCUSED, OK, EXCUSED, EXCUSED):
        bench.checker.record(bench.watch(1), outcome)
    assert bench.is_healthy(1)
    assert bench.table.cells[CHECKED] == sequence
    messages = [event["message"] for event in bench.events]
    assert messages == [
        "backend could not be checked",
        "backend is healthy",
        "backend could not be checked",
    ]


def test_a_server_in_maintenance_is_not_checked_and_begins_anew_afterwards(
    bench: CheckerBench,
) -> None:
    """Nobody knows what was done to it: its first check decides, not what was known before."""
    bench.adopt(1)
    bench.checker.record(bench.watch(1), OK)
    sequence = bench.adopt({"url": url(1), "state": "maint"})
    assert bench.later.killed == 1
    assert not bench.is_healthy(1)
    assert bench.table.cells[CHECKED] == sequence
    sequence = bench.adopt(1)
    assert bench.table.cells[CHECKED] < sequence
    bench.checker.record(bench.watch(1), OK)
    assert bench.is_healthy(1)
