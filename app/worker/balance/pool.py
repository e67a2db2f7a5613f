"""The backends of one worker: picking one, and the places there.

Facts about backends change rarely and are paid for when they change: the worker compares one cell of the
shared table (the epoch) and, when it differs, has a new immutable snapshot built of the backends that are
available (app.worker.balance.snapshot). Picking then tests no health, only whether there is a place
(``claim``); where all are full a request waits (app.worker.balance.queue). Runs in workers, no I/O but log
lines. Of a request it knows only that it may have a key, which app.wire.hash_key finds, and a cookie of ours.
"""

from __future__ import annotations

import random
from _thread import allocate_lock
from collections.abc import Callable, Collection, Iterable, Sized
from time import monotonic
from typing import Any, Final

from app.config import Config, ConfigError, HealthCheck, Server
from app.errors import (
    BadRequest,
    NoBackend,
)
from app.policies import KeyMissing
from app.shared import publication
from app.shared.availability import standing_of
from app.shared.layout import CHECKED_MS, EPOCH, PUBLISHED, READY, WAITING_NS
from app.shared.table import Table
from app.telemetry import log
from app.wire.forwarded import Trust
from app.worker.balance import retry_after
from app.worker.balance.algorithm import PolicyFactory
from app.worker.balance.backend import Backend
from app.worker.balance.outcome_counter import OutcomeCounter
from app.worker.balance.published import Published
from app.worker.balance.queue import Queue
from app.worker.balance.snapshot import Snapshot, build
from app.worker.balance.sticky import StickyCookie

# Retries look for a backend that was not tried; the policy gets this many chances before its order is
# given up for a plain search.
_PICKS_BEFORE_SEARCH: Final = 8
# Two workers that take the last place at the same moment both see one too many and both give it back; each
# tries again this often. Then it waits like the others, and tries again.
_CLAIMS: Final = 4
# One look for places that other workers have freed tests this many backends, going round.
_LOOKS: Final = 64
# Where we cannot know when there will be a server: an operator has taken all out, or there are none.
_UNKNOWN_SECONDS: Final = 5.0
_barrier: Final = allocate_lock()  # nobody holds it


