"""The stall detector: whom it asks, sets aside and takes back, by what workers wait for."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.world import World

from app.control.health.checker import Question
from app.control.health.probe import CheckResult
from app.control.health.slow_start import SlowStart
from app.control.outliers.ejector import Ejector
from app.control.outliers.stall_detector import (
    ASK_AGAIN_MS,
    BELIEVED_MS,
    FORGET_PAUSE_MS,
    StallDetector,
)
from app.control.outliers.stall_rules import LONGEST_PAUSE_MS, TIMES_UNCONFIRMED
from app.shared.layout import (
    ANSWERED_MS,
    EJECTED,
    EJECTION,
    FAILURES,
    HEARD_MS,
    LOOKED_MS,
    OLDEST_MS,
    RESET_STREAK,
    STALLED,
    SUSPECTS,
    TRIAL,
    TROUBLES,
    TRUSTED,
    UNANSWERED,
    USUAL_MS,
    counters_at,
)

ANSWER = CheckResult(True, "ok", 200)
TIMEOUT = CheckResult(False, "timeout")


class DetectorBench(World):
    """A detector, and two workers that wait; questions are answered when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 3, **settings: Any) -> None:
        super().__init__(monkeypatch)
        self.now_ms = 50_000
        self.count = count
        self.can_ask = True
        self.usual_check_ms = 0.0
        self.questions: list[tuple[Any, Any]] = []
        self.ejector = Ejector(self.table, lambda row: None, SlowStart(self.table))
        self.detector = self.successor()
        self.adopt(count, **settings)

    def successor(self) -> StallDetector:
        """The detector of a new control process."""

        def ask(row: int) -> Question | None:
            return Question(lambda: ANSWER, lambda: self.usual_check_ms) if self.can_ask else None

        def spawn(put: Any, suspect: Any, question: Any) -> None:
            self.questions.append((suspect, question))

        return StallDetector(self.table, self.ejector, ask, spawn)

    @property
    def verdicts(self) -> list[tuple[Any, ...]]:
        """What was logged: what happened, to which server, why."""
        return self.told("message", "backend", "reason")

    def adopt(self, count: int, **settings: Any) -> None:
        self.count = count
        detection = not settings.get("off") and {"ejection_time": 5, **settings}
        config = self.publish(*range(1, count + 1), outlier_detection=detection)
        self.ejector.adopt(config)
        self.detector.adopt(config)

    def worker(self, slot: int = 1, answered: int = 0) -> None:
        """A worker looks: it runs, and the last server has just answered it, if ``answered`` is not given."""
        cells, at = self.counters(self.count, slot)
        cells[LOOKED_MS] = self.now_ms
        cells[ANSWERED_MS] = cells[at + HEARD_MS] = answered or self.now_ms

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
        cells, at = self.counters(port, slot)
        cells[at + UNANSWERED] = waiting
        cells[at + OLDEST_MS] = self.now_ms - since
        cells[at + HEARD_MS] = self.now_ms - heard
        cells[at + USUAL_MS] = usual
        cells[SUSPECTS] = 1

    def tick(self, ms: int = 50, answered: int = 0) -> None:
        self.now_ms += ms
        for slot in (1, 2):
            self.worker(slot, answered)
        self.detector.tick(self.now_ms)

    def answer(self, result: CheckResult = ANSWER) -> None:
        """The questions that are open end like this."""
        for suspect, _ in self.questions:
            suspect.result = result
            suspect.is_asking = False
        self.questions.clear()

    def silence(self, port: int, ms: int, **more: Any) -> None:
        """A server that has been silent for so long, looked at all the time."""
        self.waits(port, since=0, heard=1, **more)
        for _ in range(ms // 50):
            self.tick()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> DetectorBench:
    return DetectorBench(monkeypatch)


def test_a_silent_server_is_asked_at_half_the_limit_and_stalled_at_the_limit(
    bench: DetectorBench,
) -> None:
    """It leaves the question unanswered too; the log has the figures."""
    bench.silence(1, 100)
    assert bench.questions == []
    bench.silence(1, 250)
    assert len(bench.questions) == 1
    assert bench.ejection(1) == TRUSTED
    bench.tick()
    assert bench.ejection(1) == STALLED
    assert bench.verdicts == [("backend ejected", "1", "stalled")]
    assert bench.told("waiting", "silent_ms", "usual_ms") == [(3, 300, 5)]


def test_one_that_answers_our_question_is_not_stalled(bench: DetectorBench) -> None:
    """Long polls: every request waits, the server is well. It is asked again, not ten times a second."""
    bench.silence(1, 150)
    asked = 0
    for _ in range(100):
        asked += len(bench.questions)
        bench.answer()
        bench.tick()
    assert bench.verdicts == []
    assert 100 * 50 / (ASK_AGAIN_MS + 150) <= asked <= 100 * 50 / ASK_AGAIN_MS + 1


def test_one_that_fell_silent_after_its_answer_is_stalled_later(bench: DetectorBench) -> None:
    """An answer to our question counts for half the limit, no longer."""
    bench.silence(1, 250)
    bench.answer()
    bench.tick(50)
    bench.tick(200)
    assert bench.ejection(1) == TRUSTED
    bench.tick(150)
    assert bench.ejection(1) == STALLED


def test_questions_that_time_out_are_silence(bench: DetectorBench) -> None:
    """A check's timeout may be shorter than the limit."""
    bench.waits(1, since=0, heard=1, usual=500)
    for _ in range(50):
        bench.tick()
        bench.answer(TIMEOUT)
    assert bench.ejection(1) == STALLED


def test_checks_that_usually_take_long_must_go_unanswered_for_longer(
    bench: DetectorBench,
) -> None:
    """Half a second for a check that takes 200 ms in good health is no silence yet."""
    bench.usual_check_ms = 200.0
    bench.silence(1, 100 + 4 * 200)
    assert bench.ejection(1) == TRUSTED
    bench.tick()
    assert bench.ejection(1) == STALLED


def pause(bench: DetectorBench, port: int, ms: int) -> None:
    """A server stands still for so long, and answers what has waited."""
    bench.silence(port, ms)
    bench.answer()
    bench.tick()
    bench.waits(port, waiting=0)


def test_a_pause_is_waited_out_once_one_is_known(bench: DetectorBench) -> None:
    """Garbage collections: the first of any server costs something, none that is hardly longer does."""
    pause(bench, 1, 500)
    assert len(bench.verdicts) == 2
    for port, ms in ((2, 500), (1, 900), (2, 800)):
        bench.tick(5_000)
        pause(bench, port, ms)
    assert len(bench.verdicts) == 2
    bench.silence(1, 1_200)
    assert bench.ejection(1) == STALLED


def test_a_pause_is_forgotten(bench: DetectorBench) -> None:
    """By and by, if none comes again."""
    pause(bench, 1, 500)
    bench.tick(2 * FORGET_PAUSE_MS)
    bench.silence(2, 400)
    assert bench.ejection(2) == STALLED


def test_a_hang_is_no_pause(bench: DetectorBench) -> None:
    """What waits it out waits in vain: the next is found as soon."""
    pause(bench, 1, LONGEST_PAUSE_MS + 100)
    bench.silence(2, 300)
    assert bench.ejection(2) == STALLED


def test_a_refusal_is_not_silence(bench: DetectorBench) -> None:
    """That one is dead: other rules find it."""
    for _ in range(20):
        bench.silence(1, 50)
        bench.answer(CheckResult(False, "connection_refused"))
    bench.waits(1, since=2_000, heard=2_000)
    for _ in range(20):
        bench.tick()
        bench.answer(CheckResult(False, "connection_refused"))
    assert bench.ejection(1) == TRUSTED


@pytest.mark.parametrize(
    "lacking",
    [
        {"waiting": 2},
        {"usual": 0},
        {"usual": 200},
    ],
    ids=["too few wait", "nothing is known", "usually slow"],
)
def test_what_is_no_stall(bench: DetectorBench, lacking: dict[str, int]) -> None:
    """Each condition alone prevents it."""
    bench.silence(1, 600, **lacking)
    assert bench.ejection(1) == TRUSTED


def test_requests_of_all_workers_count_together(bench: DetectorBench) -> None:
    """And an answer to one of them is an answer."""
    bench.waits(1, waiting=1, since=0, heard=1, slot=1)
    bench.waits(1, waiting=2, since=0, heard=1, slot=2, usual=0)
    for _ in range(6):
        bench.tick()
    assert bench.ejection(1) == STALLED

    bench.waits(2, waiting=5, since=0, heard=1, slot=1)
    for _ in range(20):
        bench.waits(2, waiting=5, heard=0, slot=2)
        bench.tick()
    assert bench.ejection(2) == TRUSTED


def test_while_nobody_answers_nobody_is_stalled(bench: DetectorBench) -> None:
    """All depend on something that hangs, or our network does."""
    before = bench.now_ms - 10
    bench.waits(1, since=0, heard=1)
    for _ in range(40):
        bench.tick(answered=before)
    assert bench.ejection(1) == TRUSTED
    assert bench.questions == []


def test_a_worker_that_is_stopped_itself_is_not_believed(bench: DetectorBench) -> None:
    """What it last said is old."""
    bench.waits(1, since=0, heard=1)
    bench.worker()
    bench.now_ms += BELIEVED_MS + 1
    for _ in range(20):
        bench.now_ms += 50
        bench.worker(2)
        bench.detector.tick(bench.now_ms)
    assert bench.ejection(1) == TRUSTED


def test_nor_does_a_stopped_worker_add_to_what_others_say(bench: DetectorBench) -> None:
    """One waits in the worker that runs; those of the other have perhaps been answered long ago."""
    bench.waits(1, waiting=9, since=0, heard=1, slot=1)
    bench.worker(1)
    bench.now_ms += BELIEVED_MS
    bench.waits(1, waiting=1, since=0, heard=1, slot=2)
    for _ in range(40):
        bench.now_ms += 50
        bench.worker(2)
        bench.detector.tick(bench.now_ms)
    assert bench.ejection(1) == TRUSTED


def test_never_the_last_and_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of any ejection."""
    lonely = DetectorBench(monkeypatch, 1)
    lonely.silence(1, 600)
    assert lonely.ejection(1) == TRUSTED
    bench = DetectorBench(monkeypatch, 5)
    for port in range(1, 5):
        bench.waits(port, since=0, heard=1)
    for _ in range(20):
        bench.tick()
    assert [bench.ejection(port) for port in range(1, 5)].count(STALLED) == 2


def test_servers_that_fall_silent_one_after_another_prove_nothing(bench: DetectorBench) -> None:
    """What they share has stopped: the last to answer answered later than the first, and is silent now."""
    for port in (1, 2, 3):
        bench.now_ms += 20
        bench.waits(port, since=0, heard=1)
    cells, at = bench.counters(3, 1)
    for _ in range(40):
        bench.now_ms += 50
        cells[LOOKED_MS] = bench.now_ms
        cells[ANSWERED_MS] = cells[at + HEARD_MS]
        bench.detector.tick(bench.now_ms)
    assert [bench.ejection(port) for port in (1, 2, 3)] == [TRUSTED] * 3


def test_the_first_answer_to_a_request_brings_it_back(bench: DetectorBench) -> None:
    """At once, whole, and what failed meanwhile is forgotten."""
    bench.silence(1, 300)
    assert bench.ejection(1) == STALLED
    cells, at = bench.table.slot(1), counters_at(bench.row(1))
    for counter in (at + RESET_STREAK, at + FAILURES, TROUBLES):
        cells[counter] += 9
    bench.ejector.tick(bench.now_ms)
    bench.tick(1_000)
    assert bench.ejection(1) == STALLED
    cells[at + HEARD_MS] = bench.now_ms
    bench.tick()
    assert bench.ejection(1) == TRUSTED
    for counter in (at + RESET_STREAK, at + FAILURES, TROUBLES):
        cells[counter] += 1
    bench.ejector.tick(bench.now_ms)
    assert bench.ejection(1) == TRUSTED
    assert bench.verdicts[1:] == [("backend returned", "1", "answered")]


def test_an_answer_to_our_question_brings_it_back(bench: DetectorBench) -> None:
    """Whatever it says: whether that is well or ill is for the checks to find."""
    bench.silence(1, 300)
    bench.tick(5_000)
    bench.answer(TIMEOUT)
    bench.tick()
    assert bench.ejection(1) == STALLED
    bench.tick(ASK_AGAIN_MS)
    assert len(bench.questions) == 1
    bench.answer(CheckResult(False, "status_503", 503))
    bench.tick()
    assert bench.ejection(1) == TRUSTED


def test_without_questions_silence_must_last_and_a_trial_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No checks, or one that a hung process passes: three times the silence, then one request at a time."""
    bench = DetectorBench(monkeypatch)
    bench.can_ask = False
    bench.silence(1, 300 * TIMES_UNCONFIRMED - 50)
    assert bench.ejection(1) == TRUSTED
    bench.tick()
    assert bench.ejection(1) == STALLED
    bench.tick(4_900)
    assert bench.ejection(1) == STALLED
    bench.waits(1, waiting=0, since=0, heard=9_000)
    bench.tick(50)
    bench.tick(50)
    assert bench.ejection(1) == TRIAL
    bench.waits(1, waiting=1, since=0, heard=9_000)
    for _ in range(18):
        bench.tick()
    assert bench.ejection(1) == STALLED


def test_who_is_out_for_other_reasons_stays_so(bench: DetectorBench) -> None:
    """Its silence is no news."""
    bench.table.cells[bench.at(1) + EJECTION] = EJECTED
    bench.silence(1, 600)
    assert bench.ejection(1) == EJECTED


def test_a_successor_takes_back_what_the_former_set_aside(bench: DetectorBench) -> None:
    """The control process was killed meanwhile."""
    bench.silence(1, 300)
    bench.detector = bench.successor()
    bench.adopt(3)
    bench.tick()
    bench.answer()
    bench.tick()
    assert bench.ejection(1) == TRUSTED


@pytest.mark.parametrize("settings", [{"stall_after": 0}, {"off": True}])
def test_switched_off_by_a_reload_it_is_taken_back(
    bench: DetectorBench, settings: dict[str, Any]
) -> None:
    """And no other is set aside."""
    bench.silence(1, 300)
    bench.adopt(3, **settings)
    assert bench.ejection(1) == TRUSTED
    bench.silence(2, 900)
    assert bench.ejection(2) == TRUSTED


def test_while_nobody_waits_no_server_is_looked_at(
    bench: DetectorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times a second, with ten thousand servers."""
    monkeypatch.setattr(bench.detector, "_look", pytest.fail)
    bench.tick()
