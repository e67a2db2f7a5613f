"""Passive outlier detection: the decisions, and the process that takes them on a real table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import config as configuration
from app.control.health.slow_start import SlowStart
from app.control.outliers import ejector as ejectors
from app.control.outliers.ejector import Ejector
from app.control.outliers.rules import (
    CONNECT,
    ERROR,
    RESET,
    Suspicion,
    ejection_ms,
    is_failing_often,
    may_eject,
    times_ejected,
)
from app.shared import outcome_bits, publication
from app.shared.layout import (
    CHANGED_MS,
    CHECKED_MS,
    CONNECT_STREAK,
    EJECTED,
    EJECTION,
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
    counters_at,
)
from app.shared.table import Table, identity_of
from app.telemetry import log

LIMITS = (3, 5, 4)
WALL_MS = 1_000_000

# --- decisions -----------------------------------------------------------------------------------


def judge(suspicion: Suspicion, *streaks: list[int], recoveries: int = 0) -> Any:
    return suspicion.judge(streaks, recoveries, LIMITS)


def test_one_worker_reaches_a_limit() -> None:
    """The kind and the number, at the limit and not before."""
    assert judge(Suspicion(), [0, 2], [4, 0], [3, 0]) is None
    assert judge(Suspicion(), [0, 3], [0, 0], [0, 0]) == (CONNECT, 3)
    assert judge(Suspicion(), [0, 0], [5, 0], [0, 0]) == (RESET, 5)
    assert judge(Suspicion(), [0, 0], [0, 0], [0, 4]) == (ERROR, 4)


def test_failures_in_several_workers_are_one_row() -> None:
    """What each has seen is too little, what all have seen is not."""
    assert judge(Suspicion(), [1, 1, 1], [0] * 3, [0] * 3) == (CONNECT, 3)


def test_a_good_answer_in_any_worker_ends_the_row() -> None:
    """Streaks that others still have are no longer added up, only what comes on top."""
    suspicion = Suspicion()
    assert judge(suspicion, [1, 1], [0, 0], [0, 0]) is None
    assert judge(suspicion, [1, 0], [0, 0], [0, 0], recoveries=1) is None
    assert judge(suspicion, [1, 2], [0, 0], [0, 0], recoveries=1) is None
    assert judge(suspicion, [2, 2], [0, 0], [0, 0], recoveries=1) == (CONNECT, 3)


def test_a_whole_row_in_one_worker_counts_whatever_others_see() -> None:
    """Half of the answers wrong: some worker sees enough of them in a row some day."""
    suspicion = Suspicion()
    for streak in range(1, 4):
        assert judge(suspicion, [0, 0], [0, 0], [streak, 0], recoveries=streak) is None
    assert judge(suspicion, [0, 0], [0, 0], [4, 0], recoveries=4) == (ERROR, 4)


def test_what_was_before_a_trial_is_excused() -> None:
    """Not a failure of before and one after make a row."""
    suspicion = Suspicion()
    streaks = [3, 2], [0, 0], [0, 0]
    assert judge(suspicion, *streaks)
    suspicion.excuse(streaks)
    assert judge(suspicion, *streaks) is None
    assert judge(suspicion, [3, 4], [0, 0], [0, 0]) is None
    assert judge(suspicion, [0, 3], [0, 0], [0, 0]) is None
    assert judge(suspicion, [3, 0], [0, 0], [0, 0]) == (CONNECT, 3)


def test_a_limit_of_nothing_is_never_reached() -> None:
    """0 switches a kind off."""
    assert Suspicion().judge(([99], [99], [99]), 0, (0, 0, 0)) is None


@pytest.mark.parametrize(
    ("servers", "out", "others", "allowed"),
    [
        (1, 0, 0, False),
        (2, 0, 1, True),
        (2, 1, 1, False),
        (3, 0, 2, True),
        (3, 1, 1, False),
        (4, 1, 2, True),
        (4, 2, 2, False),
        (50, 24, 26, True),
        (50, 25, 25, False),
        (4, 0, 0, False),
    ],
)
def test_how_many_may_be_out(servers: int, out: int, others: int, allowed: bool) -> None:
    """At most half, one of two or three, and never the last that could serve."""
    assert may_eject(servers, out, others) is allowed


GOOD = (0, 0)


@pytest.mark.parametrize(
    ("mine", "others", "verdict"),
    [
        ((10, 5), [GOOD], True),
        ((5, 5), [GOOD], True),
        ((4, 4), [GOOD], False),  # too few to be a share
        ((11, 5), [GOOD], False),
        ((40, 20), [GOOD, GOOD], True),
        ((10, 6), [(20, 6)], False),  # they all fail
        ((10, 6), [(20, 4)], True),
        ((10, 6), [(40, 24), GOOD, GOOD, GOOD], False),
        ((10, 6), [], True),
    ],
)
def test_a_share_of_the_last_outcomes(
    mine: tuple[int, int], others: list[tuple[int, int]], verdict: bool
) -> None:
    """Half of them, five at least, and three times the share of the others."""
    assert is_failing_often(50, mine, others) is verdict
    assert not is_failing_often(0, mine, others)


@given(st.integers(1, 200), st.integers(0, 200))
def test_never_all_of_them(servers: int, failing: int) -> None:
    """However many fail, at least half serve."""
    out = 0
    for _ in range(failing):
        out += may_eject(servers, out, servers - out - 1)
    assert servers - out >= servers / 2
    assert out >= 1 or servers == 1 or not failing


def test_an_ejection_grows_to_a_cap() -> None:
    """By its number; a cap below the base does not shorten it."""
    assert [ejection_ms(times, 5.0, 12.0) for times in (1, 2, 3, 4)] == [5000, 10000, 12000, 12000]
    assert ejection_ms(1, 5.0, 1.0) == 5000


def test_a_good_time_in_service_is_remembered_in_its_favour() -> None:
    """One ejection less for each base time."""
    assert times_ejected(3, 4_999, 5.0) == 3
    assert times_ejected(3, 10_000, 5.0) == 1
    assert times_ejected(3, 10**9, 5.0) == 0


# --- the process that takes them -----------------------------------------------------------------


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


class House:
    """An ejector over a table in which two workers write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, **settings: Any) -> None:
        self.table = Table.create(rows=16, slots=4, blob_bytes=20_000)
        self.events: list[tuple[str, str, str]] = []
        self.now_ms = 50_000
        self.hastened: list[int] = []
        self.wall_ms = WALL_MS
        monkeypatch.setattr(log, "event", self._event)
        monkeypatch.setattr(ejectors.time, "time_ns", lambda: self.wall_ms * 1_000_000)
        self.ejector = Ejector(self.table, self.hastened.append, SlowStart(self.table))
        self.adopt(count, **settings)

    def _event(self, logger: str, level: str, message: str, **fields: Any) -> None:
        assert logger == "health"
        port = fields["backend"].rpartition(":")[2]
        self.events.append((message, port, fields["reason"]))

    def adopt(self, count: int, **settings: Any) -> None:
        document = {
            "servers": [url(port) for port in range(1, count + 1)],
            "health_check": False,
            "outlier_detection": {"ejection_time": 5},
        }
        config = configuration.parse(json.dumps({**document, **settings}))
        identities = [identity_of(server.url) for server in config.servers]
        publication.publish(
            self.table, publication.propose(self.table, configuration.to_json(config), identities)
        )
        for port in range(1, count + 1):
            self.table.cells[self.at(port) + STATE] = HEALTHY
        self.ejector.adopt(config)
        self.tick()

    def row(self, port: int) -> int:
        return self.table.row_index()[identity_of(url(port))]

    def at(self, port: int) -> int:
        return self.table.server(self.row(port))

    def state(self, port: int) -> int:
        return self.table.cells[self.at(port) + EJECTION]

    def fail(self, port: int, streak: int = CONNECT_STREAK, count: int = 1, slot: int = 1) -> None:
        """What app.worker.balance.pool writes for failures."""
        cells, at = self.table.slot(slot), counters_at(self.row(port))
        for counter in (at + streak, at + FAILURES, TROUBLES):
            cells[counter] += count
        self.tick()

    def alternate(self, port: int, count: int, slot: int = 1) -> None:
        """A failure and a good answer, again and again."""
        at = counters_at(self.row(port)) + OUTCOMES
        cells, stamp = self.table.slot(slot), self.table.cells[self.at(port) + EJECTION_MS]
        for number in range(count):
            is_bad = number % 2 == 0
            cells[at] = outcome_bits.add(cells[at], stamp, is_bad)
            (self.fail if is_bad else self.answer)(port, slot=slot)

    def answer(self, port: int, slot: int = 1) -> None:
        """What a pool writes for a good answer of a backend that was in trouble or on trial."""
        cells, at = self.table.slot(slot), counters_at(self.row(port))
        for streak in STREAKS:
            cells[at + streak] = 0
        cells[at + RECOVERIES] += 1
        cells[TROUBLES] += 1
        self.tick()

    def tick(self, seconds: float = 0.05) -> None:
        self.now_ms += int(seconds * 1000)
        self.wall_ms += int(seconds * 1000)
        self.ejector.tick(self.now_ms)

    def check(self, port: int, verdict: int = HEALTHY, turned: bool = False) -> None:
        """What the checker writes."""
        self.table.cells[self.at(port) + CHECKED_MS] = self.wall_ms
        self.table.cells[self.at(port) + STATE] = verdict
        if turned:
            self.table.cells[self.at(port) + CHANGED_MS] = self.wall_ms
        self.tick()


