"""The WSGI application: what ``app:application`` is.

Owns putting a worker's parts together (table, pool, session, proxy) and the client's side of an exchange
as PEP 3333 shows it, so that the application also runs under the stock gevent worker or any WSGI server.
There it does without what an environ cannot tell: the spelling and order of header fields, whether the
client has gone, interim responses and trailers. app.worker.client.http1 goes past this, straight to the
proxy. Imported in workers only, after gevent has patched the standard library.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any
from urllib.parse import quote

from gevent.socket import socket as GeventSocket  # noqa: N812 - a class
from gevent.ssl import SSLSocket

from app import config as configuration
from app.config import Config, Server
from app.errors import BadRequest, BodyTimeout, ClientGone, InternalError, ProxyError
from app.master import hooks as master
from app.shared.table import HEALTHY, STATE, Table, identity_of
from app.telemetry import log
from app.tls.backends import BackendTrust
from app.wire import request as wire_request
from app.wire.forwarded import connection_lines
from app.wire.response import ResponseHead
from app.wire.status import STATUS_TEXT
from app.wire.upgrade import switching_lines
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import NEVER, Deadline, Expired, deadlines
from app.worker.net.splice import SpliceBody, SpliceTo
from app.worker.net.stream import BODY_READ_SIZE, RawSocket, Stream
from app.worker.net.tls_stream import AnyStream, TlsSocketStream
from app.worker.proxy.handler import Proxy
from app.worker.stalls import StallWatch
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.request import ReadBody
from app.worker.upstream.send_proxy import ProxyHeaderConnections
from app.worker.upstream.session import Session

# The server writes its own Date and Server; the other two are in a 426.
_NOT_AN_APPLICATIONS = frozenset((b"date", b"server", b"connection", b"upgrade"))
_HTTP2 = ("HTTP/2", "HTTP/2.0")
_PROTOCOLS = (None, "HTTP/1.0", "HTTP/1.1", *_HTTP2)

StartResponse = Callable[..., Callable[[bytes], object]]


class Application:
    """The load balancer of one worker. ``session`` is where another transport adapter can be mounted."""

    def __init__(self, config: Config, table: Table, slot: int) -> None:
        self.config = config
        self.session = Session()
        self._sink = log.stdout()
        self._caches: list[ConnectionCache] = []
        self._trust: BackendTrust | None = None  # made for the first https:// server
        self._client_timeout = config.timeouts.client or NEVER
        self.pool = Pool(table, slot, self._connect, self._disconnect)
        self.session.on_mount = self._ask_for_adapters
        access_log = log.AccessLog(self._sink) if config.logging.access else None
        self.proxy = Proxy(config, self.pool, self.session, access_log)
        for function in (self._sweep, self.proxy.tick, self._flush_log):
            deadlines.every_tick(function)
        outliers = config.outlier_detection
        if outliers is not None and outliers.stall_after:
            deadlines.every_tick(
                StallWatch(self.pool, deadlines, outliers, self.proxy.may_move).look
            )

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Forward one request; its response goes through the ``write`` of PEP 3333, as it comes."""
        deadlines.start()
        deadline = deadlines.enter()
        exchange: WsgiExchange | None = None
        try:
            try:
                exchange = WsgiExchange(
                    environ, start_response, self.proxy.is_trusted, deadline, self._client_timeout
                )
            except Exception as failure:  # noqa: BLE001 - of a server's environ, whatever it lacks
                error = failure if isinstance(failure, ProxyError) else _unforeseen(failure)
                peer = str(environ.get("REMOTE_ADDR") or "")
                body = self.proxy.refuse(peer, error, monotonic())
                _close_after(start_response)
                _start_answer(start_response, error.status, (), len(body))
                return [body]
            self.proxy.handle(exchange)
            if exchange.tunnel is not None:
                # gunicorn closes the connection then; its own ALREADY_HANDLED would have it read the
                # next request from what a tunnel left behind.
                raise StopIteration
            if exchange.broken is not None:
                raise exchange.broken  # the server cuts the connection: never a good ending
            return exchange.rest
        finally:
            if exchange is not None and exchange.tunnel is not None:
                exchange.tunnel.close()
            deadlines.leave(deadline)

    def close(self) -> None:
        """Close the connections to backends and write out the log."""
        for connections in self._caches:
            connections.close()
        self._sink.drain()

    def _connect(self, server: Server) -> tuple[ConnectionCache, Any]:
        config = self.config
        if server.scheme == "https" and self._trust is None:
            self._trust = BackendTrust(config.backend_tls)
        kind = ConnectionCache if config.send_proxy == "off" else ProxyHeaderConnections
        connections = kind(
            server.scheme,
            server.host,
            server.port,
            config.timeouts.backend_keepalive,
            self._trust if server.scheme == "https" else None,
        )
        self._caches.append(connections)
        return connections, self.session.get_adapter(server.url)

    def _ask_for_adapters(self) -> None:
        for backend in self.pool.backends:
            backend.adapter = self.session.get_adapter(backend.url)

    def _disconnect(self, connections: ConnectionCache) -> None:
        self._caches.remove(connections)
        connections.close()

    def _sweep(self, now: float) -> None:
        for connections in self._caches:
            if connections.idle:
                connections.sweep(now)

    def _flush_log(self, _now: float) -> None:
        self._sink.flush()


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
    ) -> None:
        self._timeout = timeout
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")
        self._unreader = getattr(getattr(self._input, "reader", None), "unreader", None)
        self.tunnel: AnyStream | None = None
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
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
            _close_after(self._start_response)
        self._write = self._start_response(f"{head.status} {phrase}", fields)
        if first:
            self.write(first)

    def write(self, piece: bytes) -> None:
        """Send a piece of the body now."""
        assert self._write is not None
        deadline = self.deadline
        deadline.at = monotonic() + self._timeout
        try:
            self._write(piece)
        except Expired:
            raise ClientGone("client does not take its response", reason="client_timeout") from None
        except OSError as error:
            raise ClientGone(str(error)) from error
        finally:
            deadline.at = NEVER
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
            _close_after(self._start_response)
        _start_answer(self._start_response, status, lines, len(body))
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
        if self._socket is None:
            return None, None
        try:
            return self._socket.getpeername(), self._socket.getsockname()
        except OSError as error:
            raise ClientGone(str(error)) from error

    def abort(self) -> None:
        """Have the application raise, upon which a server cuts the connection.

        gunicorn ends it with a FIN, which is how a body that lasts until then ends well: it is reset first.
        """
        if self.is_begun and isinstance(self._socket, GeventSocket):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()
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
        return bytes(data)


