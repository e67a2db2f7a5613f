"""The backends of one worker: which may be picked now, and picking one.

Facts about backends change rarely and are paid for when they change: the worker compares one cell of the
shared table (the epoch) and, when it differs, builds a new immutable snapshot of the available backends
with a policy over them. Picking then tests no health. ``available = healthy and ready and not full`` is
computed here and nowhere else. Runs in workers, no I/O, knows nothing of HTTP messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from app import config as configuration
from app.config import Config, Server
from app.errors import NoBackend
from app.policies import Inputs, Policy, make
from app.table import (
    ADMIN,
    EPOCH,
    IN_FLIGHT,
    READY,
    REQUESTS,
    ROW_STRIDE,
    SLOT_HEADER,
    Table,
    identity_of,
)

# Retries look for a backend that was not tried; the policy gets this many chances before its order is
# given up for a plain search.
_PICKS_BEFORE_SEARCH = 8


class Backend:
    """One server as this worker sees it. ``connections`` and ``adapter`` belong to the transport.

    ``in_flight`` and ``requests`` are indexes into the worker's cells: acquire and release are
    ``cells[backend.in_flight] += 1`` and ``-= 1``.
    """

    __slots__ = (
        "adapter",
        "authority",
        "base_url",
        "connections",
        "in_flight",
        "max_connections",
        "name",
        "prefix",
        "requests",
        "row",
        "server",
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
        self.max_connections = server.max_connections
        self.connections = connections
        self.adapter = adapter
        self.in_flight = SLOT_HEADER + row * ROW_STRIDE + IN_FLIGHT
        self.requests = SLOT_HEADER + row * ROW_STRIDE + REQUESTS

    def __repr__(self) -> str:
        return f"<Backend {self.name} row {self.row}>"


def _no_samples(_index: int) -> float:
    """Latency is measured when there is a policy that asks for it."""
    return 0.0


def authority(server: Server) -> bytes:
    """The Host of a request that has none of its own: a client of HTTP/1.0, or a probe."""
    if server.scheme == "unix":
        return b"localhost"
    return server.name.removesuffix(server.prefix).encode("ascii")


class Snapshot:
    """The backends that may be picked, and the policy that picks; never changed once built."""

    __slots__ = ("backends", "pick", "policy", "reason")

    def __init__(self, backends: tuple[Backend, ...], policy: Policy | None, reason: str) -> None:
        self.backends = backends
        self.policy = policy
        self.pick: Callable[[], int] | None = policy.pick if policy is not None else None
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
        self._connect = connect
        self._disconnect = disconnect
        self._sequence = -1
        self._epoch = -1
        self._epoch_cells = table.cells
        self._limited = False
        self.backends: tuple[Backend, ...] = ()
        self.snapshot = Snapshot((), None, "none_healthy")
        self.refresh()

    def pick(self, tried: Iterable[Backend] = ()) -> Backend:
        """The next backend, not one of ``tried``. Raises NoBackend with the reason."""
        if self._epoch_cells[EPOCH] != self._epoch:
            self.refresh()
        snapshot = self.snapshot
        if snapshot.pick is None:
            raise NoBackend(reason=snapshot.reason)
        if not tried and not self._limited:
            return snapshot.backends[snapshot.pick()]
        return self._pick_other(snapshot, tried)

    def refresh(self) -> None:
        """Build the snapshot anew from the table."""
        self._epoch = self._epoch_cells[EPOCH]  # before reading: a change while we read comes again
        sequence, blob = self.table.published()
        if sequence != self._sequence:
            self._adopt(configuration.from_json(blob) if blob else None)
            self._sequence = sequence
        self.snapshot = self._build()

    def __repr__(self) -> str:
        available = len(self.snapshot.backends)
        return f"<Pool {len(self.backends)} backends, {available} available, epoch {self._epoch}>"

    def _adopt(self, config: Config | None) -> None:
        """Take over a published configuration; a backend that stays keeps its connections."""
        servers = config.servers if config is not None else ()
        self._algorithm = config.algorithm if config is not None else "round_robin"
        known = {backend.server: backend for backend in self.backends}
        rows = self.table.row_index()
        backends = []
        for server in servers:
            row = rows.get(identity_of(server.url), -1)
            backend = known.pop(server, None)
            if backend is None or backend.row != row:
                if row < 0:  # not in the table: nothing is known about it, so nothing is sent to it
                    continue
                backend = Backend(server, row, *self._connect(server))
            backends.append(backend)
        for backend in known.values():
            self._disconnect(backend.connections)
        self.backends = tuple(backends)
        self._limited = any(backend.max_connections for backend in self.backends)

    def _build(self) -> Snapshot:
        table = self.table
        healthy = [backend for backend in self.backends if table.is_healthy(backend.row)]
        ready = [
            backend
            for backend in healthy
            if table.cells[table.server(backend.row) + ADMIN] == READY
        ]
        # Backups serve when no primary can (nginx's meaning).
        available = [backend for backend in ready if not backend.server.backup] or ready
        if not available:
            return Snapshot((), None, "all_draining" if healthy else "none_healthy")
        rows = [backend.row for backend in available]
        policy = make(
            self._algorithm,
            {},
            Inputs(
                weights=tuple(backend.server.weight for backend in available),
                names=tuple(backend.url for backend in available),
                ticket=table.ticket,
                in_flight=lambda index: table.in_flight(rows[index]),
                latency=_no_samples,
                capacity=tuple(backend.max_connections for backend in available),
                random=random.random,
            ),
        )
        return Snapshot(tuple(available), policy, "")

    def _pick_other(self, snapshot: Snapshot, tried: Iterable[Backend]) -> Backend:
        """A pick that leaves out backends: those already tried, and full ones."""
        assert snapshot.pick is not None
        full = False
        for _ in range(_PICKS_BEFORE_SEARCH):
            backend = snapshot.backends[snapshot.pick()]
            if backend in tried:
                continue
            if not self._is_full(backend):
                return backend
            full = True
        for backend in snapshot.backends:
            if backend not in tried:
                if not self._is_full(backend):
                    return backend
                full = True
        raise NoBackend(reason="all_full" if full else "all_tried")

    def _is_full(self, backend: Backend) -> bool:
        limit = backend.max_connections
        return limit > 0 and self.table.in_flight(backend.row) >= limit