def test_ejects_at_the_limit_tells_the_workers_and_logs_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not before the limit, and further failures of requests that were on their way are no news."""
    house = House(monkeypatch, 2)
    house.fail(1, count=2)
    assert house.state(1) == TRUSTED
    before = house.table.cells[EPOCH]
    house.fail(1, slot=2)
    assert house.state(1) == EJECTED
    assert house.table.cells[EPOCH] != before
    assert house.hastened == [house.row(1)]
    house.fail(1, count=5)
    assert house.events == [("backend ejected", "1", "connect_failures")]


@pytest.mark.parametrize(
    ("streak", "count", "reason"),
    [(RESET_STREAK, 5, "resets"), (ERROR_STREAK, 5, "server_errors")],
)
def test_each_kind_has_its_limit_and_reason(
    monkeypatch: pytest.MonkeyPatch, streak: int, count: int, reason: str
) -> None:
    """As configured by default."""
    house = House(monkeypatch, 2)
    house.fail(1, streak, count - 1)
    assert house.state(1) == TRUSTED
    house.fail(1, streak)
    assert house.events == [("backend ejected", "1", reason)]


def test_every_second_answer_wrong_is_no_streak_and_ejects_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After five failures, those of all workers together; a single good answer does not end its trial."""
    house = House(monkeypatch, 3)
    house.alternate(1, 5, slot=1)
    assert house.state(1) == TRUSTED
    house.alternate(1, 4, slot=2)
    assert house.events == [("backend ejected", "1", "failure_rate")]
    house.tick(5)
    assert house.state(1) == TRIAL
    for _ in range(2):
        house.answer(1)
        assert house.state(1) == TRIAL
    house.answer(1)
    assert house.state(1) == TRUSTED


