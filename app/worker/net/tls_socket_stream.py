"""TLS on a socket that somebody else has wrapped, with the face of app.worker.net.stream.Stream.

For what gunicorn's own handlers serve (``-k gevent``, ``--certfile``). Only an end below TLS is an event.
Runs in workers. Knows no records: those are the socket's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from gevent import ssl as gevent_ssl

from app.worker.net.hang_up import hang_ups, has_hung_up
from app.worker.net.stream import READ_SIZE, RawSocket, reset_at_close


class TlsSocketStream:
    """TLS over an SSL socket of gevent's, which it owns from then on."""

    __slots__ = ("_is_end_watched", "_socket", "on_event", "raw")
    has_events = False
    posted = b""

    def __init__(self, tls_socket: gevent_ssl.SSLSocket) -> None:
        self._socket = tls_socket
        self.raw = tls_socket
        self._is_end_watched = False
        self.on_event: Callable[[], None] | None = None

    def read(self, size: int = READ_SIZE) -> bytes:
        """As Stream.read. An end without close_notify raises: it may be a truncation (RFC 8446 §6.1)."""
        data: bytes = self._socket.recv(size)
        return data

    def write(self, data: bytes | memoryview) -> None:
        """As Stream.write."""
        self._socket.sendall(data)

    def post(self, data: bytes) -> None:
        """As ``write``: there is nothing that would send it later."""
        self.write(data)

    def flush(self) -> None:
        """As Stream.flush: nothing is ever posted."""

    def watch(self) -> None:
        """As ``watch_end``: bytes are no event, ``peek`` is asked before a connection is used again."""
        self.watch_end()

    def peek(self) -> bytes | None:
        """As Stream.peek; bytes of the TLS layer count as the peer having closed."""
        if self._socket.pending():
            return b"?"
        try:
            # Looked at below TLS: whatever comes on an idle connection makes it unfit for another request.
            with RawSocket(fileno=os.dup(self._socket.fileno())) as below:
                below.setblocking(False)
                return below.recv(1, socket.MSG_PEEK) and b""
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def watch_end(self) -> None:
        """As Stream.watch_end, below TLS."""
        if not self._is_end_watched:
            self._is_end_watched = True
            hang_ups.watch(self._socket.fileno(), self._on_end)

    def has_ended(self) -> bool:
        """As Stream.has_ended, below TLS."""
        return bool(has_hung_up(self._socket.fileno()))

    def is_silent(self) -> bool:
        """As Stream.is_silent."""
        return self.peek() is None

    def unacknowledged(self, total: int) -> bool:
        """Never provable: the records' sizes are not ours to count."""
        return False

    def shutdown_write(self) -> None:
        """As Stream.shutdown_write, by close_notify; the peer may go on (RFC 8446 §6.1)."""
        tls = self._socket._sslobj
        if tls is None:
            return
        try:
            # Not unwrap(): that waits for the peer's own close_notify and leaves TLS then.
            tls.shutdown()
        except OSError:  # WantRead, mostly: ours has left, the peer's has not come
            pass

    def shutdown(self) -> None:
        """As Stream.shutdown."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def reset(self) -> None:
        """As Stream.reset."""
        self._forget()
        reset_at_close(self._socket)
        self._socket.close()

    def close(self) -> None:
        """As Stream.close; the peer is told that this is the end, not a truncation."""
        try:
            self.shutdown_write()
        finally:
            self._forget()
            self._socket.close()

    def _on_end(self) -> None:
        self._is_end_watched = False
        if self.on_event is not None:
            self.on_event()

    def _forget(self) -> None:
        if self._is_end_watched:
            self._is_end_watched = False
            hang_ups.forget(self._socket.fileno())
