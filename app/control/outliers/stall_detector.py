"""Has servers set aside that answer nobody any more, and taken back at their first answer.

Workers tell how long they have waited for which server (app.worker.stalls). Here all of that is put together;
a server that is silent for too long is sent a health check out of its turn, and if it leaves that unanswered
too, the ejector sets it aside, within the bounds of any ejection. Runs in the control process. ``tick`` is
called 20 times a second, and reads one cell of each worker as long as none waits for too long. Must never
know HTTP, nor write a cell.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

from app.config import Config
from app.control.health.checker import Question
from app.control.health.probe import CheckResult
from app.control.outliers.ejector import Ejector
from app.control.outliers.stall_rules import (
    ASK_SHARE,
    LONGEST_PAUSE_MS,
    Silence,
    check_limit_ms,
    limit_ms,
    together,
)
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
from app.shared.slowest import Slowest
from app.shared.table import Table

# A worker looks every 100 ms: one that has not for so long is stopped itself, and what it last said is old.
BELIEVED_MS = 500
# Between the end of one question and the next; a stalled server has at most one to answer.
ASK_AGAIN_MS = 200

# Of an older pause a third counts after this time: collections of a large heap come every few minutes.
FORGET_PAUSE_MS = 600_000


class StallSuspect:
    """One server that keeps workers waiting, and the checks that it is sent for that.

    ``asked_ms``: since when it leaves them unanswered, 0 if it does not. ``result``: of the last one, until
    that was taken into account. ``silent_ms``: since when it was silent when it was set aside.
    """

    __slots__ = ("ask_next_ms", "asked_ms", "is_asking", "result", "silent_ms")

    def __init__(self) -> None:
        self.is_asking = False
        self.asked_ms = 0
        self.ask_next_ms = 0
        self.silent_ms = 0
        self.result: CheckResult | None = None

    def is_silent(self, now_ms: int, limit: int) -> bool:
        """Whether it has left checks unanswered for ``limit`` ms."""
        return bool(self.asked_ms) and now_ms - self.asked_ms >= limit


class StallDetector:
    """Looks for stalls among the servers that the ejector judges."""

    def __init__(
        self,
        table: Table,
        ejector: Ejector,
        ask: Callable[[int], Question | None],
        spawn: Callable[..., object] = gevent.spawn,
    ) -> None:
        """``ask`` gives a check of the server in a row, None where its result would tell nothing."""
        self._table = table
        self._ejector = ejector
        self._ask = ask
        self._spawn = spawn
        self._after = 0.0
        self._requests = 0
        self._suspects: dict[int, StallSuspect] = {}
        self._stalled: set[int] = set()
        self._pauses = Slowest(FORGET_PAUSE_MS)  # of all servers, in ms
        self._waited_for: set[int] = set()  # rows that this tick looks at
        self._well_ms: int | None = None  # what _well_heard_ms has found in this tick

    def __repr__(self) -> str:
        return f"<StallDetector {len(self._suspects)} suspects, {len(self._stalled)} stalled>"

    def adopt(self, config: Config) -> None:
        """Take over a configuration, after the ejector did. Without stall detection none stays stalled."""
        settings = config.outlier_detection
        self._after = settings.stall_after if settings is not None else 0.0
        self._requests = settings.stall_requests if settings is not None else 0
        self._suspects = {}
        self._stalled = {row for row in self._ejector.rows() if self._state(row) == STALLED}
        if not self._after:
            for row in tuple(self._stalled):
                self._back(row, "outlier_detection_off", 0)

    def tick(self, now_ms: int) -> None:
        """Look at the servers that keep workers waiting, and at those that were set aside.

        ``now_ms`` is monotonic.
        """
        if not self._after:
            return
        slots = self._table.suspicious_slots(now_ms - BELIEVED_MS)
        rows = self._stalled.copy()
        for slot in slots:
            unanswered = self._table.slot_column(slot, UNANSWERED).tolist()
            rows.update(row for row, waiting in enumerate(unanswered) if waiting)
        rows.intersection_update(self._ejector.rows())
        self._waited_for, self._well_ms = rows, None
        for row in rows:
            self._look(row, now_ms)
        for row in self._suspects.keys() - rows:
            del self._suspects[row]

    # ----------------------------------------------------------------------------------------------

    def _look(self, row: int, now_ms: int) -> None:
        """Ask a server that is silent, and set it aside once all that makes a stall is there."""
        silence = self._silence(row, now_ms)
        suspect = self._suspects.setdefault(row, StallSuspect())
        if row in self._stalled:
            self._look_for_life(row, suspect, silence, now_ms)
            return
        ask = self._ask(row)
        limit = self._limit_ms(silence, ask is not None, now_ms)
        lasts = silence.lasts_ms(now_ms)
        if not limit or lasts < limit * ASK_SHARE or not self._others_answer(silence, now_ms):
            return
        if ask is not None:
            self._question(row, suspect, ask, now_ms)
        needed = 1 if self._state(row) == TRIAL else self._requests
        if silence.waiting < needed or lasts < limit:
            return
        if ask is None or suspect.is_silent(now_ms, check_limit_ms(limit, ask.usual_ms())):
            suspect.silent_ms = now_ms - lasts
            self._set_aside(row, silence, lasts, now_ms)

    def _look_for_life(
        self, row: int, suspect: StallSuspect, silence: Silence, now_ms: int
    ) -> None:
        """Take a stalled server back if it has answered anybody, or put it on trial where nobody asks it."""
        since = self._table.cells[self._table.server(row) + EJECTION_MS]
        if self._state(row) != STALLED:
            self._stalled.discard(row)
        elif silence.heard_ms > since:
            self._answered(row, suspect.silent_ms or since, now_ms)
        elif (ask := self._ask(row)) is None:
            if not silence.waiting:
                self._ejector.retry_stalled(row, now_ms)
        elif self._question(row, suspect, ask, now_ms):
            self._answered(row, suspect.silent_ms or since, now_ms)

    def _question(self, row: int, suspect: StallSuspect, ask: Question, now_ms: int) -> bool:
        """Send it a check if it is time for one; whether it has answered one since the last look."""
        result, suspect.result = suspect.result, None
        has_answered = result is not None and result.status is not None
        if result is not None:
            suspect.ask_next_ms = now_ms + ASK_AGAIN_MS
            if result.reason != "timeout":
                # An answer, a refusal or a fault of our own: none of them is silence.
                suspect.asked_ms = 0
        if not suspect.is_asking and now_ms >= suspect.ask_next_ms:
            suspect.is_asking = True
            suspect.asked_ms = suspect.asked_ms or now_ms
            self._spawn(_put_question, suspect, ask)
        return has_answered

    def _others_answer(self, silence: Silence, now_ms: int) -> bool:
        """Whether a server that is not silent itself has answered since this one fell silent.

        Otherwise our network hangs, or something that all servers depend on: they fall silent one after
        another then, a few milliseconds apart.
        """
        since = max(silence.oldest_ms, silence.heard_ms)
        # A shortcut only: where nobody at all has answered, no HEARD_MS needs to be read.
        if max(self._table.of_each_slot(ANSWERED_MS)) <= since:
            return False
        if self._well_ms is None:
            self._well_ms = self._well_heard_ms(now_ms)
        return self._well_ms > since

    def _well_heard_ms(self, now_ms: int) -> int:
        """When a server that is not silent itself last answered; 0 if there is none."""
        heard = [
            self._table.slot_column(slot, HEARD_MS).tolist() for slot in range(self._table.slots)
        ]
        waited_for = self._waited_for
        well = [row for row in self._ejector.rows() if row not in waited_for]
        for row in waited_for - self._stalled:
            silence = self._silence(row, now_ms)
            limit = self._limit_ms(silence, True, now_ms) or self._after * 1000
            if silence.lasts_ms(now_ms) < limit * ASK_SHARE:
                well.append(row)
        return max((column[row] for row in well for column in heard), default=0)

    def _silence(self, row: int, now_ms: int) -> Silence:
        """What all workers know of a server; of one that stands still itself, not for whom it waits."""
        columns = (UNANSWERED, OLDEST_MS, HEARD_MS, USUAL_MS)
        cells = zip(*(self._table.counts(row, cell) for cell in columns), strict=True)
        looked = self._table.of_each_slot(LOOKED_MS)
        return together(
            Silence(*known) if at >= now_ms - BELIEVED_MS else Silence(0, 0, *known[2:])
            for known, at in zip(cells, looked, strict=True)
        )

    def _limit_ms(self, silence: Silence, can_ask: bool, now_ms: int) -> int:
        return limit_ms(silence.usual_ms, int(self._pauses.as_of(now_ms)), self._after, can_ask)

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

    def _answered(self, row: int, silent_ms: int, now_ms: int) -> None:
        """Take a server back that answers again; if it was silent for a short time only, learn from it."""
        if now_ms - silent_ms <= LONGEST_PAUSE_MS:
            self._pauses.observe(now_ms - silent_ms, now_ms)
        self._back(row, "answered", now_ms)

    def _back(self, row: int, reason: str, now_ms: int) -> None:
        self._stalled.discard(row)
        self._ejector.unstall(row, reason, now_ms)


def _put_question(suspect: StallSuspect, ask: Question) -> None:
    """The greenlet of one check."""
    try:
        suspect.result = ask.put()
    finally:
        suspect.is_asking = False