class Pool:
    """All backends of the published configuration, in their order.

    ``connect(server) -> (connections, adapter)`` makes what the transport needs for a backend and
    ``disconnect(connections)`` ends it. ``reader`` reads what is published.
    """

    def __init__(
        self,
        table: Table,
        slot: int,
        connect: Callable[[Server], tuple[Any, Any]],
        disconnect: Callable[[Any], None],
        reader: Published | None = None,
    ) -> None:
        self.table = table
        self.cells = table.slot(slot)
        self._is_private = slot < 0
        self._connect = connect
        self._disconnect = disconnect
        self._reader = reader or Published()
        self._sequence = -1
        self._epoch = -1
        self._client_of: Callable[[Any, str], str] | None = None
        self._epoch_cells = table.cells
        self._factory = PolicyFactory(table)
        self.sticky: StickyCookie | None = None
        self._outcomes = OutcomeCounter(table, self.cells, lambda: self.backends)
        self.answered = self._outcomes.answered
        self.failed = self._outcomes.failed
        self._queue: Queue[Backend] = Queue(self, self.cells)
        self._waiting = self._queue.waiting
        self._looked_at = 0
        self._health_check: HealthCheck | None = None
        self._panic_threshold = 0
        self._healthy_in = (-1.0, 0.0)  # when it was found out, and what
        self.backends: tuple[Backend, ...] = ()
        self.snapshot: Snapshot
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

    def pick_now(self, tried: Iterable[Backend], request: Any) -> Backend:
        """Pick without waiting; NoBackend if all are full."""
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        if not (self.snapshot.is_limited and self._queue.is_due()):
            backend = self._find(self.snapshot, tried, request)
            if backend is not None:
                return backend
        raise NoBackend(reason="all_full")

    def claim(self, backend: Backend) -> bool:
        """Take a place at ``backend`` if it has one. All workers together never take more than there are.

        Add first, look afterwards: of two workers that take the last place at least one sees the other.
        """
        cells, at, limit = self.cells, backend.in_flight, backend.limit
        if not limit:
            cells[at] += 1
            return True
        for _ in range(_CLAIMS):
            if self._in_flight(backend) >= limit:
                return False
            cells[at] += 1
            _flush_writes()
            if self._in_flight(backend) <= limit:
                return True
            cells[at] -= 1
        return False

    def release(self, backend: Backend) -> None:
        """Give back a place that ``pick`` or ``claim`` gave: the first who waits gets it."""
        self.cells[backend.in_flight] -= 1
        if self._waiting and backend.is_available:
            self._queue.hand_over(backend)

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
        """Whether a backend is left to pick besides those in ``tried`` and the one that is asked now."""
        snapshot = self.snapshot
        return len(snapshot.backends) + len(snapshot.backups) > len(tried) + 1

    def has_place_besides(self, tried: Collection[Backend]) -> bool:
        """Whether a pick that leaves out ``tried`` would find a place now, without waiting for one."""
        snapshot = self.snapshot
        if snapshot.is_limited and self._queue.is_due():
            return False
        every = snapshot.backends + snapshot.backups
        return any(one not in tried and self.has_room(one) for one in every)

    def bound_client(self, exchange: Any) -> str:
        """The address of a request's client where it may stay at its server (sticky, hash), else ""."""
        if self._client_of is None:
            return ""
        peer: str = exchange.peer
        return self._client_of(exchange.head, peer) if exchange.is_trusted else peer

    def total(self, cell: int) -> int:
        """The sum of a cell over the slots of all workers, and what this one has where it found no slot."""
        own = self.cells[cell] if self._is_private else 0
        return self.table.total(cell) + own

    def refresh(self) -> None:
        """Take over what was published since the last time, and build the snapshot anew from the table."""
        self._epoch = self._epoch_cells[EPOCH]  # before reading: a change while we read comes again
        sequence, blob = publication.published(self.table)
        gone: Iterable[Backend] = ()
        if sequence != self._sequence:
            try:
                config = self._reader.config(blob) if blob else None
                if config is not None or not blob:
                    gone = self._adopt(config)
                    self._sequence = sequence
            except ConfigError as error:
                self._complain(sequence, error)
                self._sequence = sequence
        self._build()
        for backend in gone:
            self._disconnect(backend.connections)

    def look(self, _now: float) -> None:
        """At every tick: take over what was published, so that no request is the first to meet it."""
        if self._epoch_cells[PUBLISHED] != self._sequence and not self._reader.is_reading:
            self.refresh()

    def start_with(self, config: Config) -> None:
        """Serve by ``config`` until something is published that this worker can read.

        For a worker that boots while it cannot read what is published.
        """
        self._adopt(config)
        self._build()

    # -- what the queue asks ---------------------------------------------------------------------------

    def has_room(self, backend: Backend) -> bool:
        return not backend.limit or self._in_flight(backend) < backend.limit

    def waiting_since(self) -> list[int]:
        return self.table.of_each_slot(WAITING_NS)

    def is_lost(self, backend: Backend) -> bool:
        return not backend.is_available

    def candidates(self) -> Iterable[Backend]:
        """Up to _LOOKS of the backends that may have room, going round: the next call gives the next ones."""
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

    def _adopt(self, config: Config | None) -> Iterable[Backend]:
        """Take over a published configuration; give the backends that are gone, whose connections may go.

        A backend that stays keeps its connections.
        """
        known = {backend.url: backend for backend in self.backends}
        backends = []
        # Of one that is not in the table nothing is known, so nothing is sent to it.
        for server, row in self.table.rows_of(config.servers if config is not None else ()):
            backend = known.get(server.url)
            if backend is None or backend.row != row:
                backend = Backend(server, row, *self._connect(server))
            else:
                del known[server.url]
                backend.server = server
            backends.append(backend)
        self.backends = tuple(backends)
        self.sticky = None
        if config is not None:
            self._adopt_settings(config)
        return known.values()

    def _adopt_settings(self, config: Config) -> None:
        if config.sticky is not None:
            self.sticky = StickyCookie(config.sticky)
            for backend in self.backends:
                backend.cookie = self.sticky.value_of(backend.url)
        trust = Trust(config.trusted_proxies, config.forwarded)
        self._factory.adopt(config, trust)
        binds = self.sticky is not None or self._factory.key_of is not None
        self._client_of = trust.client_of if binds else None
        self._outcomes.adopt(config.outlier_detection, self._factory.measures)
        self._queue.adopt(config.queue, config.timeouts.total)
        self._health_check = config.health_check
        self._panic_threshold = config.panic_threshold

    def _complain(self, sequence: int, error: ConfigError) -> None:
        """Log, once for each, that what another release's master has published cannot be read."""
        log.event(
            "pool",
            "error",
            "published configuration cannot be read, the one in use stays",
            sequence=sequence,
            problems=[str(problem) for problem in error.problems],
        )

    def _build(self) -> None:
        self.snapshot = build(
            self.backends,
            self.table,
            self._panic_threshold,
            self._factory,
            self._outcomes.watches,
            self.sticky is not None,
        )

    def _in_flight(self, backend: Backend) -> int:
        """The requests at a backend over all workers, and this one's where it found no slot."""
        own = self.cells[backend.in_flight] if self._is_private else 0
        return self.table.in_flight(backend.row) + own

    def _until_healthy(self, check: HealthCheck) -> float:
        found_at, estimate = self._healthy_in
        now = monotonic()
        if not found_at <= now < found_at + 0.1:  # with all servers down every request asks
            cells, server = self.table.cells, self.table.server
            starts = ((one, server(one.row)) for one in self.backends)
            checks = (
                cells[at + CHECKED_MS]
                for one, at in starts
                if standing_of(one.server.state, one.server.backup, cells, at).admin == READY
            )
            interval, fast = check.interval, check.fast_interval
            estimate = retry_after.until_healthy(checks, interval, fast, int(now * 1000))
            self._healthy_in = now, estimate
        return estimate

    def _find(self, snapshot: Snapshot, tried: Iterable[Backend], request: Any) -> Backend | None:
        """A backend that was not tried, with a place taken there; None if all are full.

        When the backend of a key cannot take it, more keys are made of that: so the keys of one backend
        spread over all others, each always to the same one.
        """
        pick = snapshot.pick
        if pick is None:
            raise NoBackend(reason=snapshot.reason)
        key_of = self._factory.key_of
        key = key_of(request) if key_of is not None and request is not None else None
        full = False
        try:
            for attempt in range(_PICKS_BEFORE_SEARCH):
                this = key if key is None or not attempt else b"%b\0%d" % (key, attempt)
                backend = snapshot.backends[pick(this)]
                if backend in tried:
                    continue
                if self.claim(backend):
                    return backend
                full = True
        except KeyMissing:
            detail = f"no {self._factory.hash_on} in the request"
            raise BadRequest(detail, reason="key_missing") from None
        start = random.randrange(len(snapshot.backends))
        for backend in snapshot.backends[start:] + snapshot.backends[:start] + snapshot.backups:
            if backend not in tried:
                if self.claim(backend):
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
        if self.claim(bound):
            return bound
        if bound.is_available and not bound.is_on_trial:
            try:
                return self._queue.wait((), bound)
            except NoBackend:
                pass
        return self.pick_now(tried, request)


def _flush_writes() -> None:
    """Have others see what we wrote before we read what they did (0.08 µs).

    A processor may let a read overtake a write that still waits in its store buffer. The atomic exchange
    in a lock empties it on x86 (Intel SDM 3A §9.2.3.9).
    """
    if _barrier.acquire(False):
        _barrier.release()
