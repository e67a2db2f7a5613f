"""What a connection becomes after 101 Switching Protocols: bytes moved both ways until both sides have ended.

Owns the two directions: back-pressure (the next piece is read when the one before was taken), an end of one
side passed on to the other while the other direction goes on, one idle timeout for both, the counts, and
why the tunnel ended. Runs in workers: the client's greenlet moves what the client says, a second one the
answers. Knows streams and deadlines, nothing of HTTP or of the protocol inside.
"""

from __future__ import annotations

import gevent

from app.errors import ShuttingDown
from app.worker.net.deadlines import NEVER, Deadline, Expired, deadlines
from app.worker.net.tls_stream import AnyStream

# Once one side has said that it has ended, silence of the other is held for abandonment: a client that is
# gone and one that listens on look the same. HAProxy's manual advises 30 s (timeout client-fin).
HALF_CLOSED_SECONDS = 60.0


class _Side:
    """One side of a tunnel: why that ends if this side resets it or has closed it, how many bytes it said."""

    __slots__ = ("closed", "reset", "said", "stream")

    def __init__(self, stream: AnyStream, reset: str, closed: str) -> None:
        self.stream = stream
        self.reset = reset
        self.closed = closed
        self.said = 0


class Tunnel:
    """One tunnel. ``bytes_in`` came from the client, ``bytes_out`` went to it; ``reason``: why it ended.

    ``deadline`` belongs to the greenlet that calls ``run``; ``idle_timeout`` is in seconds, 0 for none.
    """

    __slots__ = (
        "_backend",
        "_client",
        "_deadline",
        "_idle_timeout",
        "_to_reset",
        "bytes_in",
        "bytes_out",
        "reason",
    )

    def __init__(
        self, client: AnyStream, backend: AnyStream, deadline: Deadline, idle_timeout: float
    ) -> None:
        self._client = _Side(client, "client_reset", "client_closed")
        self._backend = _Side(backend, "backend_reset", "backend_closed")
        self._deadline = deadline
        self._idle_timeout = idle_timeout or NEVER
        self._to_reset: AnyStream | None = None
        self.bytes_in = self.bytes_out = 0  # known at the end
        self.reason: str | None = None

    def run(self, from_client: bytes, from_backend: bytes) -> None:
        """Move bytes until the end, first those that were read with the heads. Closes neither stream."""
        client, backend = self._client, self._backend
        self._stir()
        answers = gevent.spawn(self._move, backend, client, from_backend)
        try:
            self._move(client, backend, from_client)
            answers.join()
        except Expired:
            self._end("tunnel_timeout")
        except ShuttingDown as error:
            self._end(error.reason)
        finally:
            self._deadline.at = NEVER
            answers.kill()
            self.bytes_in, self.bytes_out = client.said, backend.said
        if self._to_reset is not None:
            self._to_reset.reset()

    def _move(self, source: _Side, sink: _Side, piece: bytes) -> None:
        """One direction, in a greenlet that does nothing else meanwhile, until one of the sides ends."""
        read, write = source.stream.read, sink.stream.write
        while True:
            if piece:
                self._stir()
                try:
                    write(piece)
                except OSError:
                    self._break(sink, source)
                    return
                source.said += len(piece)
                self._stir()
            try:
                piece = read()
            except OSError:
                self._break(source, sink)
                return
            if not piece:
                self._half_close(source, sink)
                return

    def _stir(self) -> None:
        """Begin the idle timeout anew, for both directions: one of them has moved."""
        deadline = self._deadline
        if deadline.at:
            deadline.at = deadlines.now + self._idle_timeout

    def _half_close(self, ended: _Side, other: _Side) -> None:
        """One side has ended: tell the other, and go on with what that one still says."""
        self._end(ended.closed)
        self._idle_timeout = min(self._idle_timeout, HALF_CLOSED_SECONDS)
        self._stir()
        other.stream.shutdown_write()

    def _break(self, broken: _Side, other: _Side) -> None:
        """One side is broken: end the tunnel at the next tick, and show the other side an error too."""
        self._end(broken.reset)
        self._to_reset = other.stream
        self._deadline.at = 0.0

    def _end(self, reason: str) -> None:
        """Note why the tunnel ends. The first reason stays: what follows is its consequence."""
        if self.reason is None:
            self.reason = reason
