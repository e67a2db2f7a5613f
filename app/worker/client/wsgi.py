"""The client's side of an exchange as PEP 3333 shows it, to an application under any WSGI server.

Owns the way from an environ to a request head, and the answer through ``start_response`` and ``write``. It
does without what an environ cannot tell: the spelling and order of header fields, whether the client has
gone, interim responses and trailers. Runs in workers of the stock gevent class and under other servers, in a
request's greenlet; ours reads the wire itself (app.worker.client.http1). Must never know the pool or a
backend: app.worker.application calls it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import quote

from gevent.socket import socket as GeventSocket  # noqa: N812 - a class
from gevent.ssl import SSLSocket

from app.errors import BadRequest, BodyTimeout, ClientGone, ProxyError
from app.wire import request as wire_request
from app.wire.forwarded import connection_lines
from app.wire.response import ResponseHead
from app.wire.status import STATUS_TEXT
from app.wire.upgrade import switching_lines
from app.worker.client.addresses import addresses_of
from app.worker.client.silence import Silence
from app.worker.net.deadlines import NEVER, Deadline, Expired
from app.worker.net.progress import taken
from app.worker.net.splice import SpliceBody, SpliceTo
from app.worker.net.stream import BODY_READ_SIZE, RawSocket, Stream, reset_at_close
from app.worker.net.tls_socket_stream import TlsSocketStream
from app.worker.net.tls_stream import AnyStream
from app.worker.proxy.body_limit import check_size
from app.worker.upstream.request import ReadBody

# The server writes its own Date and Server; the other two are in a 426.
_NOT_AN_APPLICATIONS = frozenset((b"date", b"server", b"connection", b"upgrade"))
_HTTP2 = ("HTTP/2", "HTTP/2.0")
_PROTOCOLS = (None, "HTTP/1.0", "HTTP/1.1", *_HTTP2)

StartResponse = Callable[..., Callable[[bytes], object]]


class WsgiExchange:
    """The client's side of an exchange as an environ shows it (see app.worker.proxy.exchange.Exchange)."""

    resumes_body = False  # a server's input may gather several pieces before it returns

    def __init__(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        is_trusted: Callable[[str], bool],
        deadline: Deadline,
        timeout: float,
        body_limit: int,
    ) -> None:
        self._timeout = timeout
        self._body_limit = body_limit
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")
        self._silence = Silence(partial(taken, self._socket), timeout)
        self._unreader = getattr(getattr(self._input, "reader", None), "unreader", None)
        self.tunnel: AnyStream | None = None
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._needs_reset = (
            False  # its end would be that of the answer, or nothing more reaches the client
        )
        self.rest: list[bytes] = []
        self.broken: Exception | None = None
        self.deadline = deadline
        self.peer = str(environ.get("REMOTE_ADDR") or "")
        self.scheme = str(environ["wsgi.url_scheme"])
        self.is_trusted = is_trusted(self.peer)
        self.forwarded = connection_lines(self.peer, self.scheme)
        self.head = _head_from(environ)
        if not isinstance(self._socket, GeventSocket) or self._unreader is None:
            self.head.upgrade = None  # there is no connection to give away
        self.body = b""
        self.bytes_in = self.bytes_out = 0
        self._left = self.head.length
        self._is_http2 = environ.get("SERVER_PROTOCOL") in _HTTP2
        if self._is_http2 and not environ.get("CONTENT_LENGTH"):
            self._find_body(deadline)
        self.splice_body: SpliceBody | None = None
        self.failure: ProxyError | None = None
        self.read_body: ReadBody | None = self._read_body if self._left else None

    @property
    def is_begun(self) -> bool:
        """Whether the response has been started."""
        return self._write is not None

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        """Start the response; its framing is the server's affair."""
        lines = head.lines
        fields = [
            (lines[at].decode("latin-1"), lines[at + 2].decode("latin-1"))
            for at in range(0, len(lines), 4)
            if lines[at].lower() not in _NOT_AN_APPLICATIONS
        ]
        phrase = head.reason.decode("latin-1") or STATUS_TEXT.get(head.status, "Unknown")
        if self._left or not self.head.keep_alive:
            close_after(self._start_response)
        self._write = self._start_response(f"{head.status} {phrase}", fields)
        self._needs_reset = head.length < 0 and not self.head.minor
        if first:
            self.write(first)

    def write(self, piece: bytes) -> None:
        """Send a piece of the body now."""
        assert self._write is not None
        was = self._silence.begin(self.deadline)
        try:
            self._write(piece)
        except Expired:
            self._needs_reset = True
            raise ClientGone("client does not take its response", reason="client_timeout") from None
        except OSError as error:
            self._needs_reset = True
            raise ClientGone(str(error)) from error
        finally:
            self._silence.end(self.deadline, was)
        self.bytes_out += len(piece)

    def splice(self, splice_to: SpliceTo) -> bool:
        """The server's socket is not ours."""
        return False

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The server ends the body when the application returns."""

    def interim(self, head: ResponseHead) -> None:
        """There is no way to send it."""

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        """Answer in the place of a backend."""
        if 400 <= status < 500 or self._left or not self.head.keep_alive:
            close_after(self._start_response)
        start_answer(self._start_response, status, lines, len(body))
        if self.head.method != b"HEAD":
            self.rest = [body]
            self.bytes_out = len(body)

    def switch(self, head: ResponseHead) -> tuple[AnyStream, bytes]:
        """Send the 101 past the server, on the connection that gunicorn shows."""
        client: Any = self._socket
        if isinstance(client, SSLSocket):
            self.tunnel = TlsSocketStream(client)
        else:
            # A descriptor of its own: the server closes its one itself.
            self.tunnel = Stream(RawSocket(fileno=os.dup(client.fileno())))
        status = b"HTTP/1.1 101 %b\r\n" % (head.reason or b"Switching Protocols")
        try:
            self.tunnel.write(b"".join((status, *head.lines, *switching_lines(head))))
        except OSError as error:
            raise ClientGone(str(error)) from error
        assert self._unreader is not None
        return self.tunnel, self._unreader.take_buffered()

    def addresses(self) -> tuple[object, object]:
        """As Exchange.addresses; of no server's socket, as far as the environ knows them."""
        return addresses_of(None, self._socket)

    def abort(self) -> None:
        """Have the application raise, upon which a server cuts the connection.

        gunicorn ends it with a FIN, behind which a length or chunks say that the answer is not whole. A body
        that lasts until then would end well: it is reset first.
        """
        if self._needs_reset and isinstance(self._socket, GeventSocket):
            reset_at_close(self._socket)
            self._socket.close()
        elif self.is_begun and isinstance(self._socket, SSLSocket):
            TlsSocketStream(self._socket).shutdown_write()
        # With this number gunicorn ends the connection and writes no traceback: the access line says why.
        self.broken = ConnectionResetError(errno.ECONNRESET, "the response cannot be finished")

    def request_trailers(self) -> list[tuple[bytes, bytes]]:
        """The server keeps them."""
        return []

    def _find_body(self, deadline: Deadline) -> None:
        """HTTP/2 needs no length for a body (RFC 9113 §8.1): whether there is one shows when it is read."""
        self._left = 1
        try:
            self.body = self._read_body(deadline)
        except BadRequest:
            self._left = 0
            return
        self._left = wire_request.CHUNKED
        self.head.length = wire_request.CHUNKED
        self.head.framing = b"Transfer-Encoding: chunked\r\n"

    def _read_body(self, deadline: Deadline) -> bytes:
        """The next piece of the body; b"" at its end. Raises BadRequest, BodyTimeout and ClientGone."""
        deadline.at = monotonic() + self._timeout
        try:
            if self._left > 0:
                data = self._input.read(min(self._left, BODY_READ_SIZE))
                self._left -= len(data)
                if not data and self._left:
                    if self._is_http2:  # its stream has ended, and it waits for the answer
                        raise BadRequest("request body ended early", reason="bad_framing")
                    raise ClientGone("request body ended early")
            elif self._left == 0:
                return b""
            else:
                data = self._input.read(BODY_READ_SIZE)
                if not data:
                    self._left = 0
        except ProxyError:
            raise
        except Expired:
            raise BodyTimeout("request body not complete in time") from None
        except TimeoutError as error:
            raise BodyTimeout(str(error)) from error
        except OSError as error:
            raise ClientGone(str(error)) from error
        except Exception as error:  # a server's own complaint about the body's framing
            raise BadRequest(str(error), reason="bad_framing") from error
        finally:
            deadline.at = NEVER
        self.bytes_in += len(data)
        check_size(self.bytes_in, self._body_limit)
        return bytes(data)


