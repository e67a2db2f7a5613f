"""What an HTTP/1.1 connection sends to its client: answers of backends and of our own.

Owns the writing half of app.worker.client.http1's connection: status lines, framing, whether the
connection is kept, the tunnel's beginning, refusals and cuts. Runs in workers. Imported by the master with
the worker's class: nothing here may import requests. Must never know the worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from app.errors import ClientGone, ProxyError
from app.wire.chunked import encode_chunk, last_chunk
from app.wire.proxy_protocol import Ends
from app.wire.request import RequestHead
from app.wire.response import ResponseHead
from app.wire.status import STATUS_TEXT
from app.wire.upgrade import switching_lines
from app.worker.client.addresses import addresses_of
from app.worker.client.contract import ConnectionContext, DrainState
from app.worker.client.date import date_line
from app.worker.client.silence import Silence
from app.worker.net.deadlines import Deadline, Expired
from app.worker.net.progress import taken
from app.worker.net.splice import SinkExpired, SinkFailed, SpliceTo
from app.worker.net.stream import POST_SIZE, Stream
from app.worker.net.tls_stream import AnyStream

if TYPE_CHECKING:
    from app.worker.proxy.handler import Proxy

_STATUS_LINES_KEPT: Final = 512  # a backend can invent reason phrases without end


class Http1Writer:
    """The sending half of a client's connection.

    Shared with the half that reads: ``_left`` and ``_buffer``, what of the request is unread (CHUNKED for an
    unknown length) and what has been read beyond it; ``_keep``, whether another request may follow;
    ``_must_linger``, whether the client may still be sending at the end; ``_is_cut``, whether that was a
    reset; ``_grace``, the timer of a client that has half-closed. ``head`` is that of the request in hand,
    ``deadline`` the greenlet's that serves.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_drain",
        "_ends",
        "_grace",
        "_is_begun",
        "_is_cut",
        "_is_lost",
        "_keep",
        "_left",
        "_must_linger",
        "_post_size",
        "_proxy",
        "_silence",
        "_timeout",
        "_until_close",
        "bytes_out",
        "deadline",
        "head",
        "peer",
        "stream",
    )

    head: RequestHead
    deadline: Deadline

    def __init__(
        self, context: ConnectionContext, stream: AnyStream, peer: str, ends: Ends | None
    ) -> None:
        self._proxy: Proxy = context.proxy
        self._drain: DrainState = context.drain
        self._timeout: float = context.client_timeout
        self._silence = Silence(partial(taken, stream.raw), self._timeout)
        self.stream: AnyStream = stream
        self.peer = peer
        self._ends: Ends | None = ends  # by a PROXY header
        # The largest message that is posted instead of written.
        self._post_size = POST_SIZE if stream.has_events else -1
        self._buffer = b""
        self._left = 0
        self._grace: Any = None
        self._is_begun = self._chunked = self._must_linger = self._is_cut = False
        self._is_lost = False  # nothing more reaches the client
        self._until_close = False  # the answer ends with the connection
        self._keep = True
        self.bytes_out = 0

    @property
    def is_begun(self) -> bool:
        """Whether the head of a final response has been sent."""
        return self._is_begun

    def addresses(self) -> tuple[object, object]:
        """As Exchange.addresses."""
        return addresses_of(self._ends, self.stream.raw)

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        """Send head and first piece in one go."""
        pieces = [_status_line(head.status, head.reason)]
        pieces += head.lines
        if not head.has_date:
            pieces.append(date_line())
        if head.length < 0:
            if self.head.minor:
                self._chunked = True
                if head.trailer is not None and self.head.te_trailers:
                    pieces += (b"Trailer: ", head.trailer, b"\r\n")
                pieces.append(b"Transfer-Encoding: chunked\r\n")
            else:
                # HTTP/1.0: the end of the connection is the end of the body.
                self._keep, self._until_close = False, True
        pieces.append(self._connection_line())
        self.bytes_out = len(first)
        if self._chunked:
            if first:
                pieces.append(encode_chunk(first))
            if complete:
                pieces.append(last_chunk(trailers if self.head.te_trailers else []))
        elif first:
            pieces.append(first)
        self._is_begun = True
        message = b"".join(pieces)
        if complete and self._keep and len(message) <= self._post_size:
            self.stream.post(message)
        else:
            self._send(message)

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""
        self.bytes_out += len(piece)
        self._send(encode_chunk(piece) if self._chunked else piece)

    def splice(self, splice_to: SpliceTo) -> bool:
        """Have the rest of the body moved straight to the client's socket."""
        if self._chunked or not isinstance(self.stream, Stream):
            return False
        try:
            self.stream.send_posted()
            splice_to(self.stream, self._until, self._moved_out)
        except SinkExpired:
            self._is_lost = True
            raise ClientGone("client does not take its response", reason="client_timeout") from None
        except SinkFailed as error:
            self._is_lost = True
            raise ClientGone(str(error)) from None
        return True

    def _until(self) -> float:
        return monotonic() + self._timeout

    def _moved_out(self, count: int) -> None:
        self.bytes_out += count

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """End the body."""
        if self._chunked:
            self._send(last_chunk(trailers if self.head.te_trailers else []))

    def interim(self, head: ResponseHead) -> None:
        """Pass an interim response on."""
        self._send(b"".join((_status_line(head.status, head.reason), *head.lines, b"\r\n")))

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a response of our own."""
        self._is_begun = True
        is_head = self.head.method == b"HEAD"
        if not is_head:
            self.bytes_out = len(body)
        if 400 <= status < 500:  # what the client sent next would be read by a guess
            self._keep = False
        self._send_own(status, lines, body, is_head)

    def _send_own(
        self, status: int, lines: Iterable[tuple[str, str]], body: bytes, is_head: bool
    ) -> None:
        """Send a response of our own, without its body to a HEAD; of the request it asks nothing more."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self._send(
            b"".join(
                (
                    _status_line(status, STATUS_TEXT.get(status, "Error").encode()),
                    date_line(),
                    fields.encode("latin-1"),
                    b"Content-Length: %d\r\n" % len(body),
                    self._connection_line(),
                    b"" if is_head else body,
                )
            )
        )

    def switch(self, head: ResponseHead) -> tuple[AnyStream, bytes]:
        """Send the 101; from here on the connection is the tunnel's until ``run`` closes it."""
        self._keep = self._must_linger = False
        self._is_begun = True
        # An end of the client's side is the tunnel's to pass on, not a sign that it has gone.
        self.stream.on_event = None
        if self._grace is not None:
            self._grace.close()
            self._grace = None
        self._send(b"".join((_status_line(101, head.reason), *head.lines, *switching_lines(head))))
        rest, self._buffer = self._buffer, b""
        return self.stream, rest

    def abort(self) -> None:
        """End the connection in a way that no client takes for the end of a response.

        A length, or chunks, say that it is not whole (RFC 9112 §8): then the client gets all that has come,
        and the end behind it. A reset would take what is still on its way. In TLS the end is a close_notify
        (RFC 8446 §6.1, RFC 9112 §9.8). Only where the end would be that of the answer too, or nothing more
        reaches the client, it is a reset, and no close_notify.
        """
        self._keep = False
        if self._is_begun and not self._until_close and not self._is_lost:
            self._must_linger = True
            return
        self._must_linger, self._is_cut = False, True
        if self._is_begun:
            self.stream.reset()

    def _connection_line(self) -> bytes:
        """Connection, where it has to be said, and the end of the head."""
        if self._keep and (self._left or self._drain.is_on):
            self._keep = False
        if not self._keep:
            return b"Connection: close\r\n\r\n"
        return b"\r\n" if self.head.minor else b"Connection: keep-alive\r\n\r\n"

    def _send(self, data: bytes, deadline: Deadline | None = None) -> None:
        """Send ``data``, or with nothing what was posted, and wait until the client has taken it.

        ``deadline`` is that of the greenlet that waits, where that is not the connection's own, which waits
        for something else meanwhile and keeps its time.
        """
        deadline = deadline or self.deadline
        was = self._silence.begin(deadline)
        try:
            if data:
                self.stream.write(data)
            else:
                self.stream.flush()
        except Expired:
            self._is_lost = True
            raise ClientGone("client does not take its response", reason="client_timeout") from None
        except OSError as error:
            self._is_lost = True
            raise ClientGone(str(error)) from None
        finally:
            self._silence.end(deadline, was)

    def _refuse(self, error: ProxyError, is_head: bool = False) -> None:
        """Answer a request whose head could not be read, and say so in the log; then it is over."""
        self._keep = False
        self._must_linger = True
        fields, body = self._proxy.refuse(self.peer, error, monotonic())
        self._send_own(error.status, fields, body, is_head)


_status_lines: Final[dict[tuple[int, bytes], bytes]] = {}


def _status_line(status: int, reason: bytes) -> bytes:
    """The status line, made once for each status and reason phrase."""
    line = _status_lines.get((status, reason))
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        if len(_status_lines) < _STATUS_LINES_KEPT and len(reason) < 64:
            _status_lines[status, reason] = line
    return line
