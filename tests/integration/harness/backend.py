"""Scripted backends: real sockets, one thread a connection, every byte under the test's control.

A ``Backend`` records what reached it (requests with their raw heads, connections, probes) and answers
with its ``handler``, a function of one ``Exchange`` that a test may swap at any time. Health probes are
answered apart from it, by ``probe``, so that a test can fail one and not the other. The ready-made
handlers are in handlers.py. Nothing here knows the balancer.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .timing import PATIENT, wait_until

PROBE_PATH = "/-/health"

MAX_HEAD = 1 << 20


@dataclass
class Request:
    """One request as it arrived."""

    head: bytes
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    local: tuple[str, int]
    connection: Connection
    arrived: float
    """Wall clock, to be compared with the timestamps of log lines."""

    body: bytes = b""
    """The body's beginning, up to ``Exchange.KEEP`` bytes."""

    length: int = 0
    checksum: str = ""
    is_complete: bool = False
    """Whether the body was read to its proper end."""

    def get(self, name: str) -> str | None:
        """The only value of a header; None without one; an error if it is repeated."""
        values = self.get_all(name)
        assert len(values) <= 1, f"{name} is repeated: {values}"
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(eq=False)
class Connection:
    """One accepted connection."""

    socket: socket.socket
    opened: float = field(default_factory=time.monotonic)
    requests: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the connection is over, whoever ended it."""

    closed_by_peer: threading.Event = field(default_factory=threading.Event)
    """Set when the balancer ended it (an end of stream or a reset was seen)."""

    idle_limit: float = PATIENT * 10
    """How long the backend keeps it open without a request."""

    idle_reset: bool = False
    """Whether it then ends with a reset instead of an orderly close."""

    unread: bytes = b""


class PeerGone(Exception):
    """The balancer ended the connection."""


class Exchange:
    """One request being answered: the handler's only argument."""

    KEEP = 1 << 16

    def __init__(self, backend: Backend, connection: Connection, request: Request) -> None:
        self.backend = backend
        self.connection = connection
        self.request = request
        self.keep = "close" not in ",".join(request.get_all("connection")).lower()
        self._body = self._body_pieces()

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        try:
            self.connection.socket.sendall(data)
        except OSError as error:
            raise PeerGone(str(error)) from None

    def reply(
        self,
        status: int = 200,
        body: bytes = b"",
        headers: list[tuple[str, str]] | tuple[tuple[str, str], ...] = (),
        phrase: str = "OK",
    ) -> None:
        """A whole response with a Content-Length, after the request's body has been read."""
        self.read_body()
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if not any(name.lower() == "content-type" for name, _ in headers):
            lines.append("Content-Type: text/plain")
        lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.send(head if self.request.method == "HEAD" else head + body)

    def body(self) -> Iterator[bytes]:
        """The request's body as it comes; what it was is recorded on the request."""
        return self._body

    def read_body(self) -> None:
        """Read the body to its end."""
        for _ in self._body:
            pass

    def close(self) -> None:
        """End the connection in order after this exchange."""
        self.keep = False

    def reset(self) -> None:
        """End the connection at once with a reset."""
        reset(self.connection.socket)
        self.keep = False

    def wait_for_peer(self, timeout: float = PATIENT) -> bool:
        """Wait, saying nothing, until the balancer ends the connection."""
        self.connection.socket.settimeout(timeout)
        try:
            while self.connection.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.connection.closed_by_peer.set()
        self.keep = False
        return True

    def _body_pieces(self) -> Iterator[bytes]:
        request, digest = self.request, hashlib.sha256()
        codings, length = request.get_all("transfer-encoding"), request.get("content-length")
        if codings and length is not None:
            raise AssertionError(f"both framings reached the backend: {request.head!r}")
        pieces = self._chunks() if codings else self._exactly(int(length or 0))
        for piece in pieces:
            digest.update(piece)
            request.length += len(piece)
            request.body += piece[: max(0, self.KEEP - len(request.body))]
            yield piece
        request.checksum = digest.hexdigest()
        request.is_complete = True

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._some(min(size, 262144))
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().split(b";")[0], 16):
            yield from self._exactly(size)
            assert self._line() == b"", "a chunk runs past its size"
        while self._line():
            pass

    def _some(self, size: int) -> bytes:
        connection = self.connection
        if connection.unread:
            data, connection.unread = connection.unread[:size], connection.unread[size:]
            return data
        try:
            data = connection.socket.recv(size)
        except OSError as error:
            raise PeerGone(str(error)) from None
        if not data:
            raise PeerGone("closed inside a request")
        return data

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._some(1)
        return line[:-2]


Handler = Callable[[Exchange], None]


def reset(sock: socket.socket) -> None:
    """Close with a reset (SO_LINGER 0)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The other thread may hold the descriptor in recv: close alone would wait for it.
    with contextlib.suppress(OSError):
        sock.close()


def answer_name(exchange: Exchange) -> None:
    """200 with the backend's name as the body."""
    exchange.reply(
        body=exchange.backend.name.encode(), headers=[("X-Backend", exchange.backend.name)]
    )