def test_where_all_fail_alike_nobody_is_ejected_for_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is what they are asked, or what they all depend on."""
    house = House(monkeypatch, 3)
    for _ in range(10):
        for port in (1, 2, 3):
            house.alternate(port, 2)
    assert house.events == []


def test_servers_that_checks_found_ill_are_no_loss_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are dead: of the two that are left one may still be set aside, never both."""
    house = House(monkeypatch, 4)
    for port in (1, 2):
        house.fail(port, count=3)
        house.table.cells[house.at(port) + STATE] = UNHEALTHY
    house.fail(3, ERROR_STREAK, 9)
    assert house.state(3) == EJECTED
    house.fail(4, ERROR_STREAK, 9)
    assert house.state(4) == TRUSTED


def test_never_the_last_one_and_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of four fail: two stay, come what may."""
    house = House(monkeypatch, 4)
    for port in range(1, 5):
        house.fail(port, count=50)
    assert [house.state(port) for port in range(1, 5)] == [EJECTED, EJECTED, TRUSTED, TRUSTED]
    lonely = House(monkeypatch, 1)
    lonely.fail(1, count=50)
    assert lonely.state(1) == TRUSTED


def test_those_that_are_down_anyway_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are ejected and then found ill by the checks: of the other two one may still be ejected,
    the last one may not."""
    house = House(monkeypatch, 4)
    for port in (1, 2):
        house.fail(port, count=50)
    house.fail(3, count=50)
    assert house.state(3) == TRUSTED
    for port in (1, 2):
        house.check(port, UNHEALTHY)
    house.fail(3)
    house.fail(4, count=50)
    assert [house.state(port) for port in (3, 4)] == [EJECTED, TRUSTED]


