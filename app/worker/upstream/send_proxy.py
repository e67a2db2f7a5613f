"""Connections that begin by saying whose they are (the PROXY protocol), and stay that client's.

A backend takes every request on such a connection for the announced client's. So one is taken again only
where the header would be the same byte for byte: same address, same port, same place it connected to. That
is what HAProxy does too. Runs in workers.
"""

from __future__ import annotations

from app.worker.net.deadlines import NEVER
from app.worker.upstream.connections import Connection, ConnectionCache

# Kept for all clients of one backend in this worker: most will never be asked for again.
MAX_IDLE = 128


class ProxyHeaderConnections(ConnectionCache):
    """The connections to one backend, each bound to the header that it began with."""

    __slots__ = ()

    def lane(self, announcement: bytes) -> ClientLane:
        """The connections that began with ``announcement``."""
        return ClientLane(self, announcement)

    def give_back(self, connection: Connection) -> None:
        """As ConnectionCache.give_back; of MAX_IDLE the oldest is closed to make room."""
        if len(self.idle) >= MAX_IDLE:
            oldest = self.idle.pop(0)
            oldest.close()
        super().give_back(connection)

    def take_announced(self, announcement: bytes) -> Connection | None:
        """As ConnectionCache.take, of those that began with ``announcement``."""
        idle = self.idle
        for index in range(len(idle) - 1, -1, -1):
            connection = idle[index]
            if connection.announced != announcement:
                continue
            del idle[index]
            connection.stream.on_event = None
            if connection.stream.is_silent():
                return connection
            connection.close()
        return None


class ClientLane:
    """A client's part of the connections to one backend, with what of a cache an exchange uses."""

    __slots__ = ("_announcement", "cache")

    def __init__(self, cache: ProxyHeaderConnections, announcement: bytes) -> None:
        self.cache = cache
        self._announcement = announcement

    def take(self) -> Connection | None:
        """As ConnectionCache.take, of this client's connections."""
        return self.cache.take_announced(self._announcement)

    def open(self, within: float = NEVER) -> Connection:
        """As ConnectionCache.open, announcing this client."""
        connection = self.cache.open(within, self._announcement)
        connection.announced = self._announcement
        connection.sent = len(self._announcement)  # the peer's kernel acknowledges that too
        return connection
