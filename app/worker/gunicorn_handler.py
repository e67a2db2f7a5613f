"""What gunicorn's own handler serves: connections that our loop does not.

Any other application than ours gets a real environ from it; so does ours where gunicorn reads the PROXY
header by its own flag (--proxy-protocol), and where its own TLS settings (--certfile) have agreed on HTTP/2.
Owns gunicorn's TLS handshake and the step from an accepted socket to its handler. Runs in workers. Never
reads a request.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import socket as gevent_socket
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.ggevent import GeventWorker

from app.tls.failures import HandshakeFailures, reason_of
from app.worker.admission import Admission, Place
from app.worker.net.deadlines import NEVER
from app.worker.net.stream import RawSocket, Stream
from app.worker.net.tls_socket_stream import TlsSocketStream


class GunicornHandler:
    """Serves connections as gunicorn does. ``context`` gives TLS for a new one, None for plaintext.

    ``failures`` counts the handshakes that came to nothing.
    """

    def __init__(
        self,
        worker: GeventWorker,
        admission: Admission,
        context: Callable[[], ssl.SSLContext | None],
        failures: HandshakeFailures,
    ) -> None:
        self._worker = worker
        self._admission = admission
        self._context = context
        self._failures = failures

    def accepted(self, listener: Any, raw: socket.socket, address: Any) -> None:
        """The greenlet of a new connection: all of it is gunicorn's, which has no time for a handshake."""
        place = self._admission.enter()
        try:
            if self._context() is not None:
                gevent_socket.wait_read(raw.fileno())
                place.has_spoken = True  # a drain waits for a handshake that has begun
            client = self._shake_hands(raw, address, NEVER)
            if client is not None:
                self._hand_over(place, listener, client, address)
        finally:
            place.leave()

    def secure(
        self, plain: Stream, place: Place, listener: Any, address: Any, by: float
    ) -> TlsSocketStream | None:
        """TLS by gunicorn's settings for a connection of ours, agreed on by the time ``by``.

        None if that failed, or if HTTP/2 was agreed on: gunicorn has served it all then. Either way it is
        closed.
        """
        raw = plain.raw
        unwatched = RawSocket(raw.family, raw.type, 0, fileno=plain.detach())
        encrypted = self._shake_hands(unwatched, address, by)
        if encrypted is None:
            return None
        if gunicorn_sock.is_http2_negotiated(encrypted):
            self._hand_over(place, listener, encrypted, address)
            return None
        return TlsSocketStream(encrypted)

    def _shake_hands(self, raw: socket.socket, address: Any, by: float) -> Any:
        """gevent's socket for an accepted one, with TLS if there is a context; None if that fails, closed."""
        family, kind = raw.family, raw.type
        context = self._context()
        client = gevent_socket.socket(family, kind, 0, fileno=raw.detach())
        if context is None:
            return client
        try:
            with gevent.Timeout(seconds_until(by), TimeoutError()):
                return context.wrap_socket(client, server_side=True, suppress_ragged_eofs=False)
        except OSError as error:  # ssl.SSLError is one
            client.close()
            self._count(error, address)
            return None

    def _count(self, error: OSError, address: Any) -> None:
        """A failed handshake; but who has left may be a probe of the port, which cannot be told here."""
        reason, detail = reason_of(error)
        if reason != "connection_closed":
            self._failures.count(reason, address[0] if isinstance(address, tuple) else "", detail)

    def _hand_over(self, place: Place, listener: Any, client: Any, address: Any) -> None:
        """Let gunicorn's handler serve the connection until its end; it closes it."""
        place.hand_over()
        self._worker.handle(listener, client, address)


def seconds_until(by: float) -> float | None:
    """As gevent.Timeout wants it: None for NEVER, and no negative number where the time is over."""
    return None if by == NEVER else max(0.0, by - monotonic())