def test_not_while_the_others_are_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checks found counts: the failing one may be the last that serves at all."""
    house = House(monkeypatch, 3)
    for port in (2, 3):
        house.table.cells[house.at(port) + STATE] = UNHEALTHY
    house.fail(1, count=50)
    assert house.state(1) == TRUSTED


def test_after_its_time_one_request_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good answer brings it back."""
    house = House(monkeypatch, 2)
    house.fail(1, count=3)
    house.tick(4.9)
    assert house.state(1) == EJECTED
    house.tick(0.1)
    assert house.state(1) == TRIAL
    house.answer(1)
    assert house.state(1) == TRUSTED
    assert house.events[1:] == [
        ("backend on trial", "1", "ejection_over"),
        ("backend returned", "1", "trial_passed"),
    ]


def test_who_returns_starts_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its good answer on, not while it is on trial; workers see the one with the other."""
    house = House(monkeypatch, 2)
    begun: list[int] = []
    monkeypatch.setattr(SlowStart, "begin", lambda _, row: begun.append(house.state(row + 1)))
    house.fail(1, count=3)
    house.tick(5)
    assert begun == []
    house.answer(1)
    assert begun == [TRIAL]


def test_a_failed_trial_ejects_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any one failure, and twice the time."""
    house = House(monkeypatch, 2)
    house.fail(1, count=3)
    house.tick(5)
    house.fail(1, RESET_STREAK)
    assert house.state(1) == EJECTED
    assert house.events[-1] == ("backend ejected", "1", "trial_failed")
    house.tick(9.9)
    assert house.state(1) == EJECTED
    house.tick(0.2)
    assert house.state(1) == TRIAL


def test_old_failures_do_not_count_after_the_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that took no part in the trial still has its streak."""
    house = House(monkeypatch, 2)
    house.fail(1, count=2, slot=2)
    house.fail(1, count=1, slot=1)
    house.tick(5)
    house.answer(1, slot=1)
    house.fail(1, slot=2)
    assert house.state(1) == TRUSTED


def test_with_checks_one_must_pass_before_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes; for the right to be asked again time alone is not enough."""
    house = House(monkeypatch, 2, health_check={})
    house.fail(1, ERROR_STREAK, 5)
    house.tick(60)
    assert house.state(1) == EJECTED
    house.check(1)
    assert house.state(1) == TRIAL


def test_a_passed_check_shows_at_once_that_it_can_be_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for the time to be over; answers of 500 are another matter."""
    house = House(monkeypatch, 4, health_check={})
    house.fail(1, CONNECT_STREAK, 3)
    house.fail(2, ERROR_STREAK, 5)
    house.check(1)
    house.check(2)
    assert (house.state(1), house.state(2)) == (TRIAL, EJECTED)


def test_one_that_checks_found_ill_and_well_again_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it was ejected for, it is not what it was."""
    house = House(monkeypatch, 2, health_check={})
    house.fail(1, ERROR_STREAK, 5)
    house.check(1, UNHEALTHY, turned=True)
    assert house.state(1) == EJECTED
    house.check(1, HEALTHY, turned=True)
    assert house.state(1) == TRIAL


def test_switched_off_by_a_reload_all_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is out comes back, and nobody goes."""
    house = House(monkeypatch, 2)
    house.fail(1, count=3)
    house.adopt(2, outlier_detection=False)
    assert house.state(1) == TRUSTED
    house.fail(1, count=50)
    assert house.state(1) == TRUSTED


def test_a_successor_goes_on_where_the_former_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control process died: who is out stays out, and comes back through a trial."""
    house = House(monkeypatch, 2)
    house.fail(1, count=3)
    house.ejector = Ejector(house.table, house.hastened.append, SlowStart(house.table))
    house.adopt(2)
    assert house.state(1) == EJECTED
    house.tick(5)
    assert house.state(1) == TRIAL


def test_without_trouble_a_tick_reads_one_cell_of_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty times a second, with ten thousand servers: nothing of them is looked at."""
    house = House(monkeypatch, 4)
    monkeypatch.setattr(house.ejector, "_judge", pytest.fail)
    monkeypatch.setattr(house.ejector, "_is_over", pytest.fail)
    house.tick()
