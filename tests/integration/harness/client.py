"""A client that sends the bytes it is given and reads exactly one response at a time.

Ordinary clients would normalise targets, merge headers, reconnect and retry behind the test's back.
This one does nothing it was not told to, and an answer that ends early is an error (``Truncated``).
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .timing import PATIENT, PROMPT

Headers = Sequence[tuple[str, str]]


class Truncated(AssertionError):
    """The connection ended inside a response; ``received`` is what came of the body."""

    def __init__(self, message: str, received: bytes = b"") -> None:
        super().__init__(message)
        self.received = received


class NoAnswer(Truncated):
    """The connection ended before any byte of a response."""


@dataclass
class Response:
    """One final response, and the interim ones before it."""

    version: str
    status: int
    phrase: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes = b""
    interim: list[Response] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The only value of a header; None without one; an error if it is repeated."""
        values = self.get_all(name)
        assert len(values) <= 1, f"{name} is repeated: {values}"
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def will_close(self) -> bool:
        """Whether the server said that the connection ends after this response."""
        connection = ",".join(self.get_all("connection")).lower()
        return "close" in connection or (self.version == "HTTP/1.0" and "keep" not in connection)


class Client:
    """One connection. Use as a context manager."""

    def __init__(
        self,
        address: tuple[str, int],
        timeout: float = PATIENT,
        receive_buffer: int = 0,
        source: str = "",
    ) -> None:
        self.address = address
        self.host = f"{address[0]}:{address[1]}"
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.socket.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close; what the server still sends is refused."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def send_head(
        self, method: str, target: str, headers: Headers = (), version: str = "HTTP/1.1"
    ) -> None:
        """Send a head, with a Host field unless one is given."""
        lines = [f"{method} {target} {version}"]
        if not any(name.lower() == "host" for name, _ in headers):
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in headers]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        version: str = "HTTP/1.1",
    ) -> Response:
        """One exchange; a body goes with its Content-Length."""
        if body is not None:
            headers = [*headers, ("Content-Length", str(len(body)))]
        self.send_head(method, target, headers, version)
        if body:
            self.send(body)
        return self.read_response(method)

    def get(self, target: str, headers: Headers = ()) -> Response:
        """One GET."""
        return self.request("GET", target, headers)

    def send_chunked(self, pieces: Iterable[bytes]) -> None:
        """Send a body in chunks, and its end."""
        for piece in pieces:
            self.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.send(b"0\r\n\r\n")

    def read_response(
        self, method: str = "GET", sink: Callable[[bytes], Any] | None = None
    ) -> Response:
        """Read to the end of one final response; with ``sink`` the body goes there instead."""
        interim: list[Response] = []
        while True:
            response = self.read_head()
            if 100 <= response.status < 200 and response.status != 101:
                interim.append(response)
                continue
            break
        response.interim = interim
        pieces: list[bytes] = []
        self._read_body(response, method, sink or pieces.append)
        response.body = b"".join(pieces)
        return response

    def read_head(self) -> Response:
        """Read one head, interim or final, and nothing after it."""
        head = self._until(b"\r\n\r\n")
        lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, phrase = (lines[0] + " ").split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0"), f"no status line: {lines[0]!r}"
        assert len(status) == 3, f"no status line: {lines[0]!r}"
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            assert colon, f"no header field: {line!r}"
            assert name.strip() == name != "", f"no header field: {line!r}"
            headers.append((name, value.strip(" \t")))
        return Response(version, int(status), phrase.strip(), headers, head)

    def read_some(self, size: int = 65536) -> bytes:
        """Whatever is there next, at most ``size`` bytes; empty at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        return self.socket.recv(size)

    def read_chunk(self) -> bytes:
        """One chunk of a chunked body; empty for the last one, whose trailers are read with it."""
        size = int(self._until(b"\r\n")[:-2].split(b";")[0], 16)
        if not size:
            while self._until(b"\r\n") != b"\r\n":
                pass
            return b""
        data = self._exactly(size)
        assert self._exactly(2) == b"\r\n", "a chunk runs past its size"
        return data

    def is_closed(self, timeout: float = PROMPT) -> bool:
        """Whether the server ends the connection within ``timeout`` without sending more."""
        previous = self.socket.gettimeout()
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(previous)
        more = self._buffer + data
        assert not more, f"sent more: {more[:200]!r}"
        return True

    def has_input(self) -> bool:
        """Whether something (or the end) can be read at this moment."""
        if self._buffer:
            return True
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return bool(poller.poll(0))

    def _read_body(self, response: Response, method: str, put: Callable[[bytes], Any]) -> None:
        lengths = response.get_all("content-length")
        codings = response.get_all("transfer-encoding")
        assert not (lengths and codings), "both Content-Length and Transfer-Encoding"
        assert len(lengths) <= 1, f"Content-Length is repeated: {lengths}"
        if method == "HEAD" or response.status in (101, 204, 304):
            return
        if codings:
            assert codings == ["chunked"], codings
            while True:
                try:
                    piece = self.read_chunk()
                except Truncated as error:
                    raise Truncated("ended inside a chunked body", error.received) from None
                if not piece:
                    break
                put(piece)
        elif lengths:
            self._copy(int(lengths[0]), put)
        elif method == "CONNECT":
            return
        else:
            while piece := self.read_some():
                put(piece)

    def _copy(self, size: int, put: Callable[[bytes], Any]) -> None:
        remaining = size
        while remaining:
            try:
                piece = self.read_some(min(remaining, 262144))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Truncated(f"ended {remaining} bytes before its Content-Length of {size}")
            remaining -= len(piece)
            put(piece)

    def _exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        try:
            self._copy(size, pieces.append)
        except Truncated as error:
            raise Truncated(str(error), b"".join(pieces)) from None
        return b"".join(pieces)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionError as error:
                raise NoAnswer(f"{error} after {self._buffer[:200]!r}", self._buffer) from None
            if not data:
                if not self._buffer:
                    raise NoAnswer("closed without an answer")
                raise Truncated(f"closed after {self._buffer[:200]!r}", self._buffer)
            self._buffer += data
        found, mark, self._buffer = self._buffer.partition(mark)
        return found + mark
