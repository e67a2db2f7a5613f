"""Checks every server of the configuration again and again, and writes down what comes of it.

Owns when a server is checked, the health cells of the table, of which it is the only writer, and the log
lines about health. Runs in the control process, one greenlet for each server, so that a slow check delays no
other. Must never know how a check is made (probe) or what results in a row mean (verdicts), and never decides
which configuration is in use: ``adopt`` is told.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import gevent
import gevent.ssl
from gevent.event import Event

from app.config import BackendTls, Config, HealthCheck, Server
from app.control.health.intervals import CheckState, pause
from app.control.health.probe import CheckResult, ProbeRequest, ProbeSession, probe
from app.control.health.slow_start import SlowStart
from app.control.health.verdicts import Health, Thresholds, observe
from app.control.names import Place
from app.shared.layout import (
    CHANGED_MS,
    CHECKED,
    CHECKED_MS,
    EJECTION,
    HEALTHY,
    IDENTITY,
    STALLED,
    STATE,
    STATUS,
    STREAK,
    TRUSTED,
    UNCHECKED,
    UNHEALTHY,
)
from app.shared.slowest import Slowest
from app.shared.table import Table, identity_of
from app.telemetry import log
from app.tls.backends import BackendTrust

# A check costs about 0.2 ms of CPU here: started faster than that, a thousand first checks would wait
# for each other and a short timeout would condemn healthy servers.
START_PACE_SECONDS = 0.0003
# A rack that goes down turns many verdicts at once; each bump makes every worker rebuild its snapshot.
BUMP_SECONDS = 0.005

# Prepares the checks of one server; each call of what it returns makes one.
Check = Callable[[Server, Config], Callable[[], CheckResult]]
Later = Callable[..., gevent.Greenlet]  # (seconds, function, *arguments)


# What a check usually takes is the slowest of late: of an older one a third counts after this time.
FORGET_SECONDS = 300.0


class Question(NamedTuple):
    """A check of one server that can be made at any time: ``put`` makes it, and raises nothing.

    ``usual_ms``: how long its checks usually take, 0 if that is not known.
    """

    put: Callable[[], CheckResult]
    usual_ms: Callable[[], float]


class Watch:
    """One server under check: its row, and the greenlet that checks it.

    ``terms``: what of the configuration its checks depend on. ``failures``: checks failed since it was found
    unhealthy. ``slowest_ms``: how long answered checks took. ``soon`` is set to have it checked now.
    ``is_failing_locally``: it was logged that it cannot be checked for reasons of our own.
    """

    __slots__ = (
        "check",
        "failures",
        "greenlet",
        "health_check",
        "identity",
        "is_failing_locally",
        "row",
        "server",
        "slowest_ms",
        "soon",
        "terms",
    )

    def __init__(
        self, server: Server, row: int, health_check: HealthCheck, config: Config, check: Check
    ) -> None:
        self.server = server
        self.row = row
        self.identity = identity_of(server.url)
        self.health_check = health_check
        self.terms = _terms(config)
        self.check = check(server, config)
        self.is_failing_locally = False
        self.failures = 0
        self.slowest_ms = Slowest(FORGET_SECONDS)
        self.soon = Event()
        self.greenlet: gevent.Greenlet | None = None

    def stop(self) -> None:
        """End its greenlet, and with it a check that is under way."""
        if self.greenlet is not None:
            self.greenlet.kill(block=False)


class Checker:
    """Checks the servers of the configuration it adopted last."""

    def __init__(
        self,
        table: Table,
        slow_start: SlowStart,
        check: Check,
        later: Later = gevent.spawn_later,
    ) -> None:
        """``check`` prepares the checks of a server, ``later`` starts a greenlet after some seconds."""
        self._table = table
        self._slow_start = slow_start
        self._later = later
        self._check = check
        self._watches: dict[int, Watch] = {}  # by the servers' identities, as the three sets
        self._by_row: dict[int, Watch] = {}
        self._sequence = 0  # of the configuration that was adopted last
        self._unchecked: set[int] = set()  # without a verdict yet
        self._healthy: set[int] = set()
        self._hurried: set[int] = set()  # the next check comes sooner than an interval
        self._bumping = self._is_bump_due = False

    def __repr__(self) -> str:
        return f"<Checker {len(self._watches)} servers, {len(self._unchecked)} unchecked>"

    def adopt(self, sequence: int, config: Config) -> None:
        """Check the servers of ``config`` from now on, new ones at once.

        Once all of them have a verdict, ``sequence`` stands in the cell CHECKED, for which the master waits.
        """
        # One without a row was in a proposal that has been replaced: the next one is here at once.
        servers = self._table.rows_of(config.servers)
        self._sequence = sequence
        if config.health_check is None:
            self._trust(row for _, row in servers)
            self._keep({})
        else:
            self._keep(self._watch_all(config, config.health_check, servers))
        self._acknowledge()

    def question(self, row: int) -> Question | None:
        """A check of the server in ``row`` beside those that are due.

        None where its result would not tell whether the server hangs: it is not checked, or by a connect
        alone, which the kernel completes for a process that hangs.
        """
        watch = self._by_row.get(row)
        if watch is None or watch.health_check.type != "http":
            return None
        return Question(
            partial(self._attempt, watch), lambda: watch.slowest_ms.as_of(time.monotonic())
        )

    def hasten(self, row: int) -> None:
        """Check the server in ``row`` now, and not when it is due; nothing happens if it is not watched."""
        watch = self._by_row.get(row)
        if watch is not None:
            watch.soon.set()

    def record(self, watch: Watch, result: CheckResult) -> None:
        """Take one result into account, unless the row was given to another server meanwhile."""
        at = self._table.server(watch.row)
        if self._table.cells[at + IDENTITY] == watch.identity:
            if result.ok is None:
                self._excuse(watch, result)
            else:
                watch.is_failing_locally = False
                self._judge(watch, at, result, result.ok)
        self._unchecked.discard(watch.identity)
        self._acknowledge()

    def _watch_all(
        self, config: Config, health_check: HealthCheck, servers: Iterable[tuple[Server, int]]
    ) -> dict[int, Watch]:
        """A watch for each server that is to be checked; one that nothing has changed for is kept."""
        watches: dict[int, Watch] = {}
        for server, row in servers:
            identity = identity_of(server.url)
            if server.state == "maint":  # what is known of it will be old when it comes back
                self._table.cells[self._table.server(row) + STATE] = UNCHECKED
                continue
            watch = self._watches.get(identity)
            if watch is None or (watch.terms, watch.row) != (_terms(config), row):
                watch = Watch(server, row, health_check, config, self._check)
            watches[identity] = watch
        return watches

    def _keep(self, watches: dict[int, Watch]) -> None:
        """Have these watches and no others: stop those that are not among them, start the new ones."""
        for identity, watch in self._watches.items():
            if watches.get(identity) is not watch:
                watch.stop()
        self._watches = watches
        self._by_row = {watch.row: watch for watch in watches.values()}
        cells, table = self._table.cells, self._table
        self._unchecked = {
            identity
            for identity, watch in watches.items()
            if cells[table.server(watch.row) + STATE] == UNCHECKED
        }
        self._healthy = {one.identity for one in watches.values() if table.is_healthy(one.row)}
        self._hurried &= watches.keys()
        first = 0
        for watch in watches.values():
            if watch.greenlet is not None:
                continue
            if watch.identity in self._unchecked:
                delay = first * START_PACE_SECONDS
                first += 1
            else:
                delay = random.uniform(0, watch.health_check.interval)
            watch.greenlet = self._later(delay, self._run, watch)

    def _run(self, watch: Watch) -> None:
        """The greenlet of a watch: check, wait, check again."""
        interval, jitter = watch.health_check.interval, watch.health_check.jitter
        # The first round starts all at once; the second is spread over one interval, and stays so.
        longest = random.uniform(0, interval)
        while True:
            started = time.monotonic()
            watch.soon.clear()
            self.record(watch, self._attempt(watch))
            seconds = self.seconds_to_next(watch) * random.uniform(1 - jitter, 1 + jitter)
            watch.soon.wait(max(0.0, started + min(longest, seconds) - time.monotonic()))
            longest = float("inf")

    def seconds_to_next(self, watch: Watch) -> float:
        """Seconds from the start of the last check to that of the next, before jitter."""
        cells, at = self._table.cells, self._table.server(watch.row)
        state = CheckState(
            is_open=cells[at + STREAK] > 0 or cells[at + EJECTION] != TRUSTED,
            is_unhealthy=cells[at + STATE] == UNHEALTHY,
            failures=watch.failures,
            nobody_is_healthy=not self._healthy,
        )
        (self._hurried.add if state.hurries else self._hurried.discard)(watch.identity)
        limits = watch.health_check
        return pause(state, limits.interval, limits.fast_interval, len(self._hurried))

    def _attempt(self, watch: Watch) -> CheckResult:
        """Make one check. It raises nothing: a dead greenlet leaves its server unwatched or unasked."""
        try:
            result = watch.check()
        except Exception as error:  # noqa: BLE001 - see above
            return CheckResult(None, "internal_error", detail=repr(error))
        # What waited out a stall says nothing about what is usual.
        at = self._table.server(watch.row)
        if result.status is not None and self._table.cells[at + EJECTION] != STALLED:
            watch.slowest_ms.observe(result.duration_ms, time.monotonic())
        return result

    def _judge(self, watch: Watch, at: int, result: CheckResult, ok: bool) -> None:
        """Write down what a result makes of a server; a verdict that turns is logged, and workers told."""
        cells = self._table.cells
        now_ms = time.monotonic_ns() // 1_000_000
        before = Health(cells[at + STATE], cells[at + STREAK], cells[at + CHANGED_MS])
        limits = watch.health_check
        # While no server is healthy, one pass is enough: a server that may be well is better than none.
        needed = limits.healthy_threshold if self._healthy else 1
        thresholds = Thresholds(needed, limits.unhealthy_threshold)
        health, turned = observe(before, ok, now_ms, thresholds)
        cells[at + CHECKED_MS] = now_ms
        cells[at + STATUS] = result.status or 0
        cells[at + STREAK] = health.streak
        watch.failures = 0 if ok or turned else watch.failures + 1
        (self._healthy.add if health.verdict == HEALTHY else self._healthy.discard)(watch.identity)
        if turned:
            cells[at + CHANGED_MS] = health.changed_ms
            if ok:
                self._slow_start.begin(watch.row)
            cells[at + STATE] = health.verdict
            self._bump()
            _log_turn(watch, result, ok, before.streak + 1)

    def _excuse(self, watch: Watch, result: CheckResult) -> None:
        """Log that a check could not be made, once until one can be; about the server it says nothing."""
        if not watch.is_failing_locally:
            watch.is_failing_locally = True
            log.event(
                "health",
                "error",
                "backend could not be checked",
                backend=watch.server.name,
                reason=result.reason,
                detail=result.detail,
            )

    def _trust(self, rows: Iterable[int]) -> None:
        """Without health checks every server counts as healthy."""
        for row in rows:
            if not self._table.is_healthy(row):
                self._slow_start.begin(row)
            self._table.cells[self._table.server(row) + STATE] = HEALTHY
        self._table.bump()

    def _acknowledge(self) -> None:
        """Tell the master when every server of the configuration has a verdict."""
        if not self._unchecked:
            self._table.cells[CHECKED] = self._sequence

    def _bump(self) -> None:
        """Have the workers look at the table: now, but not again within BUMP_SECONDS.

        A change within that time is told at its end, so that none is missed.
        """
        if self._bumping:
            self._is_bump_due = True
            return
        self._bumping = True
        self._table.bump()
        self._later(BUMP_SECONDS, self._bump_again)

    def _bump_again(self) -> None:
        self._bumping = False
        if self._is_bump_due:
            self._is_bump_due = False
            self._bump()


def _terms(config: Config) -> tuple[object, ...]:
    """What of a configuration the checks of a server depend on."""
    return config.health_check, config.backend_tls, config.send_proxy, config.mend_responses


def checks(place_of: Callable[[Server], Place]) -> Check:
    """Real checks: all over one session, with one request for each server that is prepared once.

    ``place_of`` says where a server is (app.control.names).
    """
    session = ProbeSession()
    # Of the settings in use: reading the authorities costs 20 ms, once for all servers.
    trusts: dict[BackendTls, BackendTrust] = {}

    def prepare(server: Server, config: Config) -> Callable[[], CheckResult]:
        assert config.health_check is not None
        trust = None
        if server.scheme == "https":
            settings = config.backend_tls
            if settings not in trusts:
                trusts.clear()
                trusts[settings] = BackendTrust(settings, gevent.ssl.SSLContext)
            trust = trusts[settings]
        request = ProbeRequest(
            server,
            place_of(server),
            config.health_check,
            trust,
            config.send_proxy,
            config.mend_responses,
        )
        return lambda: probe(session, request)

    return prepare


def _log_turn(watch: Watch, result: CheckResult, ok: bool, consecutive: int) -> None:
    log.event(
        "health",
        "info" if ok else "warning",
        f"backend is {'healthy' if ok else 'unhealthy'}",
        backend=watch.server.name,
        reason=result.reason,
        healthy=ok,
        status=result.status,
        consecutive=consecutive,
        duration_ms=round(result.duration_ms, 3),
        **({"detail": result.detail} if result.detail else {}),
    )
