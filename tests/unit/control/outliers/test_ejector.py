"""The ejector: which servers it sets aside by what workers count, and how they come back."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.world import World

from app.control.health.slow_start import SlowStart
from app.control.outliers.ejector import Ejector
from app.shared import outcome_bits, slots
from app.shared.layout import (
    CHANGED_MS,
    CHECKED_MS,
    CONNECT_STREAK,
    EJECTED,
    EJECTION_MS,
    EPOCH,
    ERROR_STREAK,
    FAILURES,
    HEALTHY,
    OUTCOMES,
    RECOVERIES,
    RESET_STREAK,
    STATE,
    STREAKS,
    TRIAL,
    TROUBLES,
    TRUSTED,
    UNHEALTHY,
)


class EjectorBench(World):
    """An ejector, two workers that count for it, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, **settings: Any) -> None:
        super().__init__(monkeypatch)
        self.now_ms = 50_000
        self.hastened: list[int] = []
        self.ejector = Ejector(self.table, self.hastened.append, SlowStart(self.table))
        self.adopt(count, **settings)

    @property
    def verdicts(self) -> list[tuple[Any, ...]]:
        """What was logged: what happened, to which server, why."""
        return self.told("message", "backend", "reason")

    def adopt(self, count: int, **settings: Any) -> None:
        document = {"health_check": False, "outlier_detection": {"ejection_time": 5}, **settings}
        self.ejector.adopt(self.publish(*range(1, count + 1), **document))
        self.tick()

    def fail(self, port: int, streak: int = CONNECT_STREAK, count: int = 1, slot: int = 1) -> None:
        """What app.worker.balance.outcome_counter writes for failures."""
        cells, at = self.counters(port, slot)
        for counter in (at + streak, at + FAILURES, TROUBLES):
            cells[counter] += count
        self.tick()

    def bad(self, port: int, streak: int, slot: int = 1) -> None:
        """A failure as it is written with the last outcomes."""
        cells, at = self.counters(port, slot)
        stamp = self.read(port, EJECTION_MS)
        cells[at + OUTCOMES] = outcome_bits.add(cells[at + OUTCOMES], stamp, True)
        self.fail(port, streak, slot=slot)

    def alternate(self, port: int, count: int, slot: int = 1) -> None:
        """A failure and a good answer, again and again."""
        cells, at = self.counters(port, slot)
        stamp = self.read(port, EJECTION_MS)
        for number in range(count):
            is_bad = number % 2 == 0
            cells[at + OUTCOMES] = outcome_bits.add(cells[at + OUTCOMES], stamp, is_bad)
            (self.fail if is_bad else self.answer)(port, slot=slot)

    def answer(self, port: int, slot: int = 1) -> None:
        """What it writes for a good answer of a server that was in trouble or on trial."""
        cells, at = self.counters(port, slot)
        for streak in STREAKS:
            cells[at + streak] = 0
        cells[at + RECOVERIES] += 1
        cells[TROUBLES] += 1
        self.tick()

    def tick(self, seconds: float = 0.05) -> None:
        self.now_ms += int(seconds * 1000)
        self.ejector.tick(self.now_ms)

    def check(self, port: int, verdict: int = HEALTHY, turned: bool = False) -> None:
        """What the checker writes."""
        self.write(port, CHECKED_MS, self.now_ms)
        self.write(port, STATE, verdict)
        if turned:
            self.write(port, CHANGED_MS, self.now_ms)
        self.tick()


def test_ejects_at_the_limit_tells_the_workers_and_logs_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not before the limit, and further failures of requests that were on their way are no news."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=2)
    assert bench.ejection(1) == TRUSTED
    before = bench.table.cells[EPOCH]
    bench.fail(1, slot=2)
    assert bench.ejection(1) == EJECTED
    assert bench.table.cells[EPOCH] != before
    assert bench.hastened == [bench.row(1)]
    bench.fail(1, count=5)
    assert bench.verdicts == [("backend ejected", "1", "connect_failures")]


@pytest.mark.parametrize(
    ("streak", "count", "reason"),
    [(RESET_STREAK, 5, "resets"), (ERROR_STREAK, 5, "server_errors")],
)
def test_each_kind_has_its_limit_and_reason(
    monkeypatch: pytest.MonkeyPatch, streak: int, count: int, reason: str
) -> None:
    """As configured by default."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, streak, count - 1)
    assert bench.ejection(1) == TRUSTED
    bench.fail(1, streak)
    assert bench.verdicts == [("backend ejected", "1", reason)]


def test_every_second_answer_wrong_is_no_streak_and_ejects_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After five failures, those of all workers together; a single good answer does not end its trial."""
    bench = EjectorBench(monkeypatch, 3)
    bench.alternate(1, 5, slot=1)
    assert bench.ejection(1) == TRUSTED
    bench.alternate(1, 4, slot=2)
    assert bench.verdicts == [("backend ejected", "1", "failure_rate")]
    bench.tick(5)
    assert bench.ejection(1) == TRIAL
    for _ in range(2):
        bench.answer(1)
        assert bench.ejection(1) == TRIAL
    bench.answer(1)
    assert bench.ejection(1) == TRUSTED