def probe_up(exchange: Exchange) -> None:
    """A probe that passes."""
    exchange.reply(200, b"up")


def probe_down(exchange: Exchange) -> None:
    """A probe that fails."""
    exchange.reply(503, b"down", phrase="Service Unavailable")


class Backend:
    """One scripted server. Starts on construction; use as a context manager."""

    def __init__(
        self, handler: Handler = answer_name, name: str = "", bind: str = "127.0.0.1"
    ) -> None:
        self.handler = handler
        self.probe: Handler = probe_up
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.connections: list[Connection] = []
        self.errors: list[BaseException] = []
        self._bind = bind
        self._lock = threading.Lock()
        self._listener = self._bound(0)
        self.port: int = self._listener.getsockname()[1]
        self.name = name or self.address
        self.is_up = False
        self.up()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Backend {self.name} {len(self.requests)} requests, {len(self.probes)} probes>"

    @property
    def address(self) -> str:
        """What access and health lines call it."""
        host = "127.0.0.1" if self._bind == "0.0.0.0" else self._bind
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://{self.address}"

    def urls(self, count: int) -> list[str]:
        """Many servers for the price of one: every 127.0.0.x leads here (bind to 0.0.0.0)."""
        assert self._bind == "0.0.0.0"
        return [f"http://127.0.0.{number}:{self.port}" for number in range(1, count + 1)]

    def counts(self) -> Counter[str]:
        """Requests by the local address they came to."""
        return Counter(request.local[0] for request in list(self.requests))

    def clear(self) -> None:
        """Forget what was recorded."""
        with self._lock:
            self.requests, self.probes = [], []
            self.connections = [c for c in self.connections if not c.closed.is_set()]

    def wait_for_request(self, count: int = 1, timeout: float = PATIENT) -> Request:
        """The last of the first ``count`` requests."""
        wait_until(lambda: len(self.requests) >= count, timeout, f"{count} requests at {self!r}")
        return self.requests[count - 1]

    def open_connections(self) -> list[Connection]:
        """Connections that are not over."""
        return [c for c in list(self.connections) if not c.closed.is_set()]

    def hang_up(self) -> None:
        """End the open connections in order and wait until they are over; go on listening."""
        for connection in self.open_connections():
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            assert connection.closed.wait(PATIENT)

    def up(self) -> None:
        """Listen (again) on the same port."""
        if self.is_up:
            return
        self._listener.listen(1024)
        self.is_up = True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Die: refuse connections and end the open ones. The port stays reserved."""
        if self.is_up:
            self.is_up = False
            # On Linux this wakes the thread in accept(), which close() alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = self._bound(self.port)
        for connection in self.open_connections():
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Die for good, and complain about what went wrong in a handler."""
        self.down()
        self._listener.close()
        assert not self.errors, f"in {self!r}: {self.errors!r}"

    def _bound(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._bind else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._bind, port))
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENT * 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock)
            with self._lock:
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def opened(self, connection: Connection) -> None:
        """What comes before HTTP on a connection: TLS, for one. PeerGone if it fails."""

    def _serve(self, connection: Connection) -> None:
        try:
            self.opened(connection)
            while (exchange := self._next(connection)) is not None:
                is_probe = exchange.request.target == PROBE_PATH
                (self.probe if is_probe else self.handler)(exchange)
                if not exchange.keep:
                    break
                exchange.read_body()
        except PeerGone:
            connection.closed_by_peer.set()
        except BaseException as error:
            self.errors.append(error)
        finally:
            with contextlib.suppress(OSError):
                connection.socket.close()
            connection.closed.set()

    def _next(self, connection: Connection) -> Exchange | None:
        head = self._read_head(connection)
        if head is None:
            return None
        lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers.append((name, value.strip(" \t")))
        request = Request(
            head=head,
            method=method,
            target=target,
            version=version,
            headers=headers,
            local=connection.socket.getsockname()[:2],
            connection=connection,
            arrived=time.time(),
        )
        connection.requests += 1
        exchange = Exchange(self, connection, request)
        with self._lock:
            (self.probes if target == PROBE_PATH else self.requests).append(request)
        return exchange

    def _read_head(self, connection: Connection) -> bytes | None:
        buffer, connection.unread = connection.unread, b""
        connection.socket.settimeout(connection.idle_limit)
        while b"\r\n\r\n" not in buffer:
            try:
                data = connection.socket.recv(65536)
            except TimeoutError:
                if connection.idle_reset:
                    reset(connection.socket)
                return None
            except OSError:
                data = b""
            if not data:
                connection.closed_by_peer.set()
                return None
            buffer += data
            assert len(buffer) < MAX_HEAD, "no end of head in sight"
        connection.socket.settimeout(PATIENT * 10)
        head, mark, connection.unread = buffer.partition(b"\r\n\r\n")
        return head + mark
