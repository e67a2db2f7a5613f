"""From an accepted socket to the connection that serves it.

Owns what comes before a client's first request: the PROXY header of a trusted proxy, the limits of
app.worker.admission, the TLS handshake, and by ALPN which class serves it. All of that has the time of one
request head (``timeouts.head``). Runs in workers, in the greenlet of each connection. Never reads a request.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent

from app.errors import PlainHttp, ProxyError
from app.telemetry import log
from app.tls.failures import HandshakeFailures, reason_of
from app.tls.handshake import ServerSide, SpeaksHttp
from app.wire.proxy_protocol import BadProxyHeader, Ends, Header
from app.worker.admission import Admission, Place
from app.worker.client.contract import ConnectionContext
from app.worker.client.http1 import Http1Connection
from app.worker.client.proxy_header import receive_header
from app.worker.gunicorn_handler import GunicornHandler, seconds_until
from app.worker.net.deadlines import NEVER, Expired, deadlines
from app.worker.net.stream import Stream
from app.worker.net.tls_stream import SILENT, AnyStream, TlsStream

if TYPE_CHECKING:
    from app.worker.client.http2.connection import Http2Connection


class Acceptor:
    """Makes connections of sockets.

    ``sends_header``: whose connections begin with a PROXY header, by their address; None for nobody's.
    TLS is by ``tls``, which may offer HTTP/2, or by gunicorn's own settings (``gunicorn_handler``), or there
    is none. ``http2``: the class for connections that have agreed on it, None where it is not offered.
    ``failures`` counts the handshakes that came to nothing.
    """

    def __init__(
        self,
        context: ConnectionContext,
        admission: Admission,
        sends_header: Callable[[str], bool] | None,
        tls: ServerSide | None,
        gunicorn_handler: GunicornHandler | None,
        http2: type[Http2Connection] | None,
        failures: HandshakeFailures,
    ) -> None:
        self._context = context
        self._admission = admission
        self._sends_header = sends_header
        self._tls = tls
        self._failures = failures
        self._gunicorn_handler = gunicorn_handler
        self._http2 = http2

    def accepted(self, listener: Any, raw: socket.socket, address: Any) -> None:
        """The greenlet of a new connection: all of it, or until it is parked."""
        opened_at = monotonic()
        plain = Stream(raw)
        place = self._admission.enter()
        connection: Http1Connection | Http2Connection | None = None
        try:
            peer = ""
            if isinstance(address, tuple):
                peer = address[0]
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection, refusal = self._arrive(plain, place, listener, address, peer, opened_at)
        finally:
            if connection is None:
                place.leave()
                plain.close()
        if connection is None:
            return
        if refusal is not None:
            # It makes room at once for one that is served, and no drain waits for it.
            place.leave()
            connection.turn_away(refusal)
        else:
            connection.run()

    def _arrive(
        self,
        plain: Stream,
        place: Place,
        listener: Any,
        address: Any,
        peer: str,
        opened_at: float,
    ) -> tuple[Http1Connection | Http2Connection | None, ProxyError | None]:
        """The connection, and why it is turned away if it is; (None, None) if it came to nothing."""
        by = opened_at + self._context.head_timeout
        ends: Ends | None = None
        has_header = self._sends_header is not None and self._sends_header(peer)
        speaks_first = has_header or self._tls is not None
        if (speaks_first or self._gunicorn_handler is not None) and not _listen(plain, place, by):
            return None, None
        if has_header:
            header = self._header_of(plain, peer, by)
            if header is None:
                return None, None
            peer, ends = header.source or peer, header.ends
        refusal = self._admission.admit(place, peer)
        try:
            stream = self._secure(plain, place, listener, address, peer, by)
        except SpeaksHttp:
            # Told so in the clear, as nginx does: whoever reads an alert only sees a broken connection.
            stream, refusal = plain, PlainHttp()
        if stream is None:
            return None, None
        scheme = "http" if stream is plain else "https"
        kind: type[Http1Connection | Http2Connection] = Http1Connection
        if self._http2 is not None and isinstance(stream, TlsStream) and stream.protocol == "h2":
            kind = self._http2
        return kind(self._context, place, stream, peer, scheme, opened_at, ends), refusal

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

    def _secure(
        self, plain: Stream, place: Place, listener: Any, address: Any, peer: str, by: float
    ) -> AnyStream | None:
        """The stream behind its TLS handshake, if there is one; None if it failed, or gunicorn served it.

        Raises SpeaksHttp.
        """
        if self._tls is not None:
            return self._agree(TlsStream(plain, self._tls.context, is_server=True), peer, by)
        if self._gunicorn_handler is not None:
            return self._gunicorn_handler.secure(plain, place, listener, address, by)
        return plain

    def _agree(self, stream: TlsStream, peer: str, by: float) -> TlsStream | None:
        """The stream after its handshake; None, and closed, if that failed or took too long."""
        assert self._tls is not None
        try:
            with gevent.Timeout(seconds_until(by), TimeoutError()):
                stream.accept(self._tls)
        except SpeaksHttp:
            self._failures.count("plain_http", peer)
            raise
        except OSError as error:
            stream.close()
            if SILENT not in error.args:
                reason, detail = reason_of(error)
                self._failures.count(reason, peer, detail)
            return None
        return stream


def _listen(stream: Stream, place: Place, by: float) -> bool:
    """Wait for the client's first byte: from then on a drain waits for it as for who has made a request.

    False from who leaves without one, as checks do that only connect: it is counted in no limit.
    """
    deadline = deadlines.enter()
    deadline.at = by
    try:
        stream.wait_readable()
        place.has_spoken = True
    except Expired:
        pass  # what is waited for next ends at once
    finally:
        deadline.at = NEVER
        deadlines.leave(deadline)
    return stream.peek() != b""
