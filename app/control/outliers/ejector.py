"""Sets servers aside that fail real requests, and takes them back on trial.

Workers count what fails (app.worker.balance.outcome_counter), each in its own cells. Here all of that is put
together, judged by the rules (app.control.outliers.rules), and written into the ejection cells, of which this
is the only writer; workers are told by a change of the epoch. On trial a server gets one request at a time:
a failure ejects it again, for longer, and enough good answers bring it back.

Runs in the control process. ``tick`` is called 20 times a second, and reads one cell of each worker as long
as none of them reports trouble. Must never know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.config import Config, OutlierDetection, Server
from app.control.health.slow_start import SlowStart
from app.control.outliers.rules import (
    CONNECT,
    RATE,
    RATE_MINIMUM,
    REASONS,
    TRIAL_ANSWERS,
    TRIAL_ANSWERS_OTHERWISE,
    Suspicion,
    are_failing_alike,
    ejection_ms,
    is_failing_often,
    may_eject,
    times_ejected,
)
from app.shared import outcome_bits
from app.shared.layout import (
    CHANGED_MS,
    CHECKED_MS,
    EJECTED,
    EJECTION,
    EJECTION_MS,
    EJECTIONS,
    FAILURES,
    OUTCOMES,
    RECOVERIES,
    STALLED,
    STREAK,
    STREAKS,
    TRIAL,
    TROUBLES,
    TRUSTED,
)
from app.shared.table import Table
from app.telemetry import log


class OutlierSubject:
    """What is known of one server beside its cells.

    ``kind``: the trouble that it was ejected for. ``failures`` and ``recoveries``: what all workers had
    counted when its trial began.
    """

    __slots__ = ("failures", "kind", "recoveries", "row", "server", "suspicion")

    def __init__(self, server: Server, row: int) -> None:
        self.server = server
        self.row = row
        self.suspicion = Suspicion()
        self.kind = ""
        self.failures = self.recoveries = 0


class Ejector:
    """Judges the servers of the configuration that it adopted last."""

    def __init__(self, table: Table, hasten: Callable[[int], None], slow_start: SlowStart) -> None:
        """``hasten`` has the server of a row checked now."""
        self._table = table
        self._hasten = hasten
        self._slow_start = slow_start
        self._subjects: dict[int, OutlierSubject] = {}
        self._settings: OutlierDetection | None = None
        self._limits: tuple[int, ...] = ()
        self._is_checked = False
        self._out: set[int] = set()  # rows of ejected servers
        self._troubles: list[int] = []  # the cell TROUBLES of each worker, when last looked at
        self._seen: dict[int, tuple[list[int], list[int]]] = {}  # a slot's failures, recoveries

    def __repr__(self) -> str:
        out = [s.server.name for s in self._subjects.values() if self._state(s) != TRUSTED]
        return f"<Ejector {len(self._subjects)} servers, out or on trial: {out}>"

    def adopt(self, config: Config) -> None:
        """Judge the servers of ``config`` from now on; without outlier detection all are trusted."""
        settings = self._settings = config.outlier_detection
        self._is_checked = config.health_check is not None
        before = {subject.server.url: subject for subject in self._subjects.values()}
        self._subjects = {}
        for server, row in self._table.rows_of(config.servers):
            subject = before.get(server.url)
            if subject is None or subject.row != row:
                subject = OutlierSubject(server, row)
            subject.server = server
            self._subjects[row] = subject
            if subject is not before.get(server.url) and self._state(subject) == TRIAL:
                self._begin_counting(subject)  # a predecessor has begun the trial
        self._out = {row for row, s in self._subjects.items() if self._state(s) == EJECTED}
        if settings is None:
            self._trust_all()
        else:
            self._limits = (settings.connect_failures, settings.resets, settings.server_errors)

    def tick(self, now_ms: int) -> None:
        """Judge the servers that workers report trouble with, and try those whose ejection is over.

        ``now_ms`` is monotonic.
        """
        if self._settings is None:
            return
        troubles = self._table.of_each_slot(TROUBLES)
        if troubles != self._troubles:
            for row in sorted(self._changed_rows(troubles)):
                if row in self._subjects:
                    self._judge(self._subjects[row], self._settings, now_ms)
            self._troubles = troubles
        for row in tuple(self._out):
            if self._is_over(self._subjects[row], self._settings, now_ms):
                self._try(self._subjects[row], now_ms)

    # -- stalls, which app.control.outliers.stall_detector finds ----------------------------------

    def rows(self) -> tuple[int, ...]:
        """The rows of the servers that are judged."""
        return tuple(self._subjects)

    def state_of(self, row: int) -> int:
        """TRUSTED, EJECTED, STALLED or TRIAL; TRUSTED of a row that is not judged."""
        return self._state(self._subjects[row]) if row in self._subjects else TRUSTED

    def stall(self, row: int, now_ms: int, figures: dict[str, int]) -> bool:
        """Set a server aside that answers nobody. False where the bounds of ejections forbid it.

        ``figures`` are logged with it.
        """
        subject = self._subjects[row]
        state = self._state(subject)
        if state != TRIAL and not (state == TRUSTED and self._may_eject(subject)):
            return False
        self._change(subject, STALLED, now_ms)
        self._log(subject, "warning", "backend ejected", "stalled", **figures)
        return True

    def unstall(self, row: int, reason: str, now_ms: int) -> None:
        """Take a stalled server back; what it failed meanwhile does not count against it."""
        subject = self._subjects[row]
        subject.suspicion.excuse(self._streaks(subject))
        self._change(subject, TRUSTED, now_ms)
        self._log(subject, "info", "backend returned", reason)

    def retry_stalled(self, row: int, now_ms: int) -> None:
        """Put a stalled server on trial once it was out for ``ejection_time``.

        For one that no check can ask and no request waits for: nothing else would show that it answers again.
        """
        assert self._settings is not None
        since = self._table.cells[self._table.server(row) + EJECTION_MS]
        if now_ms >= since + self._settings.ejection_time * 1000:
            self._try(self._subjects[row], now_ms)

    # -- looking -----------------------------------------------------------------------------------

    def _changed_rows(self, troubles: list[int]) -> set[int]:
        """The rows where a worker that reports trouble has counted something since the last look."""
        rows: set[int] = set()
        for number, count in enumerate(troubles):
            if number < len(self._troubles) and self._troubles[number] == count:
                continue
            failures = self._table.slot_column(number, FAILURES).tolist()
            recoveries = self._table.slot_column(number, RECOVERIES).tolist()
            old = self._seen.get(number, ([0] * len(failures), [0] * len(recoveries)))
            for before, now in zip(old, (failures, recoveries), strict=True):
                if before != now:
                    rows.update(at for at, value in enumerate(now) if value != before[at])
            self._seen[number] = failures, recoveries
        return rows

    def _state(self, subject: OutlierSubject) -> int:
        return self._table.cells[self._table.server(subject.row) + EJECTION]

    def _streaks(self, subject: OutlierSubject) -> list[list[int]]:
        return [self._table.counts(subject.row, cell) for cell in STREAKS]

    # -- deciding ----------------------------------------------------------------------------------

    def _judge(self, subject: OutlierSubject, settings: OutlierDetection, now_ms: int) -> None:
        """Eject a server, end its trial, or leave it as it is, by what all workers have counted."""
        table = self._table
        recoveries = table.count(subject.row, RECOVERIES)
        verdict = subject.suspicion.judge(self._streaks(subject), recoveries, self._limits)
        if verdict is None and self._fails_often(subject, settings):
            verdict = RATE, self._outcomes(subject)[1]
        if verdict is not None and self._others_fail_too(subject, *verdict):
            verdict = None
        state = self._state(subject)
        if state == TRIAL:
            if table.count(subject.row, FAILURES) > subject.failures:
                self._eject(subject, settings, "trial_failed", 1, now_ms)
            elif recoveries - subject.recoveries >= self._answers_needed(subject):
                self._slow_start.begin(subject.row)
                self._change(subject, TRUSTED, now_ms)
                self._log(subject, "info", "backend returned", "trial_passed")
        elif state == TRUSTED and verdict is not None and self._may_eject(subject):
            kind, failures = verdict
            subject.kind = REASONS[kind]
            self._eject(subject, settings, subject.kind, failures, now_ms)

    def _others_fail_too(self, subject: OutlierSubject, kind: int, failures: int) -> bool:
        """Whether its failures are no reason to eject it, as the servers beside it fail alike.

        Who cannot be connected to has not seen what is asked: that is its own fault.
        """
        if kind == CONNECT:
            return False
        seen, bad = self._outcomes(subject)
        bad = max(bad, failures)
        others = [
            self._outcomes(one)
            for one in self._tier(subject)
            if one is not subject and self._state(one) == TRUSTED
        ]
        return are_failing_alike((max(seen, bad), bad), others)

    def _fails_often(self, subject: OutlierSubject, settings: OutlierDetection) -> bool:
        mine = self._outcomes(subject)
        if mine[1] < RATE_MINIMUM:  # a verdict without a look at all the others
            return False
        others = [self._outcomes(one) for one in self._tier(subject) if one is not subject]
        return is_failing_often(settings.failure_rate, mine, others)

    def _outcomes(self, subject: OutlierSubject) -> tuple[int, int]:
        """How many outcomes of its last ones the workers remember, and how many of them were bad."""
        stamp = self._table.cells[self._table.server(subject.row) + EJECTION_MS]
        cells = self._table.counts(subject.row, OUTCOMES)
        counts = [outcome_bits.count(cell, stamp) for cell in cells if cell]
        return sum(seen for seen, _ in counts), sum(bad for _, bad in counts)

    def _answers_needed(self, subject: OutlierSubject) -> int:
        return TRIAL_ANSWERS.get(subject.kind, TRIAL_ANSWERS_OTHERWISE)

    def _may_eject(self, subject: OutlierSubject) -> bool:
        """Whether the bounds of rules.may_eject allow it, counted among the servers that could serve.

        Servers that checks found ill do not count: they are no reason to go on with one that fails.
        """
        tier = self._tier(subject)
        out = sum(self._state(one) != TRUSTED for one in tier)
        return may_eject(len(tier), out, len(tier) - out - 1)

    def _tier(self, subject: OutlierSubject) -> list[OutlierSubject]:
        """Itself and the servers that share its work: also primaries (or backups), ready, and healthy."""
        is_backup = subject.server.backup
        return [
            one
            for one in self._subjects.values()
            if one is subject or (one.server.backup == is_backup and self._is_well(one))
        ]

    def _is_well(self, subject: OutlierSubject) -> bool:
        return subject.server.state == "ready" and self._table.is_healthy(subject.row)

    def _eject(
        self,
        subject: OutlierSubject,
        settings: OutlierDetection,
        reason: str,
        failures: int,
        now_ms: int,
    ) -> None:
        at = self._table.server(subject.row)
        times = self._table.cells[at + EJECTIONS]
        if self._state(subject) == TRUSTED:
            trusted_ms = now_ms - self._table.cells[at + EJECTION_MS]
            times = times_ejected(times, trusted_ms, settings.ejection_time)
        self._table.cells[at + EJECTIONS] = times + 1
        self._change(subject, EJECTED, now_ms)
        self._log(
            subject,
            "warning",
            "backend ejected",
            reason,
            failures=failures,
            ejections=times + 1,
            seconds=self._duration_ms(subject, settings) / 1000,
        )

    def _is_over(self, subject: OutlierSubject, settings: OutlierDetection, now_ms: int) -> bool:
        """Whether an ejected server may be tried.

        Without health checks: once its time is over. With them a check must have passed since, and then the
        time need not be over where that check refutes what it was ejected for.
        """
        cells, at = self._table.cells, self._table.server(subject.row)
        since = cells[at + EJECTION_MS]
        is_due = now_ms >= since + self._duration_ms(subject, settings)
        if not self._is_checked:
            return is_due
        if not self._table.is_healthy(subject.row) or cells[at + STREAK]:
            return False
        if cells[at + CHANGED_MS] > since:  # it was found ill since, and well again
            return True
        is_checked = cells[at + CHECKED_MS] > since
        # A check shows that it can be connected to, not that it answers our users well.
        return is_checked and (is_due or subject.kind == REASONS[CONNECT])

    def _try(self, subject: OutlierSubject, now_ms: int) -> None:
        """Begin a trial: from now on workers send it one request at a time."""
        self._begin_counting(subject)
        self._change(subject, TRIAL, now_ms)
        reason = "check_passed" if self._is_checked else "ejection_over"
        self._log(subject, "info", "backend on trial", reason)

    def _begin_counting(self, subject: OutlierSubject) -> None:
        """Only what comes from now on counts in its trial."""
        subject.failures = self._table.count(subject.row, FAILURES)
        subject.recoveries = self._table.count(subject.row, RECOVERIES)
        subject.suspicion.excuse(self._streaks(subject))

    def _trust_all(self) -> None:
        for subject in self._subjects.values():
            if self._state(subject) != TRUSTED:
                self._change(subject, TRUSTED, 0)
                self._log(subject, "info", "backend returned", "outlier_detection_off")

    # -- writing -----------------------------------------------------------------------------------

    def _duration_ms(self, subject: OutlierSubject, settings: OutlierDetection) -> int:
        times = self._table.cells[self._table.server(subject.row) + EJECTIONS]
        return ejection_ms(times, settings.ejection_time, settings.max_ejection_time)

    def _change(self, subject: OutlierSubject, state: int, now_ms: int) -> None:
        """Write its ejection cells, and tell the workers."""
        at = self._table.server(subject.row)
        self._table.cells[at + EJECTION_MS] = now_ms
        self._table.cells[at + EJECTION] = state
        (self._out.add if state == EJECTED else self._out.discard)(subject.row)
        self._table.bump()
        if state == EJECTED:
            self._hasten(subject.row)

    def _log(
        self, subject: OutlierSubject, level: str, message: str, reason: str, **fields: Any
    ) -> None:
        log.event("health", level, message, backend=subject.server.name, reason=reason, **fields)
