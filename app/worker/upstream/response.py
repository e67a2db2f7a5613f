"""The answer of a backend: its head, and its body as it comes.

Owns where a response's body ends and what its end makes of the connection. Runs in workers; never sends,
retries or picks. What other adapters answer is app.worker.upstream.adapted_response's.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import requests
from requests.structures import CaseInsensitiveDict

from app.errors import Aborted, BadResponse, OutOfTime
from app.wire.chunked import CHUNKS_A_TURN, AnswerDecoder, ChunkedError
from app.wire.response import CHUNKED, ResponseHead
from app.wire.trailers import of_answer
from app.worker.net.deadlines import NEVER, Expired
from app.worker.net.splice import SPLICE_MIN, Moved, SourceExpired, SourceFailed, Until, splice
from app.worker.net.splice import is_available as splice_is_available
from app.worker.net.stream import BODY_READ_SIZE, Stream
from app.worker.net.tls_stream import AnyStream
from app.worker.net.turns import turns
from app.worker.upstream.connections import Connection
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.upload import Upload

_NO_TRAILERS: list[tuple[bytes, bytes]] = []


class UpstreamResponse(requests.Response):
    """A response whose head has been read; ``read`` gives its decoded body piece by piece.

    ``first`` is what of the body came with the head; ``complete``: it was read, or given up.
    The connection goes back to its cache the moment the last byte has been read, before the client has it.
    ``close`` at any time gives everything up.
    """

    first = b""
    complete = False
    upload: Upload | None = None
    trailers: list[tuple[bytes, bytes]] = _NO_TRAILERS
    _remaining = 0
    _decoder: AnswerDecoder | None = None
    _until_close = False
    _reusable = False

    def __init__(
        self,
        head: ResponseHead,
        connection: Connection,
        request: UpstreamRequest,
        first_byte_at: float,
    ) -> None:
        self.head = head
        self.status_code = head.status
        self.connection_: Connection | None = connection
        self.request_ = request
        self.first_byte_at = first_byte_at

    def begin(self, data: bytes) -> None:
        """Take the bytes that came behind the head. BadResponse if they cannot be its body."""
        head = self.head
        self._reusable = head.keep_alive and self.upload is None
        length = head.length
        if length >= 0:
            if len(data) >= length:
                # Bytes behind a response belong to none of our requests: never reuse that connection.
                self._reusable = self._reusable and len(data) == length
                self.first = data[:length]
                self._finish()
            else:
                self.first = data
                self._remaining = length - len(data)
        elif length == CHUNKED:
            self._decoder = AnswerDecoder(CHUNKS_A_TURN)
            try:
                self.first = self._decoder.feed(data) if data else b""
            except ChunkedError as error:
                raise BadResponse(str(error)) from None
            if self._decoder.done:
                self._finish_chunked()
        else:
            self._until_close = True
            self.first = data

    def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises Aborted, OutOfTime if it cannot be finished."""
        connection = self.connection_
        if connection is None:
            return b""
        request = self.request_
        deadline = request.deadline
        while True:
            now = monotonic()
            if (
                now >= request.expires_at
            ):  # the client took the time: of a fast backend nothing is waited for
                self.close()
                raise OutOfTime("timeouts.total is over")
            if self._decoder is not None and self._decoder.has_more:
                turns.next()
                data = b""
            else:
                deadline.at = request.next_deadline(now)
                try:
                    data = connection.stream.read(BODY_READ_SIZE)
                except Expired:
                    raise self._abort("read timeout in the body", "read_timeout") from None
                except OSError as error:
                    raise self._abort(str(error), "reset_in_body") from None
                finally:
                    deadline.at = NEVER
            if self._decoder is not None:
                if not data and not self._decoder.has_more:
                    raise self._abort("chunked body ended early", "truncated")
                try:
                    piece = self._decoder.feed(data)
                except ChunkedError as error:
                    raise self._abort(str(error), "bad_chunk") from None
                if self._decoder.done:
                    self._finish_chunked()
                    return piece
                if piece:
                    return piece
            elif self._until_close:
                if not data:
                    self._finish()
                return data
            else:
                if not data:
                    raise self._abort(f"body ended {self._remaining} bytes early", "truncated")
                self._remaining -= len(data)
                if self._remaining <= 0:
                    if self._remaining < 0:
                        data = data[: self._remaining]
                        self._reusable = False
                    self._finish()
                return data

    @property
    def stream(self) -> AnyStream:
        """The connection itself, after 101."""
        assert self.connection_ is not None
        return self.connection_.stream

    @property
    def splices(self) -> bool:
        """Whether the rest of the body is one for splice_to."""
        return (
            self._remaining >= SPLICE_MIN
            and splice_is_available
            and self.connection_ is not None
            and isinstance(self.connection_.stream, Stream)
        )

    def splice_to(self, sink: Stream, write_until: Until, moved: Moved) -> None:
        """Move the whole rest of the body to ``sink`` in the kernel, if ``splices``.

        Raises Aborted, and SinkFailed of the sink.
        """
        connection, request = self.connection_, self.request_
        assert connection is not None
        source = connection.stream
        assert isinstance(source, Stream)

        def read_until() -> float:
            return request.next_deadline(monotonic())

        try:
            splice(source, sink, self._remaining, request.deadline, read_until, write_until, moved)
        except SourceExpired:
            raise self._abort("read timeout in the body", "read_timeout") from None
        except SourceFailed as error:
            raise self._abort(str(error), "truncated") from None
        self._remaining = 0
        self._finish()

    def close(self) -> None:
        """Give the response up: an unread rest makes the connection useless."""
        if self.upload is not None:
            self.upload.stop()
        self.complete = True
        if self.connection_ is not None:
            self.connection_.close()
            self.connection_ = None

    def _finish_chunked(self) -> None:
        assert self._decoder is not None
        if self._decoder.trailers:
            self.trailers = of_answer(self._decoder.trailers, self.head.fields)
        self._reusable = self._reusable and not self._decoder.rest
        self._finish()

    def _finish(self) -> None:
        connection = self.connection_
        if connection is None:
            return
        self.connection_ = None
        self.complete = True
        if self._reusable:
            connection.cache.give_back(connection)
        else:
            # An answer before the request's end (RFC 9112 §9.3): it stands, the upload stops.
            if self.upload is not None:
                self.upload.stop()
            connection.close()

    def _abort(self, detail: str, reason: str) -> Aborted:
        self.close()
        return Aborted(detail, reason=reason)

    # What a user of requests expects of a response.
    @property
    def raw(self) -> UpstreamResponse:  # type: ignore[override]
        """The stream of body bytes: this object."""
        return self

    @property
    def reason(self) -> str:  # type: ignore[override]
        """The reason phrase."""
        return self.head.reason.decode("latin-1")

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The fields; repeated ones joined. ``head.fields`` has them as they came."""
        result: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for name, value in self.head.fields:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            result[key] = f"{result[key]}, {text}" if key in result else text
        return result

    def iter_content(
        self, chunk_size: int | None = 1, decode_unicode: bool = False
    ) -> Iterator[bytes]:
        """The body's pieces as they come; ``chunk_size`` is not used."""
        if self.first:
            yield self.first
        while piece := self.read():
            yield piece
