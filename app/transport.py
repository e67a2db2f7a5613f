"""The session that carries requests to backends, and its transport adapter.

Owns the connections to backends (one connection cache for each backend and worker), sending a request and
reading its answer. Everything that ``requests`` does between a caller and an adapter is left out by
design, because every part of it changes messages: no cookie jar (it would hand one user's cookies to
another), no redirects (they eat 3xx bodies), no .netrc, no proxy variables, no default header, no URL
rewriting, no second length header, no joined Set-Cookie, and 1xx is never taken for the answer.

Another adapter can be mounted on the session for a prefix of server URLs, as with any session; it gets
``send(request, stream=True, timeout=…, verify=…)`` with ``request.method/url/headers/body`` and returns a
``requests.Response``. Runs in workers and, for probes, in the control process. Never picks or retries.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from time import monotonic
from typing import Any

import certifi
import gevent
import gevent.socket
import requests
from gevent import ssl as gevent_ssl
from gevent.event import Event
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from app.deadlines import NEVER, Deadline, Expired, deadlines
from app.errors import (
    Aborted,
    BackendReset,
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    ResponseTimeout,
    StaleConnection,
)
from app.splice import (
    SPLICE_MIN,
    Moved,
    SinkFailed,
    SourceExpired,
    SourceFailed,
    SpliceBody,
    Until,
    splice,
)
from app.splice import is_available as splice_is_available
from app.stream import AnyStream, Stream, TlsStream, connect
from app.wire import response as wire_response
from app.wire.chunked import ChunkedDecoder, ChunkedError, encode_chunk, last_chunk
from app.wire.response import CHUNKED, ResponseHead
from app.wire.upgrade import accepts

# What surely fits a socket's send buffer: it can be posted.
POST_SIZE = 16384
# A reused buffer of this size moves large bodies at 0.43 CPU s/GB, 64 KiB at 0.6–0.8 (measured).
BODY_READ_SIZE = 262144
# How long a backend may keep a client waiting that asked first (Expect: 100-continue) before the body is
# sent anyway: RFC 9110 §10.1.1 wants no indefinite wait; curl waits 1 s.
CONTINUE_TIMEOUT = 1.0
# 103 may come a few times; an endless run of interim responses is an attack on the reader.
MAX_INTERIM_RESPONSES = 32

_NO_TRAILERS: list[tuple[bytes, bytes]] = []

ReadBody = Callable[[Deadline], bytes]
Interim = Callable[[ResponseHead], None]


class Connection:
    """One connection to a backend. ``sent`` counts bytes of all its requests."""

    __slots__ = ("cache", "idle_since", "sent", "stream")

    def __init__(self, stream: AnyStream, cache: ConnectionCache) -> None:
        self.stream = stream
        self.cache = cache
        self.idle_since = 0.0
        self.sent = 0

    def close(self) -> None:
        """Close it for good."""
        self.stream.close()

    def _died_idle(self) -> None:
        """An idle connection has nothing to say: it was closed, or it is not to be trusted."""
        idle = self.cache.idle
        if self in idle:
            idle.remove(self)
        self.stream.close()


class ConnectionCache:
    """The idle connections of this worker to one backend, and how to open another.

    ``idle_timeout`` in seconds, 0 keeps them until the backend closes them. The most recently used one is
    taken first, so that the others grow old and are closed before the backend closes them.
    """

    __slots__ = ("_is_closed", "address", "idle", "idle_timeout", "is_tls", "server_name")

    def __init__(self, scheme: str, host: str, port: int, idle_timeout: float) -> None:
        self.address = (host, port)
        self.is_tls = scheme == "https"
        self.server_name = host
        self.idle_timeout = idle_timeout
        self.idle: list[Connection] = []
        self._is_closed = False
        if scheme == "unix":
            self.address = (host, -1)

    def take(self) -> Connection | None:
        """An idle connection that is still open, if there is one."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            stream = connection.stream
            stream.on_event = None
            # The watcher drops a connection that speaks unasked, but its event may still be waiting for
            # this turn of the loop to end; those bytes must never be the next client's answer (0.8 µs).
            if stream.peek() is None:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose last response was read to its end."""
        if self._is_closed:
            connection.close()
            return
        connection.idle_since = deadlines.now
        stream = connection.stream
        stream.on_event = connection._died_idle
        stream.watch()
        self.idle.append(connection)

    def open(self) -> Connection:
        """Connect, and shake hands where the URL says https. Raises OSError."""
        host, port = self.address
        if port < 0:
            return Connection(connect(socket.AF_UNIX, host), self)
        stream = self._connect_tcp(host, port)
        if not self.is_tls:
            return Connection(stream, self)
        family = stream.raw.family
        plain = gevent.socket.socket(family, socket.SOCK_STREAM, 0, fileno=stream.detach())
        try:
            tls = _tls_context().wrap_socket(plain, server_hostname=self.server_name)
        except BaseException:
            plain.close()
            raise
        return Connection(TlsStream(tls), self)

    def _connect_tcp(self, host: str, port: int) -> Stream:
        failure: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                return connect(family, address)
            except OSError as error:
                failure = error
        raise failure or OSError(f"no address for {host}")

    def sweep(self, now: float) -> None:
        """Close what has been idle too long; the oldest are first."""
        if not self.idle_timeout:
            return
        idle = self.idle
        while idle and now - idle[0].idle_since > self.idle_timeout:
            idle.pop(0).close()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        self._is_closed = True
        while self.idle:
            self.idle.pop().close()

    def __repr__(self) -> str:
        return f"<ConnectionCache {self.address} {len(self.idle)} idle>"


class UpstreamRequest(requests.PreparedRequest):
    """A request that is ready to be sent: nothing of it is prepared, guessed or completed.

    ``head`` is the whole head as bytes. ``body`` is the part of the body that is already here, framed;
    ``read_body`` gives the rest piece by piece, b"" at its end (None: there is no rest), sent chunked when
    ``is_chunked``. ``expects_continue`` holds the rest back until the backend wants it.
    """

    # Defaults stand on the class: most requests have no body that is still to come.
    read_body: ReadBody | None = None
    splice_body: SpliceBody | None = None
    is_chunked = False
    trailers: Callable[[], list[tuple[bytes, bytes]]] = list
    expects_continue = False
    began_body = False
    upgrade = b""  # the protocols that a 101 may switch to
    on_interim: Interim | None = None
    connect_seconds: float | None = None
    base_url = ""
    expires_at = NEVER  # the total timeout, monotonic
    body_sent = 0
    adapter: Any = None

    def __init__(
        self,
        method: bytes,
        head: bytes,
        body: bytes,
        connections: ConnectionCache,
        deadline: Deadline,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        self.raw_method = method
        self.head = head
        self.raw_body = body
        self.connections = connections
        self.deadline = deadline
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout

    def next_deadline(self, now: float) -> float:
        """When waiting for the backend ends that begins now."""
        if not self.read_timeout:
            return self.expires_at
        return min(now + self.read_timeout, self.expires_at)

    # What an adapter other than ours may ask for, made when it asks.
    @property
    def method(self) -> str:  # type: ignore[override]
        """The method as text."""
        return self.raw_method.decode("latin-1")

    @property
    def url(self) -> str:  # type: ignore[override]
        """The server's URL with the raw target."""
        target = self.head.split(b" ", 2)[1].decode("latin-1")
        return self.base_url + target

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The fields of the head; repeated ones joined, as requests can hold but one of a name."""
        result: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for line in self.head.split(b"\r\n")[1:-2]:
            name, _, value = line.decode("latin-1").partition(": ")
            result[name] = f"{result[name]}, {value}" if name in result else value
        return result

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The body as bytes, or an iterator of its pieces."""
        if self.read_body is None:
            return self.raw_body or None
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        assert self.read_body is not None
        if self.raw_body:
            yield self.raw_body
        while piece := self.read_body(self.deadline):
            yield piece


