"""Connections to backends: how they are opened, kept while idle and taken again.

Owns the connection cache of each backend in this worker, at which of its addresses it is used, the TLS
handshake and the session that the next handshake resumes. Runs in workers. Knows nothing of HTTP: whether a
connection is fit for another request is told by who used it; and nothing of names: where a backend is, it is
told (app.worker.upstream.addresses).
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic

from app.connecting import happy_eyeballs
from app.connecting.happy_eyeballs import Endpoint
from app.telemetry import log
from app.tls import backends
from app.tls.backends import BackendTrust
from app.wire.authority import host_and_port
from app.worker.net.deadlines import NEVER, deadlines
from app.worker.net.stream import Stream, connect
from app.worker.net.tls_stream import AnyStream, TlsStream
from app.worker.upstream.addresses import News


class Connection:
    """One connection to a backend.

    ``sent`` counts the bytes of all its requests; ``announced`` is the PROXY header that it began with.
    ``endpoint`` is where it leads, ``era`` when it was opened or last found to lead to the right place.
    """

    __slots__ = ("announced", "cache", "endpoint", "era", "idle_since", "sent", "stream")

    def __init__(self, stream: AnyStream, cache: ConnectionCache) -> None:
        self.stream = stream
        self.cache = cache
        self.announced = b""
        self.endpoint: Endpoint | None = None
        self.era = cache.era
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
    https: whose certificates are accepted. ``news`` gives the addresses of a backend that has a name, the one
    to use in front; ``era`` counts how often they changed. ``heard_at`` is when a head last came from the
    backend, ``slowest`` the longest that one took since somebody last looked (app.worker.stalls).
    """

    __slots__ = (
        "_complaint",
        "_context",
        "_endpoints",
        "_is_choosy",
        "_is_closed",
        "_newest",
        "_news",
        "_session",
        "_trust",
        "address",
        "era",
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
        news: News | None = None,
    ) -> None:
        self.address = (host, -1 if scheme == "unix" else port)
        self.idle_timeout = idle_timeout
        self.idle: list[Connection] = []
        self.era = 0
        self._news = news
        self._endpoints: tuple[Endpoint, ...] = ()
        if news is None:
            self._endpoints = (happy_eyeballs.literal(scheme, host, port),)
        self._is_closed = False
        self._is_choosy = False  # not every connection that comes back is kept
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
        if self._is_choosy and not self._keeps(connection):
            connection.close()
            return
        connection.idle_since = deadlines.now
        stream = connection.stream
        stream.on_event = connection._died_idle
        stream.watch()
        self.idle.append(connection)

    def open(self, within: float = NEVER, announcement: bytes = b"") -> Connection:
        """Connect, send ``announcement``, and shake hands where the URL says https. Raises OSError.

        Of several addresses each is tried in time for all to have had their turn ``within`` so many seconds.
        """
        self.look()
        stream, endpoint = self._connect(within)
        try:
            if announcement:
                stream.write(announcement)
            if self._trust is None:
                made = Connection(stream, self)
            else:
                made = TlsConnection(self._shake_hands(stream, self._trust), self)
        except BaseException:
            stream.close()
            self._doubt(endpoint)
            raise
        made.endpoint = endpoint
        return made

    def look(self) -> None:
        """See whether the backend's addresses have changed; close idle connections to others than the first.

        Those in use are for their requests alone then: they are closed when they come back.
        """
        if self._news is None:
            return
        endpoints = self._news()
        if endpoints is None:
            return
        if self._endpoints:
            self._is_choosy = True
            self.era += 1
        self._endpoints = endpoints
        for connection in self.idle[:]:
            if self._keeps(connection):
                connection.era = self.era
            else:
                self.idle.remove(connection)
                connection.close()

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
        self._is_closed = self._is_choosy = True
        while self.idle:
            self.idle.pop().close()

    def __repr__(self) -> str:
        return f"<ConnectionCache {self.address} {len(self.idle)} idle>"

    def _keeps(self, connection: Connection) -> bool:
        """Whether it may be used again: it is younger than the last change, or leads to the first address."""
        if self._is_closed:
            return False
        return connection.era == self.era or connection.endpoint == self._endpoints[0]

    def _connect(self, within: float) -> tuple[Stream, Endpoint]:
        """A connection to the first address, or to that which is faster: then that one is the first."""
        endpoints = self._endpoints
        if len(endpoints) == 1:
            endpoint = endpoints[0]
            return connect(endpoint[0], endpoint[1]), endpoint
        if not endpoints:
            raise socket.gaierror(socket.EAI_AGAIN, f"no address of {self.address[0]} is known")
        raw, endpoint = happy_eyeballs.connect(endpoints, within)
        if endpoint != self._endpoints[0] and endpoint in self._endpoints:
            others = [other for other in self._endpoints if other != endpoint]
            self._endpoints = (endpoint, *others)
        return Stream(raw), endpoint

    def _doubt(self, endpoint: Endpoint) -> None:
        """It takes connections, and they come to nothing: begin with another address the next time."""
        if endpoint in self._endpoints:
            others = [other for other in self._endpoints if other != endpoint]
            self._endpoints = (*others, endpoint)

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
