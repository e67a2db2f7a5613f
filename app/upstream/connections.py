"""Connections to backends: how they are opened, kept while idle and taken again.

Owns the connection cache of each backend in this worker, the look-up of names and the TLS handshake. Runs
in workers. Knows nothing of HTTP: whether a connection is fit for another request is told by who used it.
"""

from __future__ import annotations

import socket
import ssl
from functools import cache
from typing import Any

import certifi
import gevent.socket
from gevent import ssl as gevent_ssl

from app.deadlines import deadlines
from app.stream import Stream, connect
from app.tls_stream import AnyStream, TlsSocketStream


class Connection:
    """One connection to a backend. ``sent`` counts bytes of all its requests."""

    __slots__ = ("cache", "idle_since", "sent", "stream")

    def __init__(self, stream: AnyStream, cache: ConnectionCache) -> None:
        self.stream = stream
        self.cache = cache
        self.idle_since = 0.0
        self.sent = 0

    def close(self) -> None:
        """Close it for good."""
        self.stream.close()

    def _died_idle(self) -> None:
        """An idle connection has nothing to say: it was closed, or it is not to be trusted."""
        idle = self.cache.idle
        if self in idle:
            idle.remove(self)
        self.stream.close()


class ConnectionCache:
    """The idle connections of this worker to one backend, and how to open another.

    ``idle_timeout`` in seconds, 0 keeps them until the backend closes them. The most recently used one is
    taken first, so that the others grow old and are closed before the backend closes them.
    ``heard_at`` is when a head last came from the backend, ``slowest`` the longest that one took since
    somebody last looked (app.waits).
    """

    __slots__ = (
        "_is_closed",
        "address",
        "heard_at",
        "idle",
        "idle_timeout",
        "is_tls",
        "server_name",
        "slowest",
    )

    def __init__(self, scheme: str, host: str, port: int, idle_timeout: float) -> None:
        self.address = (host, port)
        self.is_tls = scheme == "https"
        self.server_name = host
        self.idle_timeout = idle_timeout
        self.idle: list[Connection] = []
        self._is_closed = False
        self.heard_at = 0.0
        self.slowest = 0.0
        if scheme == "unix":
            self.address = (host, -1)

    def take(self) -> Connection | None:
        """An idle connection that is still open, if there is one."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            stream = connection.stream
            stream.on_event = None
            # The watcher drops a connection that speaks unasked, but its event may still be waiting for
            # this turn of the loop to end; those bytes must never be the next client's answer (0.8 µs).
            if stream.peek() is None:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose last response was read to its end."""
        if self._is_closed:
            connection.close()
            return
        connection.idle_since = deadlines.now
        stream = connection.stream
        stream.on_event = connection._died_idle
        stream.watch()
        self.idle.append(connection)

    def open(self) -> Connection:
        """Connect, and shake hands where the URL says https. Raises OSError."""
        host, port = self.address
        if port < 0:
            return Connection(connect(socket.AF_UNIX, host), self)
        stream = self._connect_tcp(host, port)
        if not self.is_tls:
            return Connection(stream, self)
        family = stream.raw.family
        plain = gevent.socket.socket(family, socket.SOCK_STREAM, 0, fileno=stream.detach())
        try:
            tls = _tls_context().wrap_socket(plain, server_hostname=self.server_name)
        except BaseException:
            plain.close()
            raise
        return Connection(TlsSocketStream(tls), self)

    def _connect_tcp(self, host: str, port: int) -> Stream:
        failure: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                return connect(family, address)
            except OSError as error:
                failure = error
        raise failure or OSError(f"no address for {host}")

    def sweep(self, now: float) -> None:
        """Close what has been idle too long; the oldest are first."""
        if not self.idle_timeout:
            return
        idle = self.idle
        while idle and now - idle[0].idle_since > self.idle_timeout:
            idle.pop(0).close()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        self._is_closed = True
        while self.idle:
            self.idle.pop().close()

    def __repr__(self) -> str:
        return f"<ConnectionCache {self.address} {len(self.idle)} idle>"


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Where to connect: a literal as it is, a name as the resolver has it, in its order."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    found = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(entry[0], entry[4]) for entry in found]


@cache
def _tls_context() -> gevent_ssl.SSLContext:
    """Certificates and names of backends are verified, against the roots that requests trusts."""
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    return context