def test_where_all_fail_alike_nobody_is_ejected_for_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is what they are asked, or what they all depend on."""
    bench = EjectorBench(monkeypatch, 3)
    for _ in range(10):
        for port in (1, 2, 3):
            bench.alternate(port, 2)
    assert bench.verdicts == []


@pytest.mark.parametrize(
    ("streak", "out"), [(ERROR_STREAK, 0), (RESET_STREAK, 0), (CONNECT_STREAK, 2)]
)
def test_failures_in_a_row_that_all_have_eject_nobody(
    monkeypatch: pytest.MonkeyPatch, streak: int, out: int
) -> None:
    """Different requests, each bad wherever it is sent; who cannot be connected to has not seen them."""
    bench = EjectorBench(monkeypatch, 4)
    for number in range(9):
        for port in (1, 2, 3, 4):
            bench.bad(port, streak, slot=1 + number % 2)
    assert [bench.ejection(port) for port in (1, 2, 3, 4)].count(EJECTED) == out


def test_two_of_four_that_fail_are_ejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most others do not."""
    bench = EjectorBench(monkeypatch, 4)
    for _ in range(5):
        for port in (1, 2):
            bench.bad(port, ERROR_STREAK)
    assert [bench.ejection(port) for port in (1, 2, 3, 4)] == [EJECTED, EJECTED, TRUSTED, TRUSTED]


def test_servers_that_checks_found_ill_are_no_loss_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are dead: of the two that are left one may still be set aside, never both."""
    bench = EjectorBench(monkeypatch, 4)
    for port in (1, 2):
        bench.fail(port, count=3)
        bench.table.cells[bench.at(port) + STATE] = UNHEALTHY
    bench.fail(3, ERROR_STREAK, 9)
    assert bench.ejection(3) == EJECTED
    bench.fail(4, ERROR_STREAK, 9)
    assert bench.ejection(4) == TRUSTED


def test_never_the_last_one_and_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of four fail: two stay, come what may."""
    bench = EjectorBench(monkeypatch, 4)
    for port in range(1, 5):
        bench.fail(port, count=50)
    assert [bench.ejection(port) for port in range(1, 5)] == [EJECTED, EJECTED, TRUSTED, TRUSTED]
    lonely = EjectorBench(monkeypatch, 1)
    lonely.fail(1, count=50)
    assert lonely.ejection(1) == TRUSTED


def test_those_that_are_down_anyway_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are ejected and then found ill by the checks: of the other two one may still be ejected,
    the last one may not."""
    bench = EjectorBench(monkeypatch, 4)
    for port in (1, 2):
        bench.fail(port, count=50)
    bench.fail(3, count=50)
    assert bench.ejection(3) == TRUSTED
    for port in (1, 2):
        bench.check(port, UNHEALTHY)
    bench.fail(3)
    bench.fail(4, count=50)
    assert [bench.ejection(port) for port in (3, 4)] == [EJECTED, TRUSTED]


def test_not_while_the_others_are_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checks found counts: the failing one may be the last that serves at all."""
    bench = EjectorBench(monkeypatch, 3)
    for port in (2, 3):
        bench.table.cells[bench.at(port) + STATE] = UNHEALTHY
    bench.fail(1, count=50)
    assert bench.ejection(1) == TRUSTED


def test_after_its_time_one_request_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good answer brings it back."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=3)
    bench.tick(4.9)
    assert bench.ejection(1) == EJECTED
    bench.tick(0.1)
    assert bench.ejection(1) == TRIAL
    bench.answer(1)
    assert bench.ejection(1) == TRUSTED
    assert bench.verdicts[1:] == [
        ("backend on trial", "1", "ejection_over"),
        ("backend returned", "1", "trial_passed"),
    ]


