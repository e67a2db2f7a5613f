"""The backends of one worker: which may be picked now, and picking one.

Facts about backends change rarely and are paid for when they change: the worker compares one cell of the
shared table (the epoch) and, when it differs, builds a new immutable snapshot of the available backends
with a policy over them. Picking then tests no health. ``available = healthy and not ejected and ready and
not full`` is computed here and nowhere else: the first three by ``_build``, the last by ``take``. Where all
are full a request waits (app.queue). What requests meet at a backend is counted here, and judged by the
control process. Runs in workers, no I/O but log lines. Of a request it knows only that it may have a key,
which app.wire.key finds.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable, Mapping, Sized
from time import monotonic, time_ns
from typing import Any

from app import config as configuration
from app import log, outcomes, retry_after
from app.config import Algorithm, Config, HealthCheck, OutlierDetection, Server
from app.errors import (
    Aborted,
    BackendError,
    BadRequest,
    ConnectFailed,
    ConnectTimeout,
    NoBackend,
    ProxyError,
    StaleConnection,
    Stalled,
)
from app.latency import Latency
from app.policies import POLICIES, Guard, Inputs, KeyMissing, Policy, PolicyError, load_custom, make
from app.queue import Queue
from app.sticky import StickyCookie
from app.table import (
    ADMIN,
    CHECKED_MS,
    CONNECT_STREAK,
    DRAIN,
    EJECTED,
    EJECTION,
    EJECTION_MS,
    EPOCH,
    ERROR_STREAK,
    FAILURES,
    IN_FLIGHT,
    OUTCOMES,
    READY,
    RECOVERIES,
    REQUESTS,
    RESET_STREAK,
    ROW_STRIDE,
    SLOT_HEADER,
    STALLED,
    STREAK,
    STREAKS,
    TRIAL,
    TROUBLES,
    Table,
    identity_of,
)
from app.wire.forwarded import client_finder, trust_in
from app.wire.key import key_reader

ROUND_ROBIN = Algorithm("round_robin")
# Retries look for a backend that was not tried; the policy gets this many chances before its order is
# given up for a plain search.
_PICKS_BEFORE_SEARCH = 8
# Two workers that take the last place at the same moment both see one too many and both give it back; each
# tries again this often. Then it waits like the others, and tries again.
_CLAIMS = 4
# One look for places that other workers have freed tests this many backends, going round.
_LOOKS = 64
# Where we cannot know when there will be a server: an operator has taken all out, or there are none.
_UNKNOWN_SECONDS = 5.0
# Failures further apart are not "in a row", whatever came between them in other workers.
_STREAK_SECONDS = 30.0
# Statuses that say something about the server and not about what it was asked (RFC 9110 §15.6).
_NOT_ITS_FAULT = (501, 505)
_OUT = (EJECTED, STALLED)
# We ran out of descriptors, memory or ports: no server is to blame.
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class Backend:
    """One server as this worker sees it. ``connections`` and ``adapter`` belong to the transport.

    ``in_flight`` and ``requests`` are indexes into the worker's cells. ``limit``: the most requests in flight
    over all workers, 0 for any number. ``is_watched``: its answers are to be told (``answered``).
    ``cookie`` is what its sticky clients say.
    """

    __slots__ = (
        "adapter",
        "authority",
        "base_url",
        "connections",
        "cookie",
        "in_flight",
        "is_available",
        "is_on_trial",
        "is_watched",
        "latency",
        "limit",
        "name",
        "prefix",
        "requests",
        "row",
        "server",
        "troubled_at",
        "url",
    )

    def __init__(self, server: Server, row: int, connections: Any, adapter: Any) -> None:
        self.server = server
        self.row = row
        self.name = server.name
        self.url = server.url
        self.prefix = server.prefix.encode("ascii")
        self.base_url = server.url[: len(server.url) - len(server.prefix)]
        self.authority = authority(server)
        self.cookie = b""
        self.limit = server.max_connections
        self.connections = connections
        self.adapter = adapter
        self.in_flight = SLOT_HEADER + row * ROW_STRIDE + IN_FLIGHT
        self.requests = SLOT_HEADER + row * ROW_STRIDE + REQUESTS
        self.is_available = False  # but for being full
        self.is_watched = False
        self.is_on_trial = False
        self.latency = Latency()
        self.troubled_at = 0.0  # the last failure counted in its streaks; 0.0 if they are 0

    def __repr__(self) -> str:
        return f"<Backend {self.name} row {self.row}>"


def authority(server: Server) -> bytes:
    """The Host of a request that has none of its own: a client of HTTP/1.0, or a probe."""
    if server.scheme == "unix":
        return b"localhost"
    return server.name.removesuffix(server.prefix).encode("ascii")


class Snapshot:
    """The backends that may be picked, and the policy that picks; never changed once built.

    ``backups`` serve requests for which none of ``backends`` is left. ``is_plain``: a pick needs neither a
    key nor a look at who is full. ``is_limited``: all can be full. ``sticky`` finds the backend of a client
    that has been there before, where there are such clients.
    """

    __slots__ = (
        "backends",
        "backups",
        "is_limited",
        "is_plain",
        "pick",
        "policy",
        "reason",
        "sticky",
    )

    def __init__(
        self,
        backends: tuple[Backend, ...],
        policy: Policy | None,
        reason: str = "",
        backups: tuple[Backend, ...] = (),
        has_key: bool = False,
        sticky: Mapping[bytes | None, Backend] | None = None,
    ) -> None:
        self.backends = backends
        self.backups = backups
        self.policy = policy
        self.pick: Callable[..., int] | None = policy.pick if policy is not None else None
        is_free = not has_key and sticky is None
        self.is_plain = policy is not None and is_free and not any(one.limit for one in backends)
        self.is_limited = all(one.limit for one in backends + backups)
        self.sticky = sticky
        self.reason = reason  # why there is none, where there is none


class Pool:
    """All backends of the published configuration, in their order.

    ``connect(server) -> (connections, adapter)`` makes what the transport needs for a backend and
    ``disconnect(connections)`` ends it.
    """

    def __init__(
        self,
        table: Table,
        slot: int,
        connect: Callable[[Server], tuple[Any, Any]],
        disconnect: Callable[[Any], None],
    ) -> None:
        self.table = table
        self.cells = table.slot(slot)
        self._is_private = slot < 0
        self._connect = connect
        self._disconnect = disconnect
        self._sequence = -1
        self._epoch = -1
        self._epoch_cells = table.cells
        self._algorithm = ROUND_ROBIN
        self._guard: Guard | None = None
        self._key_of: Callable[[Any], bytes | None] | None = None
        self._measures = False
        self.sticky: StickyCookie | None = None
        self._counted: frozenset[int] = frozenset()  # streaks that the configuration limits
        self._queue: Queue[Backend] = Queue(self, self.cells)
        self._waiting = self._queue.waiting
        self._looked_at = 0
        self._health_check: HealthCheck | None = None
        self._healthy_in = (-1.0, 0.0)  # when it was found out, and what
        self.backends: tuple[Backend, ...] = ()
        self.snapshot = Snapshot((), None, "none_healthy")
        self.refresh()

    def pick(self, tried: Iterable[Backend] = (), request: Any = None) -> Backend:
        """The next backend for ``request``, not one of ``tried``, and a place there: ``release`` it.

        Waits in the queue while all are full. Raises NoBackend with the reason.
        """
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        snapshot = self.snapshot
        if snapshot.is_plain and not tried:
            assert snapshot.pick is not None
            backend = snapshot.backends[snapshot.pick()]
            self.cells[backend.in_flight] += 1
            return backend
        if snapshot.sticky is not None and request is not None:
            bound = snapshot.sticky.get(request.head.sticky)
            if bound is not None and bound not in tried:
                return self._pick_bound(bound, tried, request)
        if snapshot.is_limited and self._queue.is_due():
            return self._queue.wait(tuple(tried))
        return self._find(snapshot, tried, request) or self._queue.wait(tuple(tried))

    def pick_now(self, tried: Iterable[Backend] = (), request: Any = None) -> Backend:
        """As ``pick``, but for those who have something else to do than to wait."""
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        if not (self.snapshot.is_limited and self._queue.is_due()):
            backend = self._find(self.snapshot, tried, request)
            if backend is not None:
                return backend
        raise NoBackend(reason="all_full")

    def take(self, backend: Backend) -> bool:
        """Take a place at ``backend`` if it has one. All workers together never take more than there are.

        Add first, look afterwards: of two workers that take the last place at least one sees the other.
        (A processor may let a read overtake a write that still waits in its store buffer. Between the two
        lie some hundred writes of the interpreter, more than any such buffer holds.)
        """
        cells, at, limit = self.cells, backend.in_flight, backend.limit
        if not limit:
            cells[at] += 1
            return True
        for _ in range(_CLAIMS):
            if self.table.in_flight(backend.row) >= limit:
                return False
            cells[at] += 1
            if self.table.in_flight(backend.row) <= limit:
                return True
            cells[at] -= 1
        return False

    def keep(self, backend: Backend) -> None:
        """Take one place more where a place is held that is about to be released."""
        self.cells[backend.in_flight] += 1

    def release(self, backend: Backend) -> None:
        """Give back a place that ``pick`` or ``take`` gave: the first who waits gets it."""
        self.cells[backend.in_flight] -= 1
        if self._waiting and backend.is_available:
            self._queue.hand_over(backend)

    def answered(self, backend: Backend, status: int, seconds: float) -> None:
        """A whole answer, its head after that time: told of each 5xx, and of all of a watched backend."""
        if self._measures:
            backend.latency.observe(seconds, monotonic())
        if status >= 500 and status not in _NOT_ITS_FAULT and ERROR_STREAK in self._counted:
            self._count_failure(backend, ERROR_STREAK)
        elif backend.troubled_at or backend.is_on_trial:
            cells, at = self.cells, SLOT_HEADER + backend.row * ROW_STRIDE
            self._end_streaks(at)
            _, bad = self._remember(backend, at, False)
            if not bad:
                self._calm(backend)
            cells[at + RECOVERIES] += 1
            cells[TROUBLES] += 1

    def failed(self, backend: Backend, error: ProxyError) -> None:
        """An attempt has ended without a whole answer; whether the backend is to blame is found here."""
        if isinstance(error, (ConnectFailed, ConnectTimeout)):
            if getattr(error.__context__, "errno", None) not in _OURS:
                self._count_failure(backend, CONNECT_STREAK)
        # A stale connection is a race that nobody lost; a stall has been judged as one.
        elif isinstance(error, (BackendError, Aborted)) and not isinstance(
            error, (StaleConnection, Stalled)
        ):
            self._count_failure(backend, RESET_STREAK)

    def serves(self, backend: Backend) -> bool:
        """Whether requests are sent to it now."""
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        return backend in self.snapshot.backends

    def retry_after(self, reason: str) -> int:
        """Seconds after which a client that was refused for this reason should try again."""
        if reason == "all_full":
            estimate = self._queue.seconds_to_a_place()
        elif reason == "none_healthy" and self.backends and self._health_check is not None:
            estimate = self._until_healthy(self._health_check)
        else:
            estimate = _UNKNOWN_SECONDS if self.snapshot.pick is None else 0.0
        return retry_after.seconds(estimate, random.random())

    def has_other(self, tried: Sized) -> bool:
        """Whether there are more backends to pick from than those and the one that is asked now."""
        snapshot = self.snapshot
        return len(snapshot.backends) + len(snapshot.backups) > len(tried) + 1

    def total(self, cell: int) -> int:
        """A slot's cell over all workers, also where there is no slot for this one."""
        own = self.cells[cell] if self._is_private else 0
        return self.table.total(cell) + own

    def refresh(self) -> None:
        """Build the snapshot anew from the table."""
        self._epoch = self._epoch_cells[EPOCH]  # before reading: a change while we read comes again
        sequence, blob = self.table.published()
        if sequence != self._sequence:
            self._adopt(configuration.from_json(blob) if blob else None)
            self._sequence = sequence
        self.snapshot = self._build()

    # -- what the queue asks ---------------------------------------------------------------------------

    def has_room(self, backend: Backend) -> bool:
        return not backend.limit or self.table.in_flight(backend.row) < backend.limit

    def waiting_since(self) -> list[int]:
        return self.table.waiting_since()

    def is_lost(self, backend: Backend) -> bool:
        return not backend.is_available

    def candidates(self) -> Iterable[Backend]:
        """Some of those that may have room, next time the next ones."""
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        if not self.snapshot.backends:
            raise NoBackend(reason=self.snapshot.reason)
        backends = self.snapshot.backends + self.snapshot.backups
        start = self._looked_at % len(backends)
        self._looked_at = start + _LOOKS
        return (backends[start:] + backends[:start])[:_LOOKS]

    # --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        available = len(self.snapshot.backends)
        return f"<Pool {len(self.backends)} backends, {available} available, epoch {self._epoch}>"

    def _adopt(self, config: Config | None) -> None:
        """Take over a published configuration; a backend that stays keeps its connections."""
        servers = config.servers if config is not None else ()
        known = {backend.url: backend for backend in self.backends}
        rows = self.table.row_index()
        backends = []
        for server in servers:
            row = rows.get(identity_of(server.url), -1)
            if row < 0:  # not in the table: nothing is known about it, so nothing is sent to it
                continue
            backend = known.get(server.url)
            if backend is None or backend.row != row:
                backend = Backend(server, row, *self._connect(server))
            else:
                del known[server.url]
                backend.server = server
            backends.append(backend)
        for backend in known.values():
            self._disconnect(backend.connections)
        self.backends = tuple(backends)
        self.sticky = None
        if config is not None and config.sticky is not None:
            self.sticky = StickyCookie(config.sticky)
            for backend in backends:
                backend.cookie = self.sticky.value_of(backend.url)
        if config is not None:
            self._counted = _counted(config.outlier_detection)
            self._queue.adopt(config.queue, config.timeouts.total)
            self._health_check = config.health_check
            self._adopt_algorithm(config)

    def _adopt_algorithm(self, config: Config) -> None:
        algorithm = config.algorithm
        if algorithm.is_custom and (algorithm != self._algorithm or self._guard is None):
            self._guard = _guard(algorithm)
        elif not algorithm.is_custom:
            self._guard = None
        self._algorithm = algorithm if self._guard or not algorithm.is_custom else ROUND_ROBIN
        reads = POLICIES[self._algorithm.name].reads if self._guard is None else {"key", "latency"}
        is_keyed = "key" in reads
        find_client = client_finder(trust_in(config.trusted_proxies), config.forwarded)
        self._key_of = key_reader(algorithm.hash_on, find_client) if is_keyed else None
        self._measures = "latency" in reads

    def _build(self) -> Snapshot:
        table = self.table
        healthy = [backend for backend in self.backends if table.is_healthy(backend.row)]
        ready = [backend for backend in healthy if self._is_ready(backend)]
        for backend in self.backends:
            backend.is_on_trial = self._server_cell(backend, EJECTION) == TRIAL
            backend.limit = 1 if backend.is_on_trial else backend.server.max_connections
            backend.is_available = False
            backend.is_watched = self._measures or backend.is_on_trial or backend.troubled_at != 0.0
        trusted = [one for one in ready if self._server_cell(one, EJECTION) not in _OUT]
        # Backups serve when no primary can (nginx's meaning), ejected ones when there is nobody else.
        primaries = [backend for backend in trusted if not backend.server.backup]
        available = tuple(primaries or trusted or ready)
        if not available:
            is_draining = healthy or (self.backends and not any(map(self._is_ready, self.backends)))
            reason = "all_draining" if is_draining else "none_healthy"
            return Snapshot((), None, reason, sticky=self._sticky(healthy, ()))
        backups = tuple(one for one in trusted if one.server.backup) if primaries else ()
        for backend in available + backups:
            backend.is_available = True
        policy = self._policy(available)
        has_key = self._key_of is not None
        sticky = self._sticky(healthy, (*available, *backups))
        return Snapshot(available, policy, backups=backups, has_key=has_key, sticky=sticky)

    def _sticky(
        self, healthy: Iterable[Backend], available: Iterable[Backend]
    ) -> Mapping[bytes | None, Backend] | None:
        """By their cookie, the backends that keep their clients: draining ones too."""
        if self.sticky is None:
            return None
        draining = [backend for backend in healthy if self._is_draining(backend)]
        return {backend.cookie: backend for backend in (*available, *draining)}

    def _until_healthy(self, check: HealthCheck) -> float:
        found_at, estimate = self._healthy_in
        now = monotonic()
        if not found_at <= now < found_at + 0.1:  # with all servers down every request asks
            checks = (
                (self._server_cell(one, CHECKED_MS), self._server_cell(one, STREAK))
                for one in self.backends
                if self._is_ready(one)
            )
            interval, threshold = check.interval, check.healthy_threshold
            estimate = retry_after.until_healthy(
                checks, interval, threshold, time_ns() // 1_000_000
            )
            self._healthy_in = now, estimate
        return estimate

    def _policy(self, available: tuple[Backend, ...]) -> Policy:
        table = self.table
        rows = [backend.row for backend in available]
        latencies = [backend.latency for backend in available]
        inputs = Inputs(
            weights=tuple(backend.server.weight for backend in available),
            names=tuple(backend.url for backend in available),
            ticket=table.ticket,
            in_flight=lambda index: table.in_flight(rows[index]),
            latency=lambda index: latencies[index].read(monotonic()),
            capacity=tuple(backend.limit for backend in available),
            random=random.random,
        )
        if self._guard is not None:
            return self._guard.build(inputs)
        return make(self._algorithm.name, dict(self._algorithm.options), inputs)

    def _find(self, snapshot: Snapshot, tried: Iterable[Backend], request: Any) -> Backend | None:
        """A backend that was not tried, with a place taken there; None if all are full.

        The next keys after the first are made of it, so that the keys of a backend that cannot take them
        spread over all others, each always to the same one.
        """
        pick = snapshot.pick
        if pick is None:
            raise NoBackend(reason=snapshot.reason)
        key = self._key_of(request) if self._key_of is not None and request is not None else None
        full = False
        try:
            for attempt in range(_PICKS_BEFORE_SEARCH):
                this = key if key is None or not attempt else b"%b\0%d" % (key, attempt)
                backend = snapshot.backends[pick(this)]
                if backend in tried:
                    continue
                if self.take(backend):
                    return backend
                full = True
        except KeyMissing:
            detail = f"no {self._algorithm.hash_on} in the request"
            raise BadRequest(detail, reason="key_missing") from None
        start = random.randrange(len(snapshot.backends))
        for backend in snapshot.backends[start:] + snapshot.backends[:start] + snapshot.backups:
            if backend not in tried:
                if self.take(backend):
                    return backend
                full = True
        if not full:
            raise NoBackend(reason="all_tried")
        return None

    def _pick_bound(self, bound: Backend, tried: Iterable[Backend], request: Any) -> Backend:
        """A place at the backend of a sticky client; where it is full, the client waits for it.

        Only when it has waited in vain another serves it: its session is there and nowhere else (HAProxy's
        queue of each server). One that leaves or is on trial is not waited for.
        """
        if self.take(bound):
            return bound
        if bound.is_available and not bound.is_on_trial:
            try:
                return self._queue.wait((), bound)
            except NoBackend:
                pass
        return self.pick_now(tried, request)

    def _is_ready(self, backend: Backend) -> bool:
        return backend.server.state == "ready" and self._server_cell(backend, ADMIN) == READY

    def _is_draining(self, backend: Backend) -> bool:
        """Whether it gets no new clients, and is otherwise fit for requests."""
        if self._is_ready(backend) or self._server_cell(backend, EJECTION) in _OUT:
            return False
        is_in_use = self._server_cell(backend, ADMIN) in (READY, DRAIN)
        return is_in_use and backend.server.state != "maint"

    def _server_cell(self, backend: Backend, cell: int) -> int:
        return self.table.cells[self.table.server(backend.row) + cell]

    def _count_failure(self, backend: Backend, streak: int) -> None:
        """Write it where the control process sees it."""
        if streak not in self._counted:
            return
        cells, at = self.cells, SLOT_HEADER + backend.row * ROW_STRIDE
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
        """Add to the last outcomes; how many there are, and how many bad."""
        stamp = self._server_cell(backend, EJECTION_MS)
        recent = self.cells[at + OUTCOMES] = outcomes.add(self.cells[at + OUTCOMES], stamp, is_bad)
        return outcomes.count(recent, stamp)

    def _calm(self, backend: Backend) -> None:
        """Nothing bad is left in its last outcomes."""
        backend.troubled_at = 0.0
        backend.is_watched = self._measures or backend.is_on_trial

    def _end_streaks(self, at: int) -> None:
        for streak in STREAKS:
            self.cells[at + streak] = 0


def _counted(settings: OutlierDetection | None) -> frozenset[int]:
    """The streaks that can get a backend ejected."""
    if settings is None:
        return frozenset()
    limits = (settings.connect_failures, settings.resets, settings.server_errors)
    return frozenset(streak for streak, limit in zip(STREAKS, limits, strict=True) if limit)


def _guard(algorithm: Algorithm) -> Guard | None:
    """A user's class, guarded; None, with a log line, if it cannot be loaded here."""

    def report(reason: str, detail: str) -> None:
        log.event(
            "pool",
            "error",
            "algorithm failed, round robin picks instead",
            algorithm=algorithm.name,
            reason=reason,
            detail=detail,
        )

    try:
        return Guard(load_custom(algorithm.name), dict(algorithm.options), monotonic, report)
    except PolicyError as error:  # it was there when the master tried it
        report("load_failed", str(error))
        return None
