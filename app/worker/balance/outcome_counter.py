"""Counts what the backends do to requests, in cells that the control process reads and judges by.

Owns which errors and statuses count against a backend. Runs in workers; writes only its own worker's cells,
and what a Backend keeps between two failures. Must never set a backend aside (app.control.outliers.ejector
does).
"""

from __future__ import annotations

from time import monotonic

from app.config import OutlierDetection
from app.errors import (
    Aborted,
    BackendError,
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

# Failures further apart than this are not in a row, whatever came between them in other workers.
_STREAK_SECONDS = 30.0
# Statuses that say something about the server and not about what it was asked (RFC 9110 §15.6).
_NOT_ITS_FAULT = (501, 505)


class OutcomeCounter:
    """The failures and recoveries that this worker has seen.

    ``measures``: the algorithm goes by latency, so that every answer's time is wanted.
    """

    def __init__(self, table: Table, cells: memoryview) -> None:
        self.cells = cells
        self._table = table
        self.measures = False
        self._counted: frozenset[int] = frozenset()  # streaks that the configuration limits

    def __repr__(self) -> str:
        return f"<OutcomeCounter of streaks {sorted(self._counted)}>"

    def adopt(self, settings: OutlierDetection | None, measures: bool) -> None:
        """Take over a configuration."""
        self.measures = measures
        self._counted = _counted(settings)

    def watches(self, backend: Backend) -> bool:
        """Whether ``answered`` is to be called for every answer of a backend, not only for the bad ones."""
        return self.measures or backend.is_on_trial or backend.troubled_at != 0.0

    def answered(self, backend: Backend, status: int, seconds: float) -> None:
        """Count a whole answer whose head came after so many seconds.

        To be called for each 5xx, and for every answer of a backend that ``watches`` is true of.
        """
        if self.measures:
            backend.latency.observe(seconds, monotonic())
        if status >= 500 and status not in _NOT_ITS_FAULT and ERROR_STREAK in self._counted:
            self._count_failure(backend, ERROR_STREAK)
        elif backend.troubled_at or backend.is_on_trial:
            cells, at = self.cells, counters_at(backend.row)
            self._end_streaks(at)
            _, bad = self._remember(backend, at, False)
            if not bad:
                self._calm(backend)
            cells[at + RECOVERIES] += 1
            cells[TROUBLES] += 1

    def failed(self, backend: Backend, error: ProxyError) -> None:
        """Count an attempt that ended without a whole answer, if the backend is to blame for it."""
        if isinstance(error, (ConnectFailed, ConnectTimeout)):
            if not faults.is_ours(error.__context__):
                self._count_failure(backend, CONNECT_STREAK)
        # A stale connection is a race that nobody lost; a stall has been judged as one.
        elif isinstance(error, (BackendError, Aborted)) and not isinstance(
            error, (StaleConnection, Stalled)
        ):
            self._count_failure(backend, RESET_STREAK)

    def _count_failure(self, backend: Backend, streak: int) -> None:
        """Count a failure into ``streak``, unless the configuration has no limit for that kind."""
        if streak not in self._counted:
            return
        cells, at = self.cells, counters_at(backend.row)
        now = monotonic()
        if now - backend.troubled_at > _STREAK_SECONDS:
            self._end_streaks(at)
            cells[at + OUTCOMES] = 0
        self._remember(backend, at, True)
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
        backend.is_watched = self.measures or backend.is_on_trial

    def _end_streaks(self, at: int) -> None:
        for streak in STREAKS:
            self.cells[at + streak] = 0


def _counted(settings: OutlierDetection | None) -> frozenset[int]:
    """The streaks that have a limit in the configuration."""
    if settings is None:
        return frozenset()
    limits = (settings.connect_failures, settings.resets, settings.server_errors)
    return frozenset(streak for streak, limit in zip(STREAKS, limits, strict=True) if limit)