class UpstreamResponse(requests.Response):
    """A response whose head has been read; ``read`` gives its decoded body piece by piece.

    ``first`` is what of the body came with the head. The connection goes back to its cache the moment the
    last byte has been read, before the client has it. ``close`` at any time gives everything up.
    """

    first = b""
    upload: Upload | None = None
    trailers: list[tuple[bytes, bytes]] = _NO_TRAILERS
    _remaining = 0
    _decoder: ChunkedDecoder | None = None
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

    @property
    def complete(self) -> bool:
        """Whether the whole body has been read."""
        return self.connection_ is None

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
            self._decoder = ChunkedDecoder()
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
        """The next piece of the body, b"" at its end. Raises Aborted when it cannot be finished."""
        connection = self.connection_
        if connection is None:
            return b""
        request = self.request_
        deadline = request.deadline
        while True:
            deadline.at = request.next_deadline(monotonic())
            try:
                data = connection.stream.read(BODY_READ_SIZE)
            except Expired:
                raise self._abort("read timeout in the body", "read_timeout") from None
            except OSError as error:
                raise self._abort(str(error), "reset_in_body") from None
            finally:
                deadline.at = NEVER
            if self._decoder is not None:
                if not data:
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
        if self.connection_ is not None:
            self.connection_.close()
            self.connection_ = None

    def _finish_chunked(self) -> None:
        assert self._decoder is not None
        self.trailers = self._decoder.trailers
        self._reusable = self._reusable and not self._decoder.rest
        self._finish()

    def _finish(self) -> None:
        connection = self.connection_
        if connection is None:
            return
        self.connection_ = None
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


