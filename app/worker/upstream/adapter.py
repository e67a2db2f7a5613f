"""The transport adapter: sends one request over a connection to its backend, reads the head of its answer.

Owns a round trip: which connection, until when each wait lasts, what a connection that ends means, interim
responses. Runs in workers, in the request's greenlet. Never picks or retries; whether a request may be sent
once more is read from the errors raised here (``sent``: the backend may have acted upon it).
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import Any

from requests.adapters import BaseAdapter

from app.errors import (
    BackendReset,
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    ResponseTimeout,
    StaleConnection,
)
from app.tls import backends
from app.wire.response import Interims, ResponseHead
from app.wire.upgrade import accepts
from app.worker.net.deadlines import NEVER, Expired
from app.worker.net.stream import POST_SIZE
from app.worker.net.tls_stream import AnyStream
from app.worker.upstream.connections import Connection, ConnectionCache
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.response import UpstreamResponse
from app.worker.upstream.send_proxy import ClientLane
from app.worker.upstream.upload import Upload


class _Lost(Exception):
    """The connection ended before the head of the answer was complete."""

    def __init__(self, detail: str, nothing_read: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.nothing_read = nothing_read


class Adapter(BaseAdapter):
    """Sends over cached connections; the request's own deadlines bound every wait."""

    def send(self, request: Any, *_: Any, **__: Any) -> UpstreamResponse:
        """Send and read the response head. Raises BackendError, or ClientError from the body's source."""
        connections: ConnectionCache | ClientLane = request.connections
        connection = connections.take()
        is_reused = connection is not None
        if connection is None:
            connection = _open(request, connections)
        before = connection.sent
        try:
            return _round_trip(request, connection)
        except _Lost as lost:
            # What the peer's kernel never took cannot have been acted upon, whatever the method.
            untaken = connection.stream.unacknowledged(before)
            connection.close()
            stale = is_reused and lost.nothing_read
            error = (StaleConnection if stale else BackendReset)(lost.detail)
            error.sent = not untaken
            raise error from None
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Nothing to close: the caches belong to the pool."""


def _open(request: UpstreamRequest, connections: ConnectionCache | ClientLane) -> Connection:
    """A new connection within the connect timeout, TLS handshake included."""
    deadline = request.deadline
    started = monotonic()
    deadline.at = until = min(started + request.connect_timeout, request.expires_at)
    try:
        connection = connections.open(until - started)
    except Expired:
        raise ConnectTimeout("no connection in time") from None
    except OSError as error:
        raise _not_connected(error) from None
    finally:
        deadline.at = NEVER
    request.connect_seconds = monotonic() - started
    return connection


def _not_connected(error: OSError) -> ConnectFailed:
    if isinstance(error, ssl.SSLError):
        return ConnectFailed(backends.words(error), reason=backends.reason(error))
    if isinstance(error, ConnectionRefusedError):
        return ConnectFailed(str(error), reason="connection_refused")
    if isinstance(error, socket.gaierror):
        return ConnectFailed(str(error), reason="dns_error")
    return ConnectFailed(str(error))


def _round_trip(request: UpstreamRequest, connection: Connection) -> UpstreamResponse:
    """Write the request, read until the head of its final answer. Raises _Lost, BadResponse, …

    One function for what a request without a body needs, as a call costs 0.1 µs of its 4.4 (bench/micro.py);
    what bodies, interim responses and failures need has functions of its own.
    """
    stream, deadline, method = connection.stream, request.deadline, request.raw_method
    read_head = request.read_head
    upload: Upload | None = None
    data = b""
    seen = 0
    interims: Interims | None = None
    message = request.head
    if request.length or request.raw_body:
        request.check_here()
        message += request.raw_body
    connection.sent += len(message)
    request.sent_at = sent_at = monotonic()
    deadline.at = request.next_deadline(sent_at)
    try:
        if request.read_body is not None:
            _write(stream, message)
            upload = Upload(request, connection)
        else:
            deadline.request = request  # from now on its answer is waited for (app.worker.stalls)
            if len(message) <= POST_SIZE:
                stream.post(message)
            else:
                _write(stream, message)
        while True:
            try:
                piece = stream.read()
            except Expired:
                deadline.at = _extended(request, upload)
                continue
            if not piece:
                raise _Lost("connection closed before the response head", not data)
            data = data + piece if data else piece
            head = read_head(data, method, seen)
            while head is not None and head.status < 200 and head.status != 101:
                interims = interims or Interims(monotonic())
                _pass_interim(request, connection, upload, head, interims)
                data = data[head.consumed :]
                head = read_head(data, method, 0)
            if head is not None:
                break
            seen = len(data)
    except BaseException as failure:
        error = _cause(failure, connection, upload, not data)
        if error is failure:
            raise
        raise error from None
    finally:
        deadline.at = NEVER
        deadline.request = None
    cache = connection.cache
    cache.heard_at = heard_at = monotonic()
    if upload is None and heard_at - sent_at > cache.slowest:
        cache.slowest = heard_at - sent_at
    if interims is not None and not interims.keep_alive:
        head.keep_alive = False
    answer = UpstreamResponse(head, connection, request, heard_at)
    rest = data[head.consumed :]
    if head.status == 101:
        _switch(answer, rest, upload)
    else:
        if upload is not None:
            _answer_during(upload, answer)
        answer.begin(rest)
    return answer


def _cause(
    failure: BaseException, connection: Connection, upload: Upload | None, nothing_read: bool
) -> BaseException:
    """The error to raise for a round trip: the client's, if its side failed first, else the connection's."""
    error = _from_client(upload)
    if error is not None:
        return error
    if isinstance(failure, OSError):
        return _unconnected(connection, failure) or _Lost(str(failure), nothing_read)
    return failure


def _switch(answer: UpstreamResponse, rest: bytes, upload: Upload | None) -> None:
    """Take a 101, behind which another protocol begins (``rest``). BadResponse if nobody asked for it."""
    if not accepts(answer.head.upgrade, answer.request_.upgrade):
        raise BadResponse("101 that nobody asked for, or without its fields")
    if upload is not None and not upload.done:
        raise BadResponse("101 before the request was complete")
    answer.first = rest


def _answer_during(upload: Upload, answer: UpstreamResponse) -> None:
    """Tell an answer about the body of its request, of which perhaps not all was sent when it came."""
    if not upload.done:
        answer.upload = upload
    if upload.was_unasked:
        # It may read what was sent after the wait as the body, or as its next request: who knows?
        answer.head.keep_alive = False


def _write(stream: AnyStream, message: bytes) -> None:
    """Send a head and what is here of the body. Raises OSError, and ResponseTimeout if it is not taken."""
    try:
        stream.write(message)
    except Expired:
        raise ResponseTimeout("request not taken in time") from None


def _unconnected(connection: Connection, failure: OSError) -> ConnectFailed | None:
    """ConnectFailed where the server refused our certificate, else None.

    With TLS 1.3 it judges the certificate after we have spoken: what it refused, it has not read.
    """
    if not isinstance(failure, ssl.SSLError) or not backends.is_refusal(failure):
        return None
    connection.cache.complain(failure)
    return ConnectFailed(backends.words(failure), reason="tls_error")


def _extended(request: UpstreamRequest, upload: Upload | None) -> float:
    """A later deadline for a wait whose time is over, while the backend still takes the body; ResponseTimeout
    otherwise. It need not answer before it has all of it.
    """
    if upload is not None:
        until = request.next_deadline(upload.progress_at)
        if until > monotonic():
            return until
    raise ResponseTimeout("no response head in time")


def _pass_interim(
    request: UpstreamRequest,
    connection: Connection,
    upload: Upload | None,
    head: ResponseHead,
    interims: Interims,
) -> None:
    """Handle a 1xx: 100 starts a body that waits for it, the others are the client's."""
    request.deadline.request = None
    connection.cache.heard_at = now = monotonic()
    interims.count(head, now)
    if head.status == 100:
        if upload is not None:
            upload.begin()
    elif request.on_interim is not None:
        request.on_interim(head)
    # Sending has used the same deadline, and a backend that hints begins its time anew.
    request.sent_at = monotonic()
    request.deadline.at = request.next_deadline(request.sent_at)


def _from_client(upload: Upload | None) -> ProxyError | None:
    """Stop the upload; why the client's side of the exchange failed, if that is what ended it."""
    if upload is None:
        return None
    upload.stop()
    return upload.error
