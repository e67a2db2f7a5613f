"""One server as a worker sees it. Values only: app.worker.balance.pool sets them, others read."""

from __future__ import annotations

from typing import Any

from app.config import Server
from app.shared.layout import IN_FLIGHT, REQUESTS, counters_at
from app.worker.balance.latency import Latency


class Backend:
    """A configured server with what this worker keeps about it.

    ``connections`` and ``adapter`` belong to the transport.

    ``in_flight`` and ``requests`` are indexes into the worker's cells. ``limit``: the most requests in flight
    over all workers, 0 for any number. ``is_watched``: Pool.answered is to hear of all its answers.
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
        self.authority = server.authority.encode("ascii")
        self.cookie = b""
        self.limit = server.max_connections
        self.connections = connections
        self.adapter = adapter
        self.in_flight = counters_at(row) + IN_FLIGHT
        self.requests = counters_at(row) + REQUESTS
        self.is_available = False  # but for being full
        self.is_watched = False
        self.is_on_trial = False
        self.latency = Latency()
        self.troubled_at = 0.0  # the last failure counted in its streaks; 0.0 if they are 0

    def __repr__(self) -> str:
        return f"<Backend {self.name} row {self.row}>"
