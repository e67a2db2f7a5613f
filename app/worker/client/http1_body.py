"""The body of a request that comes by HTTP/1.1.

Owns how it is taken from its connection: by length or in chunks, read or spliced, asked for where the client
waits for that (Expect), and for how long a client may pause. Runs in workers, in whichever greenlet sends the
body on. How much of a body is too much is app.worker.proxy.body_limit's. Imported by the master with the
worker's class: nothing here may import requests. Must never know the worker.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

from app.errors import BadRequest, ClientGone, ProxyError
from app.wire.chunked import CHUNKS_A_TURN, ChunkedDecoder, ChunkedError
from app.wire.proxy_protocol import Ends
from app.wire.request import CHUNKED
from app.worker.client.body_timeout import patience, too_slow
from app.worker.client.contract import ConnectionContext
from app.worker.client.http1_writer import Http1Writer
from app.worker.net.deadlines import NEVER, Deadline, Expired
from app.worker.net.splice import SPLICE_MIN, Moved, SourceExpired, SourceFailed, Until, splice
from app.worker.net.splice import is_available as splice_is_available
from app.worker.net.stream import BODY_READ_SIZE, Stream
from app.worker.net.tls_stream import AnyStream
from app.worker.net.turns import turns
from app.worker.proxy.body_limit import check_size

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Body(Http1Writer):
    """What a client's connection knows of the body of the request in hand (app.worker.proxy.exchange).

    ``_left`` and ``_buffer`` are as in Http1Writer. ``_waited``: seconds in which the client was waited for.
    """

    __slots__ = (
        "_body_rate",
        "_decoder",
        "_patience",
        "_sent_continue",
        "_wait_began",
        "_waited",
        "body",
        "bytes_in",
        "failure",
        "read_body",
        "splice_body",
    )

    resumes_body = True

    def __init__(
        self, context: ConnectionContext, stream: AnyStream, peer: str, ends: Ends | None
    ) -> None:
        super().__init__(context, stream, peer, ends)
        self.bytes_in = 0
        self.body = b""
        self.failure: ProxyError | None = None
        self.read_body: Any = None
        self.splice_body: Any = None
        self._body_rate: int = context.limits.body_rate
        self._waited = self._wait_began = self._patience = 0.0
        self._decoder: ChunkedDecoder | None = None
        self._sent_continue = False

    def _begin_body(self, length: int, rest: bytes) -> None:
        """Set up for a body of ``length``, of which ``rest`` is here or belongs to what follows it."""
        self.failure = None
        if length == CHUNKED:
            self._decoder = ChunkedDecoder(CHUNKS_A_TURN)
            self._left = CHUNKED
            self.bytes_in = 0
            try:
                self.body = self._decode(rest) if rest else b""
            except BadRequest as error:
                self.body, self.failure = b"", error
        else:
            self.body = rest[:length]
            self._left = length - len(self.body)
            self._buffer = rest[length:]
            self.bytes_in = len(self.body)
        if self._left:
            self.read_body = self._read_body
            may_splice = self._left >= SPLICE_MIN and splice_is_available
            self.splice_body = (
                self._splice_body if may_splice and isinstance(self.stream, Stream) else None
            )
            self._waited = 0.0

    def _read_body(self, deadline: Deadline) -> bytes:
        """The next piece of the body; b"" at its end. Runs in whichever greenlet sends it on."""
        self._continue(deadline)
        while self._left:
            if self._left < 0 and self._has_more():
                turns.next()
                if piece := self._decode(b""):
                    return piece
                continue
            deadline.at = self._wait_until()
            try:
                data = self.stream.read(
                    BODY_READ_SIZE if self._left < 0 else min(self._left, BODY_READ_SIZE)
                )
            except Expired:
                raise too_slow(self._patience, self._timeout) from None
            except OSError as error:
                raise ClientGone(str(error)) from None
            finally:
                deadline.at = NEVER
            self._has_waited()
            if not data:
                raise ClientGone("connection closed in the request body")
            if self._left < 0:
                if piece := self._decode(data):
                    return piece
                continue
            self._left -= len(data)
            self.bytes_in += len(data)
            return data
        return b""

    def _splice_body(
        self, sink: Stream, deadline: Deadline, write_until: Until, moved: Moved
    ) -> None:
        """Move the rest of the body straight to the backend's socket."""
        assert isinstance(self.stream, Stream)
        self._continue(deadline)

        def moved_in(count: int) -> None:
            self._left -= count
            self.bytes_in += count
            moved(count)

        try:
            splice(
                self.stream,
                sink,
                self._left,
                deadline,
                self._wait_until,
                write_until,
                moved_in,
                self._has_waited,
            )
        except SourceExpired:
            raise too_slow(self._patience, self._timeout) from None
        except SourceFailed as error:
            raise ClientGone(str(error)) from None

    def _wait_until(self) -> float:
        """When a wait for the client that begins now is over."""
        self._wait_began = now = monotonic()
        self._patience = patience(self._timeout, self.bytes_in, self._waited, self._body_rate)
        return now + self._patience

    def _has_waited(self) -> None:
        """That wait has ended: the client has sent something."""
        self._waited += monotonic() - self._wait_began

    def _continue(self, deadline: Deadline) -> None:
        """Ask for the body, once, if the client waits to be asked (RFC 9110 §10.1.1)."""
        if self.head.expect_continue and not self._sent_continue and not self._is_begun:
            self._sent_continue = True
            if self.bytes_in == 0 and self.stream.has_events:
                # Not written: an answer may be on its way in the connection's own greenlet.
                self.stream.post(_CONTINUE)
            elif self.bytes_in == 0:
                self._send(_CONTINUE, deadline)

    def _decode(self, data: bytes) -> bytes:
        """What ``data`` holds of a chunked body. Raises BadRequest: bad chunks, or too many of them."""
        decoder = self._decoder
        assert decoder is not None
        try:
            piece = decoder.feed(data)
        except ChunkedError as error:
            raise BadRequest(str(error), reason="bad_chunk") from None
        self.bytes_in += len(piece)
        check_size(self.bytes_in, self._proxy.body_limit)
        if decoder.done:
            self._left = 0
            self._buffer = decoder.rest
        return piece

    def _has_more(self) -> bool:
        """Whether chunks are here that were not decoded yet."""
        return self._decoder is not None and self._decoder.has_more

    def request_trailers(self) -> list[tuple[bytes, bytes]]:
        """Trailer fields of the request body."""
        return self._decoder.trailers if self._decoder is not None else []
