"""Sets servers aside that answer nobody any more, and takes them back at their first answer.

The control process's part of stall detection: workers tell for whom they wait (app.worker.stalls), here all
of them are put together, the server is asked by a check of its own, and its ejection cell is written, within
the same bounds as for any ejection (app.control.outliers.ejector). ``tick`` looks at one cell of each worker
until one of them waits for too long. Must never know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

from app.config import Config
from app.control.health.probe import Outcome
from app.control.outliers.ejector import Ejector
from app.control.outliers.stall_rules import ASK_SHARE, Silence, limit_ms, together
from app.shared.layout import (
    ANSWERED_MS,
    EJECTION_MS,
    HEARD_MS,
    LOOKED_MS,
    OLDEST_MS,
    STALLED,
    TRIAL,
    UNANSWERED,
    USUAL_MS,
)
from app.shared.table import Table

# A worker looks every 100 ms: one that has not for so long is stopped itself, and what it last said is old.
BELIEVED_MS = 500
# Between the end of one question and the next; a stalled server has at most one to answer.
ASK_AGAIN_MS = 200

Ask = Callable[[], Outcome]


class StallSuspect:
    """One server that keeps workers waiting."""

    __slots__ = ("ask_next_ms", "asked_ms", "is_asking", "outcome")

    def __init__(self) -> None:
        self.is_asking = False
        self.asked_ms = 0  # since when it has not answered our questions
        self.ask_next_ms = 0
        self.outcome: Outcome | None = None  # of the last question

    def is_silent(self, now_ms: int, limit: int) -> bool:
        """Whether it has left our questions unanswered for so long."""
        return bool(self.asked_ms) and now_ms - self.asked_ms >= limit


class StallDetector:
    """Looks for stalls among the servers that the ejector watches."""

    def __init__(
        self,
        table: Table,
        ejector: Ejector,
        ask: Callable[[int], Ask | None],
        spawn: Callable[..., object] = gevent.spawn,
    ) -> None:
        self._table = table
        self._ejector = ejector
        self._ask = (
            ask  # how the server of a row is asked, None where its answer would tell nothing
        )
        self._spawn = spawn
        self._after = 0.0
        self._requests = 0
        self._suspects: dict[int, StallSuspect] = {}
        self._stalled: set[int] = set()

    def __repr__(self) -> str:
        return f"<StallDetector {len(self._suspects)} suspects, {len(self._stalled)} stalled>"

    def adopt(self, config: Config) -> None:
        """After the ejector; with detection switched off none stays stalled."""
        settings = config.outlier_detection
        self._after = settings.stall_after if settings is not None else 0.0
        self._requests = settings.stall_requests if settings is not None else 0
        self._suspects = {}
        self._stalled = {row for row in self._ejector.rows() if self._state(row) == STALLED}
        if not self._after:
            for row in tuple(self._stalled):
                self._back(row, "outlier_detection_off", 0)

    def tick(self, now_ms: int) -> None:
        """Look at the servers that somebody waits for, and at those that were set aside."""
        if not self._after:
            return
        slots = self._table.suspicious_slots(now_ms - BELIEVED_MS)
        rows = self._stalled.copy()
        for slot in slots:
            unanswered = self._table.slot_column(slot, UNANSWERED).tolist()
            rows.update(row for row, waiting in enumerate(unanswered) if waiting)
        rows.intersection_update(self._ejector.rows())
        for row in rows:
            self._look(row, now_ms)
        for row in self._suspects.keys() - rows:
            del self._suspects[row]

    # ----------------------------------------------------------------------------------------------

    def _look(self, row: int, now_ms: int) -> None:
        silence = self._silence(row, now_ms)
        suspect = self._suspects.setdefault(row, StallSuspect())
        if row in self._stalled:
            self._look_for_life(row, suspect, silence, now_ms)
            return
        ask = self._ask(row)
        limit = limit_ms(silence.usual_ms, self._after, ask is not None)
        lasts = silence.lasts_ms(now_ms)
        if not limit or lasts < limit * ASK_SHARE or not self._others_answer(silence):
            return
        if ask is not None:
            self._question(row, suspect, ask, now_ms)
        needed = 1 if self._state(row) == TRIAL else self._requests
        if silence.waiting < needed or lasts < limit:
            return
        if ask is None or suspect.is_silent(now_ms, int(limit * ASK_SHARE)):
            self._set_aside(row, silence, lasts, now_ms)

    def _look_for_life(
        self, row: int, suspect: StallSuspect, silence: Silence, now_ms: int
    ) -> None:
        since = self._table.cells[self._table.server(row) + EJECTION_MS]
        if self._state(row) != STALLED:
            self._stalled.discard(row)
        elif silence.heard_ms > since:
            self._back(row, "answered", now_ms)
        elif (ask := self._ask(row)) is None:
            if not silence.waiting:
                self._ejector.retry_stalled(row, now_ms)
        elif self._question(row, suspect, ask, now_ms):
            self._back(row, "answered", now_ms)

    def _question(self, row: int, suspect: StallSuspect, ask: Ask, now_ms: int) -> bool:
        """Have it asked unless it is being asked; whether it has answered since the last time we looked."""
        outcome, suspect.outcome = suspect.outcome, None
        has_answered = outcome is not None and outcome.status is not None
        if outcome is not None:
            suspect.ask_next_ms = now_ms + ASK_AGAIN_MS
            if outcome.reason != "timeout":
                # An answer, a refusal or a fault of our own: whatever it is, it is not silence.
                suspect.asked_ms = 0
        if not suspect.is_asking and now_ms >= suspect.ask_next_ms:
            suspect.is_asking = True
            suspect.asked_ms = suspect.asked_ms or now_ms
            self._spawn(_put_question, suspect, ask)
        return has_answered

    def _others_answer(self, silence: Silence) -> bool:
        """Whether others have answered since it fell silent: else it is our network, or all wait for one."""
        return max(self._table.of_each_slot(ANSWERED_MS)) > max(silence.oldest_ms, silence.heard_ms)

    def _silence(self, row: int, now_ms: int) -> Silence:
        columns = (UNANSWERED, OLDEST_MS, HEARD_MS, USUAL_MS)
        cells = zip(*(self._table.counts(row, cell) for cell in columns), strict=True)
        looked = self._table.of_each_slot(LOOKED_MS)
        return together(
            Silence(*known) if at >= now_ms - BELIEVED_MS else Silence(0, 0, *known[2:])
            for known, at in zip(cells, looked, strict=True)
        )

    def _state(self, row: int) -> int:
        return self._ejector.state_of(row)

    def _set_aside(self, row: int, silence: Silence, lasts: int, now_ms: int) -> None:
        figures = {
            "waiting": silence.waiting,
            "silent_ms": lasts,
            "usual_ms": silence.usual_ms,
        }
        if self._ejector.stall(row, now_ms, figures):
            self._stalled.add(row)

    def _back(self, row: int, reason: str, now_ms: int) -> None:
        self._stalled.discard(row)
        self._ejector.unstall(row, reason, now_ms)


def _put_question(suspect: StallSuspect, ask: Ask) -> None:
    try:
        suspect.outcome = ask()
    except Exception as error:  # noqa: BLE001 - a dead question would leave the server unasked for good
        suspect.outcome = Outcome(None, "internal_error", detail=repr(error))
    finally:
        suspect.is_asking = False