class Upload:
    """Sends the rest of a request body while the response is awaited: a backend may answer first.

    With an expectation it waits until the backend wants the body (``begin``) or CONTINUE_TIMEOUT is over.
    """

    __slots__ = ("_connection", "_greenlet", "_request", "_wanted", "done", "error", "progress_at")

    def __init__(self, request: UpstreamRequest, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._wanted = Event() if request.expects_continue else None
        self.done = False
        self.error: ProxyError | None = None
        self.progress_at = monotonic()
        self._greenlet = gevent.spawn(self._run)

    def begin(self) -> None:
        """The backend has asked for the body."""
        if self._wanted is not None:
            self._wanted.set()

    def stop(self) -> None:
        """Send no more."""
        if not self.done:
            self._greenlet.kill()

    def _run(self) -> None:
        request, stream = self._request, self._connection.stream
        read_body = request.read_body
        assert read_body is not None
        if self._wanted is not None:
            self._wanted.wait(CONTINUE_TIMEOUT)
        request.began_body = True
        deadline = deadlines.enter()
        try:
            if request.splice_body is not None and isinstance(stream, Stream):
                request.splice_body(stream, deadline, self._write_until, self._moved)
            while piece := read_body(deadline):
                deadline.at = monotonic() + request.read_timeout if request.read_timeout else NEVER
                message = encode_chunk(piece) if request.is_chunked else piece
                stream.write(message)
                deadline.at = NEVER
                self._moved(len(message))
            if request.is_chunked:
                stream.write(last_chunk(request.trailers()))
            self.done = True
        except ProxyError as error:  # the client's side failed: its request can never be complete
            self.error = error
            stream.shutdown()
        except (OSError, Expired, SinkFailed):
            # The backend takes no more. It may have answered already: whoever reads finds out.
            pass
        finally:
            deadlines.leave(deadline)

    def _write_until(self) -> float:
        timeout = self._request.read_timeout
        return monotonic() + timeout if timeout else NEVER

    def _moved(self, count: int) -> None:
        self._connection.sent += count
        self._request.body_sent += count
        self.progress_at = monotonic()


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
        connections: ConnectionCache = request.connections
        connection = connections.take()
        is_reused = connection is not None
        if connection is None:
            connection = _open(request, connections)
        before = connection.sent
        try:
            return _exchange(request, connection)
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


def _open(request: UpstreamRequest, connections: ConnectionCache) -> Connection:
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
        raise ConnectFailed(str(error), reason="tls_error") from None
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


def _exchange(request: UpstreamRequest, connection: Connection) -> UpstreamResponse:
    """Write the request, read until the head of its final answer. Raises _Lost, BadResponse, …"""
    stream, deadline, method = connection.stream, request.deadline, request.raw_method
    upload: Upload | None = None
    data = b""
    seen = interims = 0
    message = request.head + request.raw_body if request.raw_body else request.head
    connection.sent += len(message)
    deadline.at = request.next_deadline(monotonic())
    try:
        if len(message) <= POST_SIZE and request.read_body is None:
            stream.post(message)
        else:
            stream.write(message)
            if request.read_body is not None:
                upload = Upload(request, connection)
        while True:
            try:
                piece = stream.read()
            except Expired:
                deadline.at = _extended(request, upload)
                continue
            if not piece:
                raise _Lost("connection closed before the response head", not data)
            data = data + piece if data else piece
            head = wire_response.read_head(data, method, seen)
            while head is not None and head.status < 200 and head.status != 101:
                interims += 1
                _pass_interim(request, upload, head, interims)
                data = data[head.consumed :]
                head = wire_response.read_head(data, method)
            if head is not None:
                break
            seen = len(data)
    except OSError as failure:
        raise _from_client(upload) or _Lost(str(failure), not data) from None
    except BaseException:
        error = _from_client(upload)
        if error is not None:
            raise error from None
        raise
    finally:
        deadline.at = NEVER
    answer = UpstreamResponse(head, connection, request, monotonic())
    if head.status == 101:
        if not accepts(head.upgrade, request.upgrade):
            raise BadResponse("101 that nobody asked for")
        if upload is not None and not upload.done:
            raise BadResponse("101 before the request was complete")
        answer.first = data[head.consumed :]
        return answer
    if upload is not None and not upload.done:
        answer.upload = upload
    answer.begin(data[head.consumed :])
    return answer


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


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Where to connect: a literal as it is, a name as the resolver has it, in its order."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    found = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(entry[0], entry[4]) for entry in found]


@cache
def _tls_context() -> gevent_ssl.SSLContext:
    """Certificates and names of backends are verified, against the roots that requests trusts."""
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    return context


class Session(requests.Session):
    """A session that hands a request to its adapter and does nothing else to it."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        adapter = Adapter()
        for prefix in ("http://", "https://", "unix:"):
            self.mount(prefix, adapter)

    def send(self, request: Any, **options: Any) -> Any:
        """Send with the adapter mounted for the server; give an UpstreamResponse whatever it returned."""
        adapter = request.adapter
        if type(adapter) is Adapter:
            return adapter.send(request)
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


class AdaptedResponse:
    """A plain ``requests.Response`` of a mounted adapter, with the face of UpstreamResponse."""

    def __init__(self, response: requests.Response, head: ResponseHead, method: bytes) -> None:
        self.head = head
        self.first = b""
        self.complete = method == b"HEAD" or head.length == 0
        self.upload = None
        self.splices = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self.first_byte_at = monotonic()
        self._response = response
        self._left = head.length
        raw = response.raw
        if hasattr(raw, "stream"):  # urllib3: as it came, not decoded
            self._pieces: Iterator[bytes] = raw.stream(BODY_READ_SIZE, decode_content=False)
        else:
            self._pieces = response.iter_content(BODY_READ_SIZE)

    def read(self) -> bytes:
        """As UpstreamResponse.read."""
        try:
            for piece in self._pieces:
                if piece:
                    self._left -= len(piece)
                    return piece
        except Exception as error:  # whatever a foreign adapter raises: the body cannot be finished
            self.close()
            raise Aborted(str(error), reason="reset_in_body") from error
        if self._left > 0:
            raise Aborted(f"body ended {self._left} bytes early", reason="truncated")
        self.complete = True
        return b""

    def close(self) -> None:
        """As UpstreamResponse.close."""
        self._response.close()


def adapted(response: Any, request: UpstreamRequest) -> Any:
    """An answer of any adapter as the proxy wants it."""
    if isinstance(response, UpstreamResponse):
        return response
    source = getattr(response.raw, "headers", None) or response.headers
    items = source.iteritems() if hasattr(source, "iteritems") else source.items()
    block = b"".join(
        b"%b: %b\r\n" % (str(name).encode("latin-1"), str(value).encode("latin-1"))
        for name, value in items
        # What such an adapter read was de-chunked already.
        if str(name).lower() != "transfer-encoding"
    )
    phrase = (response.reason or "").encode("latin-1")
    data = b"HTTP/1.1 %d %b\r\n%b\r\n" % (response.status_code, phrase, block)
    head = wire_response.read_head(data, request.raw_method)
    if head is None or head.status < 200:
        raise BadResponse("an adapter returned no final head that can be read")
    return AdaptedResponse(response, head, request.raw_method)