def test_who_returns_starts_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its good answer on, not while it is on trial; workers see the one with the other."""
    bench = EjectorBench(monkeypatch, 2)
    begun: list[int] = []
    monkeypatch.setattr(SlowStart, "begin", lambda _, row: begun.append(bench.ejection(row + 1)))
    bench.fail(1, count=3)
    bench.tick(5)
    assert begun == []
    bench.answer(1)
    assert begun == [TRIAL]


def test_a_failed_trial_ejects_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any one failure, and twice the time."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=3)
    bench.tick(5)
    bench.fail(1, RESET_STREAK)
    assert bench.ejection(1) == EJECTED
    assert bench.verdicts[-1] == ("backend ejected", "1", "trial_failed")
    bench.tick(9.9)
    assert bench.ejection(1) == EJECTED
    bench.tick(0.2)
    assert bench.ejection(1) == TRIAL


def test_old_failures_do_not_count_after_the_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that took no part in the trial still has its streak."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=2, slot=2)
    bench.fail(1, count=1, slot=1)
    bench.tick(5)
    bench.answer(1, slot=1)
    bench.fail(1, slot=2)
    assert bench.ejection(1) == TRUSTED


def test_with_checks_one_must_pass_before_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes; for the right to be asked again time alone is not enough."""
    bench = EjectorBench(monkeypatch, 2, health_check={})
    bench.fail(1, ERROR_STREAK, 5)
    bench.tick(60)
    assert bench.ejection(1) == EJECTED
    bench.check(1)
    assert bench.ejection(1) == TRIAL


def test_a_passed_check_shows_at_once_that_it_can_be_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for the time to be over; answers of 500 are another matter."""
    bench = EjectorBench(monkeypatch, 4, health_check={})
    bench.fail(1, CONNECT_STREAK, 3)
    bench.fail(2, ERROR_STREAK, 5)
    bench.check(1)
    bench.check(2)
    assert (bench.ejection(1), bench.ejection(2)) == (TRIAL, EJECTED)


def test_one_that_checks_found_ill_and_well_again_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it was ejected for, it is not what it was."""
    bench = EjectorBench(monkeypatch, 2, health_check={})
    bench.fail(1, ERROR_STREAK, 5)
    bench.check(1, UNHEALTHY, turned=True)
    assert bench.ejection(1) == EJECTED
    bench.check(1, HEALTHY, turned=True)
    assert bench.ejection(1) == TRIAL


@pytest.mark.parametrize("good", [0, 2])
def test_a_worker_that_dies_during_a_trial_does_not_prolong_it(
    monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """What it had counted before stays counted: three good answers are three."""
    bench = EjectorBench(monkeypatch, 2)
    for _ in range(50):
        bench.answer(1, slot=2)
    bench.fail(1, ERROR_STREAK, 5)
    bench.tick(5)
    assert bench.ejection(1) == TRIAL
    for _ in range(good):
        bench.answer(1, slot=2)
    slots.release(bench.table, 2)
    for _ in range(3 - good):
        assert bench.ejection(1) == TRIAL
        bench.answer(1, slot=1)
    assert bench.ejection(1) == TRUSTED


@pytest.mark.parametrize(("counter", "state"), [(FAILURES, EJECTED), (RECOVERIES, TRUSTED)])
def test_a_successor_goes_on_with_a_trial(
    monkeypatch: pytest.MonkeyPatch, counter: int, state: int
) -> None:
    """What was counted before neither fails it nor passes it."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, ERROR_STREAK, 5)
    bench.tick(5)
    bench.ejector = Ejector(bench.table, bench.hastened.append, SlowStart(bench.table))
    bench.adopt(2)
    for _ in range(2):
        bench.answer(1)
        assert bench.ejection(1) == TRIAL
    cells, at = bench.counters(1, 1)
    cells[at + counter] += 1
    cells[TROUBLES] += 1
    bench.tick()
    assert bench.ejection(1) == state


def test_switched_off_by_a_reload_all_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is out comes back, and nobody goes."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=3)
    bench.adopt(2, outlier_detection=False)
    assert bench.ejection(1) == TRUSTED
    bench.fail(1, count=50)
    assert bench.ejection(1) == TRUSTED


def test_a_successor_goes_on_where_the_former_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control process died: who is out stays out, and comes back through a trial."""
    bench = EjectorBench(monkeypatch, 2)
    bench.fail(1, count=3)
    bench.ejector = Ejector(bench.table, bench.hastened.append, SlowStart(bench.table))
    bench.adopt(2)
    assert bench.ejection(1) == EJECTED
    bench.tick(5)
    assert bench.ejection(1) == TRIAL


def test_without_trouble_a_tick_reads_one_cell_of_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty times a second, with ten thousand servers: nothing of them is looked at."""
    bench = EjectorBench(monkeypatch, 4)
    monkeypatch.setattr(bench.ejector, "_judge", pytest.fail)
    monkeypatch.setattr(bench.ejector, "_is_over", pytest.fail)
    bench.tick()
