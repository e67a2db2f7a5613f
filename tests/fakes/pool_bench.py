"""A worker's pool over shared memory, and what the control process and other workers write there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app import config as configuration
from app.errors import NoBackend
from app.shared.layout import FAILURES, IN_FLIGHT, RECOVERIES, STREAKS
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from fakes.world import Entry, World, url

SLOT = 1  # the pool's own
OTHER_SLOT = 2  # another worker's
STICKY = {"secret": "0123456789abcdef"}


class PoolBench(World):
    """A pool whose backends have names in the place of connections and adapters."""

    def __init__(self, *servers: Entry, **settings: Any) -> None:
        super().__init__(slots=3)
        self.disconnected: list[str] = []
        self.publish(*servers, **settings)
        self.pool = Pool(self.table, SLOT, self.connect, self.disconnected.append)

    def connect(self, server: configuration.Server) -> tuple[str, str]:
        return f"connections to {server.name}", f"adapter of {server.name}"

    def publish(self, *servers: Entry, **settings: Any) -> configuration.Config:
        """Without a queue, unless the settings have one: who finds all servers full is refused at once."""
        return super().publish(*servers, **{"queue": False, **settings})

    def load(self, port: int, count: int, slot: int = OTHER_SLOT) -> None:
        """Requests in flight that another worker has at a server."""
        cells, at = self.counters(port, slot)
        cells[at + IN_FLIGHT] = count

    def counted(self, port: int) -> list[int]:
        """What the pool's worker has counted of a server: three streaks, failures, recoveries."""
        cells, at = self.counters(port, SLOT)
        return [cells[at + cell] for cell in (*STREAKS, FAILURES, RECOVERIES)]

    def backend(self, port: int) -> Backend:
        return next(one for one in self.pool.backends if one.server.port == port)

    def picks(self, count: int) -> list[int]:
        return [self.pick() for _ in range(count)]

    def pick(self, *tried: int) -> int:
        """The port of one pick, whose request is over at once."""
        backend = self.pool.pick(tuple(map(self.backend, tried)))
        self.pool.release(backend)
        return backend.server.port

    def available(self) -> set[int]:
        """Ports that are picked now."""
        return set(self.picks(12))

    def refusal(self, *tried: int) -> str:
        with pytest.raises(NoBackend) as caught:
            self.pool.pick(tuple(map(self.backend, tried)))
        return caught.value.reason


def server(port: int, **more: Any) -> dict[str, Any]:
    """An object of ``servers`` in a configuration."""
    return {"url": url(port), **more}


def bound(bench: PoolBench, *ports: int, cookie: bytes | None = None, tried: int = 0) -> list[int]:
    """Where a client with a server's cookie (or this one) is sent, in a dozen requests."""
    said = [bench.backend(port).cookie for port in ports] or [cookie]
    requests = [SimpleNamespace(head=SimpleNamespace(sticky=value)) for value in said]
    left_out = (bench.backend(tried),) if tried else ()
    return [bench.pool.pick(left_out, one).server.port for one in requests for _ in range(12)]
