"""Connections to backends: how they are opened, kept while idle and taken again.

Owns the connection cache of each backend in this worker, the look-up of names, the TLS handshake and the
session that the next handshake resumes. Runs in workers. Knows nothing of HTTP: whether a connection is fit
for another request is told by who used it.
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import Any

import gevent.socket

from app.telemetry import log
from app.tls import backends
from app.tls.backends import BackendTrust
from app.wire.authority import host_and_port
from app.worker.net.deadlines import deadlines
from app.worker.net.stream import Stream, connect
from app.worker.net.tls_stream import AnyStream, TlsStream


class Connection:
    """One connection to a backend.

    ``sent`` counts the bytes of all its requests; ``announced`` is the PROXY header that it began with.
    """

    __slots__ = ("announced", "cache", "idle_since", "sent", "stream")

    def __init__(self, stream: AnyStream, cache: ConnectionCache) -> None:
        self.stream = stream
        self.cache = cache
        self.announced = b""
        self.idle_since = 0.0
        self.sent = 0

    def close(self) -> None:
        """Close it for good."""
        self.stream.close()

    def _died_idle(self) -> None:
        """Drop an idle connection that was heard of: it was closed, or it is not to be trusted."""
        idle = self.cache.idle
        if self in idle:
            idle.remove(self)
        self.close()


class TlsConnection(Connection):
    """A connection over TLS. Its session is kept when it is closed, for the next one to resume."""

    __slots__ = ()

    def close(self) -> None:
        """As Connection.close."""
        assert isinstance(self.stream, TlsStream)
        self.cache.keep_session(self.stream)
        self.stream.close()


class ConnectionCache:
    """The idle connections of this worker to one backend, and how to open another.

    ``idle_timeout`` in seconds, 0 keeps them until the backend closes them. The most recently used one is
    taken first, so that the others grow old and are closed before the backend closes them. ``trust`` is for
    https: whose certificates are accepted. ``heard_at`` is when a head last came from the backend,
    ``slowest`` the longest that one took since somebody last looked (app.worker.stalls).
    """

    __slots__ = (
        "_complaint",
        "_context",
        "_is_closed",
        "_newest",
        "_session",
        "_trust",
        "address",
        "heard_at",
        "idle",
        "idle_timeout",
        "slowest",
    )

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        idle_timeout: float,
        trust: BackendTrust | None = None,
    ) -> None:
        self.address = (host, -1 if scheme == "unix" else port)
        self.idle_timeout = idle_timeout
        self.idle: list[Connection] = []
        self._is_closed = False
        self.heard_at = 0.0
        self.slowest = 0.0
        self._trust = trust
        self._complaint = ""
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None
        self._newest: TlsStream | None = None

    @property
    def cache(self) -> ConnectionCache:
        """Itself: what is taken here belongs to no one client (see ClientLane)."""
        return self

    def take(self) -> Connection | None:
        """An idle connection that is still open, if there is one."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            stream = connection.stream
            stream.on_event = None
            # The watcher drops a connection that speaks unasked, but its event may still be waiting for
            # this turn of the loop to end; those bytes must never be the next client's answer (0.3 µs).
            if stream.is_silent():
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

    def open(self, announcement: bytes = b"") -> Connection:
        """Connect, send ``announcement``, and shake hands where the URL says https. Raises OSError."""
        host, port = self.address
        stream = connect(socket.AF_UNIX, host) if port < 0 else self._connect_tcp(host, port)
        if announcement:
            try:
                stream.write(announcement)
            except BaseException:
                stream.close()
                raise
        if self._trust is None:
            return Connection(stream, self)
        return TlsConnection(self._shake_hands(stream, self._trust), self)

    def keep_session(self, stream: TlsStream) -> None:
        """Remember the session of a TLS connection, if the next one can resume it.

        The tickets of TLS 1.3 come behind the handshake: a connection has one when it has been read from.
        """
        tls = stream.tls
        if stream is self._newest:
            self._newest = None
        if tls.context is self._context:
            session = tls.session
            if session is not None and (session.has_ticket or session.id):
                self._session = session
                self._complaint = ""  # this is what it looks like when all is well

    def complain(self, error: ssl.SSLError) -> None:
        """Log why a handshake failed, once until another reason or a success."""
        detail = backends.words(error)
        if detail != self._complaint:
            self._complaint = detail
            log.event(
                "tls",
                "error",
                "handshake with backend failed",
                backend=host_and_port(*self.address),
                reason=backends.reason(error),
                detail=detail,
            )

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

    def _connect_tcp(self, host: str, port: int) -> Stream:
        failure: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                return connect(family, address)
            except OSError as error:
                failure = error
        raise failure or OSError(f"no address for {host}")

    def _shake_hands(self, stream: Stream, trust: BackendTrust) -> TlsStream:
        """TLS over ``stream``, resuming the last session where there is one.

        A handshake costs us 0.9 ms of CPU. Resuming saves 0.15 of it with TLS 1.3; with 1.2, 0.3 and a round
        trip.
        """
        try:
            context = trust.context(monotonic())
            if context is not self._context:
                self._context, self._session, self._newest = context, None, None
            if self._newest is not None:
                self.keep_session(self._newest)
            name = trust.name(self.address[0])
            tls = TlsStream(stream, context, False, name, self._session)
            tls.handshake()
        except ssl.SSLError as error:
            self._session = None  # if it was to blame: the next one is a full handshake
            stream.close()
            self.complain(error)
            raise
        except BaseException:
            stream.close()
            raise
        self._newest = tls
        return tls


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
