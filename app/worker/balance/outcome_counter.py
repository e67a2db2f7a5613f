"""Counts what the backends do to requests, in cells that the control process reads and judges by.

Owns which errors and statuses count against a backend; whether the request was at fault is said by
app.worker.balance.blame. Runs in workers; writes only its own worker's cells, and what a Backend keeps
between two failures. Must never set a backend aside (app.control.outliers.ejector does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from app.config import OutlierDetection
from app.errors import (
    Aborted,
    BackendError,
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    StaleConnection,
    Stalled,
)
from app.shared import faults, outcome_bits
from app.shared.layout import (
    CONNECT_STREAK,
    EJECTION_MS,
    ERROR_STREAK,
    FAILURES,
    OUTCOMES,
    RECOVERIES,
    RESET_STREAK,
    STREAKS,
    TROUBLES,
    counters_at,
)
from app.shared.table import Table
from app.worker.balance.backend import Backend
from app.worker.balance.blame import Asked, Blame

# Failures further apart than this are not in a row, whatever came between them in other workers.
_STREAK_SECONDS = 30.0
# Statuses that say something about the server and not about what it was asked (RFC 9110 §15.6).
_NOT_ITS_FAULT = (501, 505)
# Reasons of cut answers that came as the server meant them, and are refused all the same.
_REFUSED = frozenset(("bad_chunk",))


class OutcomeCounter:
    """The failures and recoveries that this worker has seen.

    ``measures``: the algorithm goes by latency, so that every answer's time is wanted.
    """

    def __init__(
        self, table: Table, cells: memoryview, backends: Callable[[], Iterable[Backend]]
    ) -> None:
        """``backends`` are all there are now."""
        self.cells = cells
        self._table = table
        self._backends = backends
        self._blame = Blame()
        self.measures = False
        self._counts_refused = False  # the configuration limits the share of failures
        self._counted: frozenset[int] = frozenset()  # streaks that the configuration limits

    def __repr__(self) -> str:
        return f"<OutcomeCounter of streaks {sorted(self._counted)}>"

    def adopt(self, settings: OutlierDetection | None, measures: bool) -> None:
        """Take over a configuration."""
        self.measures = measures
        self._counted = _counted(settings)
        self._counts_refused = settings is not None and settings.failure_rate > 0

    def watches(self, backend: Backend) -> bool:
        """Whether ``answered`` is to be called for every answer of a backend, not only for the bad ones."""
        if self.measures or backend.is_on_trial or backend.troubled_at != 0.0:
            return True
        return bool(self._blame)  # what others answer well tells whose fault the failures are

    def answered(
        self, backend: Backend, status: int, seconds: float, asked: Asked | None = None
    ) -> None:
        """Count a whole answer whose head came after so many seconds.

        To be called for each 5xx, and for every answer of a backend that ``watches`` is true of. ``asked``
        is what was asked (app.worker.balance.blame), None for what is not at fault in any case.
        """
        if self.measures:
            backend.latency.observe(seconds, monotonic())
        if status >= 500 and status not in _NOT_ITS_FAULT and ERROR_STREAK in self._counted:
            self._blame_for(backend, ERROR_STREAK, asked)
            return
        if self._blame:
            self._learn(backend, status, asked)
        if backend.troubled_at or backend.is_on_trial:
            cells, at = self.cells, counters_at(backend.row)
            self._end_streaks(at)
            _, bad = self._remember(backend, at, False)
            if not bad:
                self._calm(backend)
            cells[at + RECOVERIES] += 1
            cells[TROUBLES] += 1

    def failed(self, backend: Backend, error: ProxyError, asked: Asked | None = None) -> None:
        """Count an attempt that ended without a whole answer, if the backend is to blame for it.

        ``asked`` as for ``answered``. Who cannot be connected to has not seen the request.
        """
        if isinstance(error, (ConnectFailed, ConnectTimeout)):
            if CONNECT_STREAK in self._counted and not faults.is_ours(error.__context__):
                self._count(backend, CONNECT_STREAK)
        # A stale connection is a race that nobody lost; a stall has been judged as one.
        elif isinstance(error, (BackendError, Aborted)) and not isinstance(
            error, (StaleConnection, Stalled)
        ):
            if isinstance(error, BadResponse) or error.reason in _REFUSED:
                # An answer that we refuse: one endpoint of many may be like that, and is so each time. It
                # counts when it is a large share of what the server answers, not in a row.
                if self._counts_refused:
                    self._blame_for(backend, None, asked)
            elif RESET_STREAK in self._counted:
                self._blame_for(backend, RESET_STREAK, asked)

    def _blame_for(self, backend: Backend, streak: int | None, asked: Asked | None) -> None:
        """Count a failure, unless it was the request's."""
        if asked is None:
            self._count(backend, streak)
            return
        blame = self._blame
        was_listening = bool(blame)
        failures = blame.failed(asked, backend.row, streak, monotonic())
        if bool(blame) != was_listening:
            self._watch_all()
        # On trial one failure decides, as long as nothing is known of the request.
        if not failures and backend.is_on_trial and streak is not None:
            failures = [] if blame.is_at_fault(asked) else [streak]
        for one in failures:
            self._count(backend, one)

    def _learn(self, backend: Backend, status: int, asked: Asked | None) -> None:
        """Take a good answer as proof against those that have failed where this backend did not."""
        # 501 and 505 prove nothing: they are about the request too.
        proven: dict[int, int | None] = {}
        if asked is not None and status < 500:
            proven = dict(self._blame.answered(asked, backend.row))
        self._blame.forget(monotonic())
        if proven:
            for other in self._backends():
                if other.row in proven:
                    self._count(other, proven[other.row])
        if not self._blame:
            self._watch_all()

    def _watch_all(self) -> None:
        for backend in self._backends():
            backend.is_watched = self.watches(backend)

    def _count(self, backend: Backend, streak: int | None) -> None:
        """Count a failure, into ``streak`` if it is given."""
        cells, at = self.cells, counters_at(backend.row)
        now = monotonic()
        if now - backend.troubled_at > _STREAK_SECONDS:
            self._end_streaks(at)
            cells[at + OUTCOMES] = 0
        self._remember(backend, at, True)
        if streak is not None:
            cells[at + streak] += 1
        cells[at + FAILURES] += 1
        cells[TROUBLES] += 1
        backend.troubled_at = now
        backend.is_watched = True  # its next good answers end the streak, and thin out the failures

    def _remember(self, backend: Backend, at: int, is_bad: bool) -> tuple[int, int]:
        """Add one to the last outcomes; how many there are now, and how many of them bad."""
        stamp = self._table.cells[self._table.server(backend.row) + EJECTION_MS]
        recent = self.cells[at + OUTCOMES] = outcome_bits.add(
            self.cells[at + OUTCOMES], stamp, is_bad
        )
        return outcome_bits.count(recent, stamp)

    def _calm(self, backend: Backend) -> None:
        """End the watch of a backend that has nothing bad left in its last outcomes."""
        backend.troubled_at = 0.0
        backend.is_watched = self.watches(backend)

    def _end_streaks(self, at: int) -> None:
        for streak in STREAKS:
            self.cells[at + streak] = 0


def _counted(settings: OutlierDetection | None) -> frozenset[int]:
    """The streaks that have a limit in the configuration."""
    if settings is None:
        return frozenset()
    limits = (settings.connect_failures, settings.resets, settings.server_errors)
    return frozenset(streak for streak, limit in zip(STREAKS, limits, strict=True) if limit)