def _head_from(environ: dict[str, Any]) -> wire_request.RequestHead:
    """The request head that an environ describes, checked like one from the wire."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        target = quote(
            environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1"
        )
        if query := environ.get("QUERY_STRING"):
            target += "?" + query
    pairs = [
        (key[5:].replace("_", "-").title().encode("latin-1"), str(value).encode("latin-1"))
        for key, value in environ.items()
        # The server has answered an expectation already, and de-chunked the body.
        if key.startswith("HTTP_") and key not in ("HTTP_EXPECT", "HTTP_TRANSFER_ENCODING")
    ]
    if content_type := environ.get("CONTENT_TYPE"):
        pairs.append((b"Content-Type", content_type.encode("latin-1")))
    if coding := environ.get("HTTP_TRANSFER_ENCODING"):
        # De-chunked by the server, but of "gzip, chunked" only the one is undone.
        pairs.append((b"Transfer-Encoding", str(coding).encode("latin-1")))
    elif length := environ.get("CONTENT_LENGTH"):
        pairs.append((b"Content-Length", str(length).encode("latin-1")))
    protocol = environ.get("SERVER_PROTOCOL")
    if protocol not in _PROTOCOLS:  # gunicorn takes any HTTP/1.x
        raise BadRequest(f"protocol {protocol}", status=505, reason="version_not_supported")
    minor = 0 if protocol == "HTTP/1.0" else 1
    method = environ["REQUEST_METHOD"].encode("latin-1")
    return wire_request.head_from(method, target.encode("latin-1"), minor, pairs)


def close_after(start_response: StartResponse) -> None:
    """Have gunicorn say that the connection ends; other servers know for themselves when it has to."""
    force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
    if force_close is not None:
        force_close()


def start_answer(
    start_response: StartResponse, status: int, lines: Iterable[tuple[str, str]], length: int
) -> None:
    """Start an answer of our own; the server writes its own Server."""
    fields = [(name, value) for name, value in lines if name != "Server"]
    fields.append(("Content-Length", str(length)))
    start_response(f"{status} {STATUS_TEXT.get(status, 'Error')}", fields)