def _unforeseen(failure: Exception) -> ProxyError:
    log.uncaught("proxy", "request not read", failure)
    return InternalError(str(failure))


def make_application() -> Application:
    """The application of this process: with the master's table, or on its own without one."""
    inherited = master.inheritance()
    if inherited is not None:
        table, slot = inherited
        try:
            return Application(configuration.from_json(table.published()[1]), table, slot)
        except configuration.ConfigError:  # another release's; the pool says so in the log
            application = Application(master.own_config(), table, slot)
            application.pool.start_with(application.config)
            return application
    config = configuration.load(configuration.path_from(os.environ), os.environ)
    config = master.with_secret(config, secrets.token_hex(32))
    return Application(config, standalone_table(config), 1)  # slot 0 is the ledger


def standalone_table(config: Config) -> Table:
    """A table without a master: no one checks health, so every server counts as healthy."""
    blob = configuration.to_json(config)
    table = Table.create(rows=max(1, len(config.servers)), slots=2, blob_bytes=len(blob))
    table.publish(table.propose(blob, [identity_of(server.url) for server in config.servers]))
    for row in table.row_index().values():
        table.cells[table.server(row) + STATE] = HEALTHY
    return table


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


def _close_after(start_response: StartResponse) -> None:
    """Have gunicorn say that the connection ends; other servers know for themselves when it has to."""
    force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
    if force_close is not None:
        force_close()


def _start_answer(
    start_response: StartResponse, status: int, lines: Iterable[tuple[str, str]], length: int
) -> None:
    fields = [*lines, ("Content-Length", str(length))]
    if length and not any(name == "Content-Type" for name, _ in fields):
        fields.append(("Content-Type", "application/json"))
    start_response(f"{status} {STATUS_TEXT.get(status, 'Error')}", fields)
