"""The worker process: accepts clients' connections, keeps the idle ones, drains when it has to go.

Owns the process: its set of connections, TLS in front, SIGTERM. A connection that stays idle
gives its greenlet back and is kept as a watched socket (``parked``). A subclass of gunicorn's gevent worker:
what gunicorn gives beyond (its own flags for the PROXY protocol and HTTP/2), and any other application than
ours, still goes through its own handler. Imported by the master for the class, run in workers. One
connection's requests are app.worker.client.http1's affair, or app.worker.client.http2's; picking a backend is
nobody's here.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket as gevent_socket
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.ggevent import GeventWorker

from app.errors import NoBackend, ProxyError, TooManyConnections
from app.shared import descriptors
from app.shared.layout import CONNECTIONS
from app.telemetry import log
from app.telemetry.interpreter import install_gevent
from app.tls.clients import certificates
from app.tls.files import WatchedContext
from app.wire.forwarded import trust_in
from app.wire.proxy_protocol import BadProxyHeader, Ends, Header
from app.wire.request import HeadLimits
from app.worker.admission import PerClient, client_of
from app.worker.client.http1 import PARK_SECONDS, Http1Connection
from app.worker.client.http1_writer import OpenConnection
from app.worker.client.proxy_header import receive_header
from app.worker.listener import Listener, leaves_it
from app.worker.net.deadlines import NEVER, deadlines
from app.worker.net.stream import RawSocket, Stream
from app.worker.net.tls_stream import AnyStream, TlsSocketStream, TlsStream

if TYPE_CHECKING:
    from app.worker.client.http2.connection import Http2Connection

# While draining, an idle client may send one more request for this long and gets it answered with
# "Connection: close"; closing at once would race with requests that are already on their way.
DRAIN_IDLE_SECONDS = 2.0
# What does not finish in time is cut, answered and logged this long before the master kills the worker.
CUT_SECONDS = 1.0


# How often the worker looks whether it has to go. A drain looks more often: its end is waited for.
LOOK_SECONDS = 0.1


class Worker(GeventWorker):
    """gunicorn's worker with its own connection loop."""

    slot = -1  # of the shared table; set by the pre_fork hook

    def init_process(self) -> None:
        """In the child, first of all: descriptors for many connections."""
        descriptors.raise_limit()
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        # Loads requests: not before gevent has patched.
        from app.worker.application import Application

        install_gevent()
        deadlines.start()
        self.connections: set[OpenConnection] = set()
        self.parked: dict[Http1Connection, float] = {}
        self.handed_over = 0
        self.arriving = 0  # before their first request: PROXY header, TLS handshake
        self.drains_until = NEVER
        # Whoever wraps the application in middleware gets a real environ, from gunicorn's own handler.
        self._sends_header: Callable[[str], bool] | None = None
        self.application = self.wsgi if isinstance(self.wsgi, Application) else None
        if self.application is not None:
            self.proxy = self.application.proxy
            self.timeouts = self.application.config.timeouts
            self.limits = limits = self.application.config.limits
            self.head_limits = HeadLimits(
                limits.request_line, limits.header_count, limits.header_size, limits.headers_size
            )
            self.head_timeout = self.timeouts.head or self.timeouts.client or NEVER
            self._crowd = (
                PerClient(limits.connections_per_client) if limits.connections_per_client else None
            )
            deadlines.every_tick(self._sweep_parked)
            if self.application.config.proxy_protocol:
                self._sends_header = trust_in(self.application.config.proxy_protocol)
        # gunicorn's own handler knows its own flag (--proxy-protocol …), and any other application.
        self._is_gunicorns = self.application is None or (
            self._sends_header is None and self.cfg.proxy_protocol != "off"
        )
        # Without a file of ours gunicorn's own flags decide (--certfile …).
        self._tls = gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        self._certificates: WatchedContext | None = None
        self._http2: type[Http2Connection] | None = None
        if self.application is not None and (tls := self.application.config.tls) is not None:
            # gunicorn's own handler would serve the streams of a connection one after another.
            if tls.http2 and not self._is_gunicorns:
                from app.worker.client.http2.connection import Http2Connection

                self._http2 = Http2Connection
            self._certificates = certificates(tls, self._http2 is not None)
            deadlines.every_tick(self._certificates.look)
        leaves: Callable[[], bool] | None = None
        if self.application is not None:
            self._pool = self.application.pool
            leaves = self._leaves_it
            deadlines.every_tick(self._announce)
        listeners = [Listener(sock, partial(self._accepted, sock), leaves) for sock in self.sockets]
        for listener in listeners:
            if self.cfg.workers > 1:
                listener.max_accept = 1  # as gunicorn: leave some for the others
            listener.start()
        beat = 0.0
        while self.alive:
            if (now := monotonic()) - beat >= 1.0:
                beat = now
                self.notify()
            gevent.sleep(LOOK_SECONDS)
        for listener in listeners:
            listener.close()
        if leaves is not None:
            self._announce()
        self._drain()
        if self.application is not None:
            self.application.close()

    @property
    def held(self) -> int:
        """How many connections there are."""
        return len(self.connections) + len(self.parked) + self.arriving + self.handed_over

    def _announce(self, _now: float = 0.0) -> None:
        """Tell the other workers how many connections we have, if we take more."""
        self._pool.cells[CONNECTIONS] = 1 + self.held if self.alive else 0

    def _leaves_it(self) -> bool:
        """Whether a new connection should be another worker's."""
        self._announce()
        told = self._pool.table.of_each_slot(CONNECTIONS)
        return leaves_it(
            self.held, [one - 1 for slot, one in enumerate(told) if one and slot != self.slot]
        )

    def park(self, connection: Http1Connection) -> None:
        """Keep an idle connection without a greenlet until it says something or its time is over."""
        keepalive = self.timeouts.keepalive
        self.parked[connection] = monotonic() + keepalive - PARK_SECONDS if keepalive else NEVER
        stream = connection.stream
        stream.on_event = partial(self._unpark, connection)
        stream.watch()

    def _unpark(self, connection: Http1Connection) -> None:
        if self.parked.pop(connection, None) is not None:
            connection.stream.on_event = None
            gevent.spawn_raw(connection.run)

    def _sweep_parked(self, now: float) -> None:
        """Close what was parked too long. All have the same timeout: the oldest are first."""
        while self.parked:
            connection = next(iter(self.parked))
            if self.parked[connection] > now:
                return
            del self.parked[connection]
            connection.close()

    def _drain(self) -> None:
        """Finish what is in flight, within graceful_timeout; idle connections get a little time too."""
        started = monotonic()
        limit = started + self.cfg.graceful_timeout - CUT_SECONDS
        self.drains_until = min(started + DRAIN_IDLE_SECONDS, limit)
        for held in tuple(self.connections):
            held.drain()
        while self.held:
            now = monotonic()
            if now > (limit if self.held > self.arriving else self.drains_until):
                break
            if now > self.drains_until:
                self._close_idle(now)
            self.notify()
            gevent.sleep(LOOK_SECONDS / 2)
        hub_loop = gevent.get_hub().loop
        for connection in tuple(self.connections):
            # In the hub: a plain throw would switch to the connection's greenlet and never come back.
            hub_loop.run_callback(connection.cut)
        until = monotonic() + CUT_SECONDS / 2
        while self.connections and monotonic() < until:
            gevent.sleep(LOOK_SECONDS / 5)

    def _close_idle(self, now: float) -> None:
        for connection in self.connections:
            if connection.is_idle:
                connection.deadline.at = now  # at the next tick
        for connection in tuple(self.parked):
            if connection.stream.peek():
                self._unpark(connection)  # a request came in the last moment: it is answered
            else:
                del self.parked[connection]
                connection.close()

    def _accepted(self, listener: Any, raw: socket.socket, address: Any) -> None:
        """The greenlet of a new connection."""
        if self._is_gunicorns:
            self._hand_over(listener, self._shake_hands(raw, NEVER), address)
            return
        opened_at = monotonic()
        peer = ""
        if isinstance(address, tuple):
            peer = address[0]
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        by = opened_at + self.head_timeout
        plain = Stream(raw)
        ends: Ends | None = None
        if self._sends_header is not None and self._sends_header(peer):
            self.arriving += 1
            try:
                header = self._header_of(plain, peer, by)
            finally:
                self.arriving -= 1
            if header is None:
                plain.close()
                return
            peer, ends = header.source or peer, header.ends
        refusal, leave = self._count_in(peer)
        connection: Http1Connection | Http2Connection | None = None
        try:
            self.arriving += 1
            try:
                stream = self._secure(plain, listener, address, by)
            finally:
                self.arriving -= 1
            if stream is None:
                return
            scheme = "http" if stream is plain else "https"
            kind: Any = Http1Connection
            if (
                self._http2 is not None
                and isinstance(stream, TlsStream)
                and stream.protocol == "h2"
            ):
                kind = self._http2
            connection = kind(self, stream, peer, scheme, opened_at, leave, ends)
        finally:
            if connection is None:
                if leave is not None:
                    leave()
                plain.close()
        if refusal is not None:
            connection.turn_away(refusal)
        else:
            connection.run()

    def _secure(self, plain: Stream, listener: Any, address: Any, by: float) -> AnyStream | None:
        """The stream behind its TLS handshake, where there is TLS; None, and closed, if that failed."""
        if self._certificates is not None:
            return self._agree(TlsStream(plain, self._certificates.context, is_server=True), by)
        if self._tls is None:
            return plain
        raw = plain.raw
        unwatched = RawSocket(raw.family, raw.type, 0, fileno=plain.detach())
        return self._agree_as_gunicorn(listener, unwatched, address, by)

    def _header_of(self, stream: Stream, peer: str, by: float) -> Header | None:
        """What a proxy in front says about a connection; None if it says nothing that can be believed."""
        try:
            return receive_header(stream, by)
        except BadProxyHeader as error:
            log.event(
                "proxy_protocol",
                "warning",
                "connection closed, its PROXY header is missing or bad",
                peer=peer,
                reason="bad_proxy_header",
                detail=str(error),
            )
            return None

    def _count_in(self, peer: str) -> tuple[ProxyError | None, Callable[[], None] | None]:
        """Why a new connection is turned away, if it is; what to call at its end, if it is counted."""
        if 0 < self.limits.connections <= self.held:
            return NoBackend("over limits.connections", reason="too_many_connections"), None
        crowd = self._crowd
        # A trusted proxy's connections are many clients'.
        if crowd is None or self.proxy.is_trusted(peer):
            return None, None
        client = client_of(peer)
        if not crowd.enter(client):
            return TooManyConnections("over limits.connections_per_client"), None
        return None, partial(crowd.leave, client)

    def _agree(self, stream: TlsStream, by: float) -> TlsStream | None:
        """The stream after its handshake; None, and closed, if that failed or took too long."""
        try:
            with gevent.Timeout(
                None if by == NEVER else max(0.0, by - monotonic()), TimeoutError()
            ):
                stream.handshake()
        except OSError:
            stream.close()
            return None
        return stream

    def _agree_as_gunicorn(
        self, listener: Any, raw: socket.socket, address: Any, by: float
    ) -> TlsSocketStream | None:
        """By gunicorn's own TLS settings; None if it failed, or gunicorn has served it all (HTTP/2)."""
        encrypted = self._shake_hands(raw, by)
        if encrypted is None or gunicorn_sock.is_http2_negotiated(encrypted):
            self._hand_over(listener, encrypted, address)
            return None
        return TlsSocketStream(encrypted)

    def _shake_hands(self, raw: socket.socket, by: float) -> Any:
        """gevent's socket for an accepted one, with TLS where gunicorn is set up for it; None if it fails."""
        family, kind = raw.family, raw.type
        context = self._tls if self._certificates is None else self._certificates.context
        client = gevent_socket.socket(family, kind, 0, fileno=raw.detach())
        if context is None:
            return client
        try:
            with gevent.Timeout(None if by == NEVER else by - monotonic(), TimeoutError()):
                return context.wrap_socket(client, server_side=True, suppress_ragged_eofs=False)
        except (OSError, ssl.SSLError):
            client.close()
            return None

    def _hand_over(self, listener: Any, client: Any, address: Any) -> None:
        """Let gunicorn's own handler serve the connection."""
        if client is None:
            return
        self.handed_over += 1
        try:
            self.handle(listener, client, address)
        finally:
            self.handed_over -= 1
