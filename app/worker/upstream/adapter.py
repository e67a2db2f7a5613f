"""The session that carries requests to backends, and its transport adapter.

Owns sending a request and reading the head of its answer. Everything that ``requests`` does between a
caller and an adapter is left out by design, because every part of it changes messages: no cookie jar (it
would hand one user's cookies to another), no redirects (they eat 3xx bodies), no .netrc, no proxy
variables, no default header, no URL rewriting, no second length header, no joined Set-Cookie, and 1xx is
never taken for the answer.

Another adapter can be mounted on the session for a prefix of server URLs, as with any session; it gets
``send(request, stream=True, timeout=…, verify=…)`` with ``request.method/url/headers/body`` and returns a
``requests.Response``. Runs in workers. Never picks or retries.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import requests
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
from app.wire.response import MAX_INTERIM_RESPONSES, ResponseHead
from app.wire.upgrade import accepts
from app.worker.net.deadlines import NEVER, Expired
from app.worker.net.stream import POST_SIZE
from app.worker.net.tls_stream import AnyStream
from app.worker.upstream.connections import Connection, ConnectionCache
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.response import UpstreamResponse, adapted
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
    limit = started + request.connect_timeout if request.connect_timeout else NEVER
    deadline.at = min(limit, request.expires_at)
    try:
        connection = connections.open()
    except Expired:
        raise ConnectTimeout(f"no connection within {request.connect_timeout} s") from None
    except ssl.SSLError as error:
        raise ConnectFailed(backends.words(error), reason=backends.reason(error)) from None
    except ConnectionRefusedError as error:
        raise ConnectFailed(str(error), reason="connection_refused") from None
    except socket.gaierror as error:
        raise ConnectFailed(str(error), reason="dns_error") from None
    except OSError as error:
        raise ConnectFailed(str(error)) from None
    finally:
        deadline.at = NEVER
    request.connect_seconds = monotonic() - started
    return connection


def _round_trip(request: UpstreamRequest, connection: Connection) -> UpstreamResponse:
    """Write the request, read until the head of its final answer. Raises _Lost, BadResponse, …"""
    stream, deadline, method = connection.stream, request.deadline, request.raw_method
    read_head = request.read_head
    upload: Upload | None = None
    data = b""
    seen = interims = 0
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
                interims += 1
                deadline.request = None
                connection.cache.heard_at = monotonic()
                _pass_interim(request, upload, head, interims)
                # Sending has used the same deadline, and a backend that hints begins its time anew.
                deadline.at = request.next_deadline(monotonic())
                data = data[head.consumed :]
                head = read_head(data, method, 0)
            if head is not None:
                break
            seen = len(data)
    except OSError as failure:
        raise (
            _from_client(upload)
            or _unconnected(connection, failure)
            or _Lost(str(failure), not data)
        ) from None
    except BaseException:
        error = _from_client(upload)
        if error is not None:
            raise error from None
        raise
    finally:
        deadline.at = NEVER
        deadline.request = None
    cache = connection.cache
    cache.heard_at = heard_at = monotonic()
    if upload is None and heard_at - sent_at > cache.slowest:
        cache.slowest = heard_at - sent_at
    answer = UpstreamResponse(head, connection, request, heard_at)
    if head.status == 101:
        if not accepts(head.upgrade, request.upgrade):
            raise BadResponse("101 that nobody asked for, or without its fields")
        if upload is not None and not upload.done:
            raise BadResponse("101 before the request was complete")
        answer.first = data[head.consumed :]
        return answer
    if upload is not None:
        if not upload.done:
            answer.upload = upload
        if upload.was_unasked:
            # It may read what was sent after the wait as the body, or as its next request: who knows?
            head.keep_alive = False
    answer.begin(data[head.consumed :])
    return answer


def _write(stream: AnyStream, message: bytes) -> None:
    """Send a head and what is here of the body. Raises OSError, and ResponseTimeout if it is not taken."""
    try:
        stream.write(message)
    except Expired:
        raise ResponseTimeout("request not taken in time") from None


def _unconnected(connection: Connection, failure: OSError) -> ConnectFailed | None:
    """With TLS 1.3 a server judges our certificate after we have spoken: what it refused, it has not read."""
    if not isinstance(failure, ssl.SSLError) or not backends.is_refusal(failure):
        return None
    connection.cache.complain(failure)
    return ConnectFailed(backends.words(failure), reason="tls_error")


def _extended(request: UpstreamRequest, upload: Upload | None) -> float:
    """The deadline of a wait that seemed over: a backend need not answer while it still takes the body."""
    if upload is not None:
        until = request.next_deadline(upload.progress_at)
        if until > monotonic():
            return until
    raise ResponseTimeout("no response head in time")


def _pass_interim(
    request: UpstreamRequest, upload: Upload | None, head: ResponseHead, count: int
) -> None:
    """Handle a 1xx: 100 starts a body that waits for it, the others are the client's."""
    if count > MAX_INTERIM_RESPONSES:
        raise BadResponse("too many interim responses")
    if head.status == 100:
        if upload is not None:
            upload.begin()
    elif request.on_interim is not None:
        request.on_interim(head)


def _from_client(upload: Upload | None) -> ProxyError | None:
    """Why the client's side of the exchange failed, if that is what ended it."""
    if upload is None:
        return None
    upload.stop()
    return upload.error


class Session(requests.Session):
    """A session that hands a request to its adapter and does nothing else to it.

    ``on_mount`` is called when an adapter was mounted: who keeps what ``get_adapter`` has said asks again.
    """

    on_mount: Callable[[], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        adapter = Adapter()
        for prefix in ("http://", "https://", "unix:"):
            self.mount(prefix, adapter)

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """As requests.Session.mount; from the next request on."""
        super().mount(prefix, adapter)
        if self.on_mount is not None:
            self.on_mount()

    def send(self, request: Any, **options: Any) -> Any:
        """Send with the adapter mounted for the server; give an UpstreamResponse whatever it returned."""
        adapter = request.adapter
        if type(adapter) is Adapter:
            return adapter.send(request)
        request.check_here()
        options = {
            "stream": True,
            "timeout": (request.connect_timeout or None, request.read_timeout or None),
            "verify": True,
            "cert": None,
            "proxies": {},
            **options,
        }
        try:
            return adapted(adapter.send(request, **options), request)
        except requests.exceptions.ConnectTimeout as error:
            raise ConnectTimeout(str(error)) from error
        except requests.exceptions.Timeout as error:
            raise ResponseTimeout(str(error)) from error
        except requests.exceptions.ConnectionError as error:
            raise BackendReset(str(error)) from error
        except requests.exceptions.RequestException as error:
            raise BadResponse(str(error)) from error
