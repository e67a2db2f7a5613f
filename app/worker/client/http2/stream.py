"""One stream of an HTTP/2 connection: a request and its answer, as app.worker.proxy.exchange.Exchange wants
them.

Owns the request's body while the backend has not taken it, how much of it a client may send ahead, and the
order of the answer's parts. Runs in workers, one greenlet a stream. Frames and the client's windows are
app.worker.client.http2.sender's, the connection itself app.worker.client.http2.connection's. Never picks a
backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol

from h2.errors import ErrorCodes

from app.errors import BadResponse, InternalError, ProxyError
from app.telemetry import log
from app.wire.h2 import Fields, MalformedError, response_fields
from app.wire.request import CHUNKED, RequestHead
from app.wire.response import ResponseHead
from app.worker.client.body_timeout import patience, too_slow
from app.worker.client.date import date_value
from app.worker.client.http2.sender import Sender, Signal
from app.worker.net.deadlines import NEVER, Deadline, Expired
from app.worker.net.splice import SpliceBody, SpliceTo
from app.worker.net.tls_stream import AnyStream
from app.worker.proxy.body_limit import check_size

# What a client may send of a body before the backend has taken any; the protocol's own initial value.
# It doubles while the backend keeps up, so that a long way does not slow an upload: with 100 streams that
# is 6.4 MB at worst for a client whose backends take nothing.
FIRST_WINDOW = 65535
LARGEST_WINDOW = 1 << 19
SMALL_PIECE = 512


class Carrier(Protocol):
    """What a stream needs of its connection."""

    peer: str
    scheme: str
    is_trusted: bool
    forwarded: bytes
    timeout: float
    body_limit: int
    body_rate: int
    sender: Sender

    def addresses(self) -> tuple[object, object]:
        """As Exchange.addresses."""


class Http2Stream:
    """The client's side of one exchange (app.worker.proxy.exchange.Exchange).

    ``gone``: why there is no client any more, None while there is one. ``has_ended``: all of the answer was
    handed to the connection; ``has_all``: the client has sent all of its request.
    """

    __slots__ = (
        "_body_limit",
        "_body_rate",
        "_left",
        "_owed",
        "_pieces",
        "_sender",
        "_sent_continue",
        "_timeout",
        "_trailers",
        "_waited",
        "_window",
        "addresses",
        "body",
        "bytes_in",
        "bytes_out",
        "deadline",
        "failure",
        "forwarded",
        "gone",
        "has_all",
        "has_ended",
        "head",
        "id",
        "is_begun",
        "is_head",
        "is_trusted",
        "peer",
        "read_body",
        "received",
        "refusal",
        "room",
        "scheme",
        "splice_body",
        "turn",
    )

    resumes_body = True
    head: RequestHead
    deadline: Deadline

    def __init__(self, connection: Carrier, identity: int, has_all: bool) -> None:
        self._sender = connection.sender
        self.addresses = connection.addresses
        self._timeout = connection.timeout
        self._body_limit = connection.body_limit
        self._body_rate = connection.body_rate
        self._waited = 0.0
        self.id = identity
        self.peer = connection.peer
        self.scheme = connection.scheme
        self.is_trusted = connection.is_trusted
        self.forwarded = connection.forwarded
        self.refusal: ProxyError | None = None
        self.is_head = False
        self.is_begun = False
        self.has_all = has_all
        self.has_ended = False
        self.gone: ProxyError | None = None
        self.body = b""
        self.bytes_in = self.bytes_out = 0
        self.failure: ProxyError | None = None
        self.read_body: Any = None
        self.splice_body: SpliceBody | None = None
        self.received = Signal()
        self.room = Signal()
        self.turn = 0
        self._pieces: list[bytes | bytearray] = []
        self._left = CHUNKED  # bytes of the body that are announced and have not come
        self._owed = 0  # flow-controlled bytes, padding included, of what was not taken yet
        self._window = FIRST_WINDOW
        self._trailers: Fields = []
        self._sent_continue = False

    def __repr__(self) -> str:
        return f"<Http2Stream {self.id} begun={self.is_begun} ended={self.has_ended}>"

    # -- what the connection says ------------------------------------------------------------------

    def head_in(self, head: RequestHead) -> None:
        """The request's head; what it says of the body is held against what comes (RFC 9113 §8.1.1)."""
        self.head = head
        self.is_head = head.method == b"HEAD"
        self._left = head.length

    def take_in(self, data: bytes, count: int) -> None:
        """A piece of the body has come; ``count`` is its size in windows. Raises MalformedError."""
        if self._left != CHUNKED:
            if len(data) > self._left:
                raise _malformed("more body than content-length says")
            self._left -= len(data)
        pieces = self._pieces
        if data and pieces and len(data) < SMALL_PIECE:
            # An object for each takes fifty bytes: a window of frames of two bytes would be 1.8 MB.
            last = pieces[-1]
            if not isinstance(last, bytearray):
                last = bytearray()
                pieces.append(last)
            last += data
        elif data:
            pieces.append(data)
        self._owed += count
        self.received.give()

    def trailers_in(self, trailers: Fields) -> None:
        """The trailer fields of the request."""
        self._trailers = trailers

    def end_in(self) -> None:
        """The request is complete. Raises MalformedError."""
        self.has_all = True
        if self._left > 0:
            raise _malformed("less body than content-length says")
        self.received.give()

    # -- the request -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Set up for the exchange: what of the body is here, and how to get the rest."""
        if not self.head.length:
            return
        try:
            self.body = self._take()
        except ProxyError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - the request has its line all the same
            log.uncaught("http2", f"stream {self.id} not begun", error)
            self.failure = InternalError(str(error))
        if not self.has_all:
            self.read_body = self._read_body

    def _read_body(self, deadline: Deadline) -> bytes:
        """The next piece of the body; b"" at its end. Runs in whichever greenlet sends it on."""
        if self.head.expect_continue and not self._sent_continue and not self.is_begun:
            self._sent_continue = True
            if not self.bytes_in:
                self._sender.send_head_now(self, [(b":status", b"100")], False)
        while not self._pieces:
            if self.gone is not None:
                raise self.gone
            if self.has_all:
                return b""
            began = monotonic()
            seconds = patience(self._timeout, self.bytes_in, self._waited, self._body_rate)
            deadline.at = began + seconds
            try:
                self.received.wait()
            except Expired:
                raise too_slow(seconds, self._timeout) from None
            finally:
                deadline.at = NEVER
                self._waited += monotonic() - began
        return self._take()

    def _take(self) -> bytes:
        """All that is here; the client may send as much again, and more if it is kept up with."""
        pieces = self._pieces
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.bytes_in += len(data)
        check_size(self.bytes_in, self._body_limit)
        if self._owed >= self._window // 4 and not self.has_all:
            grown = min(self._window, LARGEST_WINDOW - self._window) if self.read_body else 0
            self._window += grown
            self._sender.open_window(self, self._owed + grown)
            self._owed = 0
        return data

    def request_trailers(self) -> Fields:
        """Trailer fields of the request body."""
        return self._trailers

    # -- the answer --------------------------------------------------------------------------------

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        """Send head and first piece."""
        fields = response_fields(head.status, head.lines)
        if not head.has_date:
            fields.append((b"date", date_value()))
        if head.trailer is not None and head.length == CHUNKED:
            fields.append((b"trailer", head.trailer))
        self._send_head(fields, complete and not first and not trailers)
        if first:
            self.bytes_out = len(first)
            self._sender.send_body(self, first, complete and not trailers)
        if complete and trailers:
            self._send_trailers(trailers)

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""
        self.bytes_out += len(piece)
        self._sender.send_body(self, piece, False)

    def splice(self, splice_to: SpliceTo) -> bool:
        """What is sent is framed and encrypted here."""
        return False

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """End the body."""
        if trailers:
            self._send_trailers(trailers)
        else:
            self._sender.send_body(self, b"", True)

    def interim(self, head: ResponseHead) -> None:
        """Pass an interim response on."""
        self._sender.send_head(self, response_fields(head.status, head.lines), False)

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a response of our own."""
        fields = [(b":status", b"%d" % status), (b"date", date_value())]
        fields += [(name.lower().encode(), value.encode("latin-1")) for name, value in lines]
        fields.append((b"content-length", b"%d" % len(body)))
        self._send_head(fields, self.is_head)
        if not self.is_head:
            self.bytes_out = len(body)
            self._sender.send_body(self, body, True)

    def switch(self, head: ResponseHead) -> tuple[AnyStream, bytes]:
        """There is no 101 in HTTP/2 (RFC 9113 §8.6), and no request here asks for one."""
        raise BadResponse("101 for a request of HTTP/2")

    def abort(self) -> None:
        """Cut the answer."""
        self._sender.reset(self, ErrorCodes.INTERNAL_ERROR)

    def _send_head(self, fields: Fields, is_end: bool) -> None:
        self._sender.send_head(self, fields, is_end)
        self.is_begun = True

    def _send_trailers(self, trailers: Fields) -> None:
        self._sender.send_head(self, [(name.lower(), value) for name, value in trailers], True)


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason="malformed_request")
