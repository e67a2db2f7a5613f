"""Stall detection: the rule, the process that applies it on a real table, and what workers tell it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app import config as configuration
from app.control.health.probe import Outcome
from app.control.health.slow_start import SlowStart
from app.control.outliers.ejector import Ejector
from app.control.outliers.stall_detector import ASK_AGAIN_MS, BELIEVED_MS, StallDetector
from app.control.outliers.stall_rules import TIMES_UNCONFIRMED, Silence, limit_ms, together
from app.errors import Stalled
from app.shared import publication
from app.shared.layout import (
    ANSWERED_MS,
    EJECTED,
    EJECTION,
    FAILURES,
    HEALTHY,
    HEARD_MS,
    LOOKED_MS,
    OLDEST_MS,
    RESET_STREAK,
    STALLED,
    STATE,
    SUSPECTS,
    TRIAL,
    TROUBLES,
    TRUSTED,
    UNANSWERED,
    USUAL_MS,
    counters_at,
)
from app.shared.table import Table, identity_of
from app.telemetry import log
from app.worker import stalls
from app.worker.balance.pool import Pool
from app.worker.stalls import KNOWN_ANSWERS, LATE_SECONDS, StallWatch
from app.worker.upstream.connections import ConnectionCache

# --- the rule ------------------------------------------------------------------------------------


def test_an_answer_to_any_worker_ends_the_silence() -> None:
    """Whoever waits for however long."""
    one = Silence(waiting=5, oldest_ms=1_000, heard_ms=900, usual_ms=20)
    two = Silence(waiting=0, oldest_ms=0, heard_ms=4_990, usual_ms=70)
    assert together([one]).lasts_ms(5_000) == 4_000
    assert together([one, two]) == Silence(5, 1_000, 4_990, 70)
    assert together([one, two]).lasts_ms(5_000) == 10


def test_where_nobody_waits_there_is_no_silence() -> None:
    """A server that is asked nothing says nothing."""
    assert Silence(heard_ms=1).lasts_ms(10**9) == 0
    assert together([]) == Silence()


def test_the_limit_goes_by_what_is_usual() -> None:
    """At least what is configured, well beyond the slowest answer, nothing while that is unknown."""
    assert limit_ms(5, 0.3, can_ask=True) == 300
    assert limit_ms(1_000, 0.3, can_ask=True) == 4_000
    assert limit_ms(5, 0.3, can_ask=False) == 300 * TIMES_UNCONFIRMED
    assert limit_ms(0, 0.3, can_ask=True) == 0


# --- the process that applies it -----------------------------------------------------------------

ANSWER = Outcome(True, "ok", 200)
TIMEOUT = Outcome(False, "timeout")


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


class House:
    """A staller over a table in which two workers write; questions are answered when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 3, **settings: Any) -> None:
        self.table = Table.create(rows=16, slots=4, blob_bytes=20_000)
        self.events: list[tuple[str, str, str]] = []
        self.figures: dict[str, Any] = {}
        self.now_ms = 50_000
        self.hastened: list[int] = []
        self.can_ask = True
        self.questions: list[tuple[Any, Any]] = []
        monkeypatch.setattr(log, "event", self._event)
        self.ejector = Ejector(self.table, self.hastened.append, SlowStart(self.table))
        self.staller = self.successor()
        self.adopt(count, **settings)

    def successor(self) -> StallDetector:
        def ask(row: int) -> Callable[[], Outcome] | None:
            return (lambda: ANSWER) if self.can_ask else None

        def spawn(put: Any, suspect: Any, question: Any) -> None:
            self.questions.append((suspect, question))

        return StallDetector(self.table, self.ejector, ask, spawn)

    def _event(self, logger: str, level: str, message: str, **fields: Any) -> None:
        assert logger == "health"
        port = fields.pop("backend").rpartition(":")[2]
        self.events.append((message, port, fields.pop("reason")))
        self.figures = fields

    def adopt(self, count: int, **settings: Any) -> None:
        servers = [url(port) for port in range(1, count + 1)]
        document = {"servers": servers, "outlier_detection": {"ejection_time": 5, **settings}}
        if settings.get("off"):
            document["outlier_detection"] = False
        config = configuration.parse(json.dumps(document))
        identities = [identity_of(server.url) for server in config.servers]
        publication.publish(
            self.table, publication.propose(self.table, configuration.to_json(config), identities)
        )
        for port in range(1, count + 1):
            self.table.cells[self.at(port) + STATE] = HEALTHY
        self.ejector.adopt(config)
        self.staller.adopt(config)

    def row(self, port: int) -> int:
        return self.table.row_index()[identity_of(url(port))]

    def at(self, port: int) -> int:
        return self.table.server(self.row(port))

    def state(self, port: int) -> int:
        return self.table.cells[self.at(port) + EJECTION]

    def worker(self, slot: int = 1, answered: int = 0) -> None:
        """A worker looks: it runs, and some server has just answered it, if ``answered`` is not given."""
        cells = self.table.slot(slot)
        cells[LOOKED_MS] = self.now_ms
        cells[ANSWERED_MS] = answered or self.now_ms

    def waits(
        self,
        port: int,
        waiting: int = 3,
        since: int = 0,
        heard: int = 0,
        usual: int = 5,
        slot: int = 1,
    ) -> None:
        """What app.worker.stalls writes; ``since`` and ``heard`` as milliseconds ago."""
        cells, at = self.table.slot(slot), counters_at(self.row(port))
        cells[at + UNANSWERED] = waiting
        cells[at + OLDEST_MS] = self.now_ms - since
        cells[at + HEARD_MS] = self.now_ms - heard
        cells[at + USUAL_MS] = usual
        cells[SUSPECTS] = 1

    def tick(self, ms: int = 50, answered: int = 0) -> None:
        self.now_ms += ms
        for slot in (1, 2):
            self.worker(slot, answered)
        self.staller.tick(self.now_ms)

    def answer(self, outcome: Outcome = ANSWER) -> None:
        """The questions that are open end like this."""
        for suspect, _ in self.questions:
            suspect.outcome = outcome
            suspect.is_asking = False
        self.questions.clear()

    def silence(self, port: int, ms: int, **more: Any) -> None:
        """A server that has been silent for so long, looked at all the time."""
        self.waits(port, since=0, heard=1, **more)
        for _ in range(ms // 50):
            self.tick()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_a_silent_server_is_asked_at_half_the_limit_and_stalled_at_the_limit(house: House) -> None:
    """It leaves the question unanswered too; the log has the figures."""
    house.silence(1, 100)
    assert house.questions == []
    house.silence(1, 250)
    assert len(house.questions) == 1
    assert house.state(1) == TRUSTED
    house.tick()
    assert house.state(1) == STALLED
    assert house.events == [("backend ejected", "1", "stalled")]
    assert house.figures == {"waiting": 3, "silent_ms": 300, "usual_ms": 5}


def test_one_that_answers_our_question_is_not_stalled(house: House) -> None:
    """Long polls: every request waits, the server is well. It is asked again, not ten times a second."""
    house.silence(1, 150)
    asked = 0
    for _ in range(100):
        asked += len(house.questions)
        house.answer()
        house.tick()
    assert house.events == []
    assert 100 * 50 / (ASK_AGAIN_MS + 150) <= asked <= 100 * 50 / ASK_AGAIN_MS + 1


def test_one_that_fell_silent_after_its_answer_is_stalled_later(house: House) -> None:
    """An answer to our question counts for half the limit, no longer."""
    house.silence(1, 250)
    house.answer()
    house.tick(50)
    house.tick(200)
    assert house.state(1) == TRUSTED
    house.tick(150)
    assert house.state(1) == STALLED


def test_questions_that_time_out_are_silence(house: House) -> None:
    """A check's timeout may be shorter than the limit."""
    house.waits(1, since=0, heard=1, usual=500)
    for _ in range(50):
        house.tick()
        house.answer(TIMEOUT)
    assert house.state(1) == STALLED


def test_a_refusal_is_not_silence(house: House) -> None:
    """That one is dead: other rules find it."""
    for _ in range(20):
        house.silence(1, 50)
        house.answer(Outcome(False, "connection_refused"))
    house.waits(1, since=2_000, heard=2_000)
    for _ in range(20):
        house.tick()
        house.answer(Outcome(False, "connection_refused"))
    assert house.state(1) == TRUSTED


@pytest.mark.parametrize(
    "lacking",
    [
        {"waiting": 2},
        {"usual": 0},
        {"usual": 200},
    ],
    ids=["too few wait", "nothing is known", "usually slow"],
)
def test_what_is_no_stall(house: House, lacking: dict[str, int]) -> None:
    """Each condition alone prevents it."""
    house.silence(1, 600, **lacking)
    assert house.state(1) == TRUSTED


def test_requests_of_all_workers_count_together(house: House) -> None:
    """And an answer to one of them is an answer."""
    house.waits(1, waiting=1, since=0, heard=1, slot=1)
    house.waits(1, waiting=2, since=0, heard=1, slot=2, usual=0)
    for _ in range(6):
        house.tick()
    assert house.state(1) == STALLED

    house.waits(2, waiting=5, since=0, heard=1, slot=1)
    for _ in range(20):
        house.waits(2, waiting=5, heard=0, slot=2)
        house.tick()
    assert house.state(2) == TRUSTED


def test_while_nobody_answers_nobody_is_stalled(house: House) -> None:
    """All depend on something that hangs, or our network does."""
    before = house.now_ms - 10
    house.waits(1, since=0, heard=1)
    for _ in range(40):
        house.tick(answered=before)
    assert house.state(1) == TRUSTED
    assert house.questions == []


def test_a_worker_that_is_stopped_itself_is_not_believed(house: House) -> None:
    """What it last said is old."""
    house.waits(1, since=0, heard=1)
    house.worker()
    house.now_ms += BELIEVED_MS + 1
    for _ in range(20):
        house.now_ms += 50
        house.worker(2)
        house.staller.tick(house.now_ms)
    assert house.state(1) == TRUSTED


def test_nor_does_a_stopped_worker_add_to_what_others_say(house: House) -> None:
    """One waits in the worker that runs; those of the other have perhaps been answered long ago."""
    house.waits(1, waiting=9, since=0, heard=1, slot=1)
    house.worker(1)
    house.now_ms += BELIEVED_MS
    house.waits(1, waiting=1, since=0, heard=1, slot=2)
    for _ in range(40):
        house.now_ms += 50
        house.worker(2)
        house.staller.tick(house.now_ms)
    assert house.state(1) == TRUSTED


def test_never_the_last_and_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of any ejection."""
    lonely = House(monkeypatch, 1)
    lonely.silence(1, 600)
    assert lonely.state(1) == TRUSTED
    house = House(monkeypatch, 4)
    for port in range(1, 5):
        house.waits(port, since=0, heard=1)
    for _ in range(20):
        house.tick()
    assert [house.state(port) for port in range(1, 5)].count(STALLED) == 2


def test_the_first_answer_to_a_request_brings_it_back(house: House) -> None:
    """At once, whole, and what failed meanwhile is forgotten."""
    house.silence(1, 300)
    assert house.state(1) == STALLED
    cells, at = house.table.slot(1), counters_at(house.row(1))
    for counter in (at + RESET_STREAK, at + FAILURES, TROUBLES):
        cells[counter] += 9
    house.ejector.tick(house.now_ms)
    house.tick(1_000)
    assert house.state(1) == STALLED
    cells[at + HEARD_MS] = house.now_ms
    house.tick()
    assert house.state(1) == TRUSTED
    for counter in (at + RESET_STREAK, at + FAILURES, TROUBLES):
        cells[counter] += 1
    house.ejector.tick(house.now_ms)
    assert house.state(1) == TRUSTED
    assert house.events[1:] == [("backend returned", "1", "answered")]


def test_an_answer_to_our_question_brings_it_back(house: House) -> None:
    """Whatever it says: whether that is well or ill is for the checks to find."""
    house.silence(1, 300)
    house.tick(5_000)
    house.answer(TIMEOUT)
    house.tick()
    assert house.state(1) == STALLED
    house.tick(ASK_AGAIN_MS)
    assert len(house.questions) == 1
    house.answer(Outcome(False, "status_503", 503))
    house.tick()
    assert house.state(1) == TRUSTED


def test_without_questions_silence_must_last_and_a_trial_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No checks, or one that a hung process passes: three times the silence, then one request at a time."""
    house = House(monkeypatch)
    house.can_ask = False
    house.silence(1, 300 * TIMES_UNCONFIRMED - 50)
    assert house.state(1) == TRUSTED
    house.tick()
    assert house.state(1) == STALLED
    house.tick(4_900)
    assert house.state(1) == STALLED
    house.waits(1, waiting=0, since=0, heard=9_000)
    house.tick(50)
    house.tick(50)
    assert house.state(1) == TRIAL
    house.waits(1, waiting=1, since=0, heard=9_000)
    for _ in range(18):
        house.tick()
    assert house.state(1) == STALLED


def test_who_is_out_for_other_reasons_stays_so(house: House) -> None:
    """Its silence is no news."""
    house.table.cells[house.at(1) + EJECTION] = EJECTED
    house.silence(1, 600)
    assert house.state(1) == EJECTED


def test_a_successor_takes_back_what_the_former_set_aside(house: House) -> None:
    """The control process was killed meanwhile."""
    house.silence(1, 300)
    house.staller = house.successor()
    house.adopt(3)
    house.tick()
    house.answer()
    house.tick()
    assert house.state(1) == TRUSTED


@pytest.mark.parametrize("settings", [{"stall_after": 0}, {"off": True}])
def test_switched_off_by_a_reload_it_is_taken_back(house: House, settings: dict[str, Any]) -> None:
    """And no other is set aside."""
    house.silence(1, 300)
    house.adopt(3, **settings)
    assert house.state(1) == TRUSTED
    house.silence(2, 900)
    assert house.state(2) == TRUSTED


def test_while_nobody_waits_no_server_is_looked_at(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times a second, with ten thousand servers."""
    monkeypatch.setattr(house.staller, "_look", pytest.fail)
    house.tick()


# --- what workers tell ---------------------------------------------------------------------------


class Request:
    """Of an upstream request what app.worker.stalls reads."""

    def __init__(self, connections: ConnectionCache, sent_at: float, may_move: bool = True) -> None:
        self.connections = connections
        self.sent_at = sent_at
        self.may_move = may_move


class Deadline:
    """Takes the place of a deadline and of its greenlet."""

    def __init__(self, request: Request) -> None:
        self.request: Request | None = request
        self.thrown: Exception | None = None
        self.greenlet = self

    def throw(self, error: Exception) -> None:
        self.thrown, self.request = error, None


class Desk:
    """A StallWatch over a pool of three backends."""

    def __init__(self) -> None:
        self.table = Table.create(rows=8, slots=2, blob_bytes=20_000)
        config = configuration.parse(json.dumps({"servers": [url(port) for port in (1, 2, 3)]}))
        identities = [identity_of(server.url) for server in config.servers]
        publication.publish(
            self.table, publication.propose(self.table, configuration.to_json(config), identities)
        )
        for row in range(3):
            self.table.cells[self.table.server(row) + STATE] = HEALTHY
        self.pool = Pool(
            self.table, 1, lambda s: (ConnectionCache(s.scheme, s.host, s.port, 0), None), print
        )
        self.deadlines: list[Deadline] = []
        assert config.outlier_detection is not None
        self.waits = StallWatch(
            self.pool, self, config.outlier_detection, lambda request: request.may_move
        )
        self.now = 1_000.0
        self.look(0.1)

    def unanswered(self) -> list[Deadline]:
        return [one for one in self.deadlines if one.request is not None]

    def throw(self, deadline: Deadline, error: Exception) -> None:
        deadline.throw(error)

    def cache(self, number: int = 0) -> ConnectionCache:
        connections: ConnectionCache = self.pool.backends[number].connections
        return connections

    def wait(self, number: int = 0, may_move: bool = True) -> Deadline:
        self.deadlines.append(Deadline(Request(self.cache(number), self.now, may_move)))
        return self.deadlines[-1]

    def answers(self, seconds: float, count: int = 1, number: int = 0) -> None:
        backend = self.pool.backends[number]
        self.pool.cells[backend.requests] += count
        self.cache(number).heard_at = self.now
        self.cache(number).slowest = seconds

    def look(self, seconds: float = 0.1, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.waits.look(self.now)

    def cell(self, cell: int, number: int = 0) -> int:
        at = counters_at(self.pool.backends[number].row)
        return self.pool.cells[at + cell]

    def stall(self, number: int = 0) -> None:
        row = self.pool.backends[number].row
        self.table.cells[self.table.server(row) + EJECTION] = STALLED
        self.table.bump()


def test_a_worker_tells_what_is_usual_once_it_knows() -> None:
    """The slowest of late, and only after enough answers."""
    desk = Desk()
    desk.answers(0.02, KNOWN_ANSWERS - 1)
    desk.look()
    assert desk.cell(USUAL_MS) == 0
    desk.answers(0.004)
    desk.look()
    assert desk.cell(USUAL_MS) == 20
    assert desk.cell(HEARD_MS) == pytest.approx(desk.now * 1000 - 100, abs=1)
    assert desk.pool.cells[ANSWERED_MS] == desk.cell(HEARD_MS)
    desk.look(60.0)
    desk.answers(0.004)
    desk.look()
    assert desk.cell(USUAL_MS) == 8  # 20 ms, forgotten to a third


def test_a_worker_tells_for_whom_it_waits_too_long() -> None:
    """And takes it back when they have gone."""
    desk = Desk()
    desk.answers(0.004, KNOWN_ANSWERS)
    waiting = [desk.wait(), desk.wait()]
    desk.look()
    assert (desk.cell(UNANSWERED), desk.pool.cells[SUSPECTS]) == (0, 0)
    desk.look()
    assert (desk.cell(UNANSWERED), desk.pool.cells[SUSPECTS]) == (2, 1)
    assert desk.cell(OLDEST_MS) == pytest.approx(desk.now * 1000 - 200, abs=1)
    assert desk.pool.cells[LOOKED_MS] == int(desk.now * 1000)
    for deadline in waiting:
        deadline.request = None
    desk.look()
    assert (desk.cell(UNANSWERED), desk.pool.cells[SUSPECTS]) == (0, 0)


def test_what_is_usual_is_not_suspicious() -> None:
    """Half a second where half a second is what it takes."""
    desk = Desk()
    desk.answers(0.5, KNOWN_ANSWERS)
    desk.wait()
    desk.look(times=9)
    assert desk.pool.cells[SUSPECTS] == 0
    desk.look(times=2)
    assert desk.pool.cells[SUSPECTS] == 1


def test_a_worker_that_was_held_up_begins_anew() -> None:
    """Answers may lie in its sockets unread."""
    desk = Desk()
    desk.answers(0.004, KNOWN_ANSWERS)
    desk.wait()
    desk.look(LATE_SECONDS + 1)
    assert desk.pool.cells[SUSPECTS] == 0
    desk.look(times=2)
    assert desk.pool.cells[SUSPECTS] == 1


def test_waits_on_a_stalled_server_end_where_they_may() -> None:
    """Those that may go elsewhere, and only those for that server."""
    desk = Desk()
    moves, stays, other = desk.wait(), desk.wait(may_move=False), desk.wait(1)
    desk.stall()
    desk.look()
    assert isinstance(moves.thrown, Stalled)
    assert (moves.thrown.sent, moves.thrown.status) == (True, 504)
    assert (stays.thrown, other.thrown) == (None, None)


def test_without_another_server_they_stay() -> None:
    """A stalled server serves when all others are ill: better to wait than to be told no."""
    desk = Desk()
    for row in (1, 2):
        desk.table.cells[desk.table.server(row) + STATE] = 0
    waiting = desk.wait()
    desk.stall()
    desk.look()
    assert waiting.thrown is None


def test_what_waited_out_a_stall_is_not_usual() -> None:
    """Else the next stall would be found so much later."""
    desk = Desk()
    desk.answers(0.004, KNOWN_ANSWERS)
    desk.look()
    desk.stall()
    desk.answers(8.0)
    desk.look()
    assert desk.cell(USUAL_MS) == 4
    assert desk.cell(HEARD_MS) == pytest.approx(desk.now * 1000 - 100, abs=1)


def test_a_wait_that_ended_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet that is thrown into runs, and may answer for others."""
    desk = Desk()
    first, second = desk.wait(), desk.wait()

    def throw(error: Exception) -> None:
        first.request = second.request = None
        first.thrown = error

    monkeypatch.setattr(first, "throw", throw)
    desk.stall()
    desk.look()
    assert first.thrown is not None
    assert second.thrown is None
    assert pytest.approx(0.1) == stalls.TICK
