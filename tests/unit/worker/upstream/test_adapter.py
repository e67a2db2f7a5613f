"""One exchange with a backend over a Unix socket: what its connection is fit for afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from app.errors import BadRequest, ProxyError
from app.wire.request import CHUNKED
from app.worker.net.deadlines import NEVER, Deadline, deadlines
from app.worker.net.stream import RawSocket, Stream
from app.worker.upstream import upload
from app.worker.upstream.connections import Connection, ConnectionCache
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.session import Session

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """The other end of the one connection in a cache; it says what it is told to, when it is told to."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.cache = ConnectionCache("unix", "/none", 0, 60.0)
        self.cache.give_back(Connection(Stream(RawSocket(fileno=ours.detach())), self.cache))
        self.received = b""

    def until(self, mark: bytes) -> None:
        """Take what is sent, up to and with ``mark``."""
        with gevent.Timeout(5):
            while mark not in self.received:
                gevent.sleep(0)
                try:
                    piece = self.socket.recv(65536)
                except BlockingIOError:
                    continue
                assert piece, f"closed after {self.received!r}"
                self.received += piece

    def say(self, data: bytes) -> None:
        self.socket.send(data)

    def close(self) -> None:
        self.cache.close()
        self.socket.close()


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def send(server: Server, length: int, here: bytes, rest: list[bytes] | None, **more: Any) -> Any:
    """Send a request in a greenlet; the greenlet, whose value is the response or the failure."""

    def run() -> Any:
        deadline = deadlines.enter()
        framing = (
            b"Transfer-Encoding: chunked" if length == CHUNKED else b"Content-Length: %d" % length
        )
        head = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing
        request = UpstreamRequest(b"POST", head, here, server.cache, deadline, NEVER, NEVER)
        session = Session()
        request.adapter = session.get_adapter("http://server")
        request.length = length
        request.is_chunked = length == CHUNKED
        if rest is not None:
            pieces = [*rest, b""]

            def read(_: Deadline) -> bytes:
                gevent.sleep(0)
                return pieces.pop(0)

            request.read_body = read
        for name, value in more.items():
            setattr(request, name, value)
        try:
            return session.send(request)
        except ProxyError as error:
            return error
        finally:
            deadlines.leave(deadline)

    return gevent.spawn(run)


@pytest.mark.parametrize(
    ("length", "here", "rest", "mark"),
    [
        (0, b"", None, b"\r\n\r\n"),
        (3, b"abc", None, b"abc"),
        (3, b"a", [b"bc"], b"abc"),
        (CHUNKED, b"", [b"abc"], b"0\r\n\r\n"),
    ],
)
def test_a_body_as_announced_leaves_a_connection_for_the_next(
    server: Server, length: int, here: bytes, rest: list[bytes] | None, mark: bytes
) -> None:
    greenlet = send(server, length, here, rest)
    server.until(mark)
    server.say(ANSWER)
    assert greenlet.get(timeout=5).complete
    assert len(server.cache.idle) == 1


@pytest.mark.parametrize(
    ("length", "here", "rest"),
    [
        (32, b"", None),
        (32, b"x" * 10, None),
        (3, b"xxxx", None),
    ],
)
def test_what_cannot_be_as_announced_is_not_sent(
    server: Server, length: int, here: bytes, rest: list[bytes] | None
) -> None:
    """Whatever the front has let through: the server sees no byte of it."""
    failure = send(server, length, here, rest).get(timeout=5)
    assert isinstance(failure, BadRequest)
    assert server.socket.recv(1) == b""
    assert not server.cache.idle


@pytest.mark.parametrize("rest", [[b"x" * 10], [], [b"x" * 20, b"x" * 13], [b"x" * 33]])
@pytest.mark.parametrize("is_early", [False, True], ids=["", "answered early"])
def test_a_body_of_another_length_ends_its_connection(
    server: Server, rest: list[bytes], is_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server waits for the rest or has answered already: what it reads next is its own."""
    if is_early:
        server.say(ANSWER)
        # The answer is there with the request; an idle connection that speaks would not be taken.
        server.cache.idle[0].stream.on_event = None
        monkeypatch.setattr(Stream, "is_silent", lambda _: True)
    greenlet = send(server, 32, b"", rest)
    result = greenlet.get(timeout=5)
    assert isinstance(result, BadRequest) or result.complete
    gevent.sleep(0)
    assert not server.cache.idle
    received = b""
    server.socket.setblocking(True)
    server.socket.settimeout(5)
    while piece := server.socket.recv(65536):
        received += piece
    assert len(received.partition(b"\r\n\r\n")[2]) < 32


@pytest.mark.parametrize("asks", [False, True])
def test_a_server_that_did_not_ask_for_a_body_gets_no_other_request(
    server: Server, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken what was sent after the wait for a request (RFC 9110 §10.1.1)."""
    monkeypatch.setattr(upload, "CONTINUE_TIMEOUT", 0.01)
    greenlet = send(server, 3, b"", [b"abc"], expects_continue=True)
    server.until(b"\r\n\r\n")
    if asks:
        server.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    server.until(b"abc")
    server.say(ANSWER)
    assert greenlet.get(timeout=5).complete
    assert len(server.cache.idle) == asks


@pytest.mark.parametrize("announced", [0, 5])
def test_an_interim_answer_that_announces_a_body_leaves_no_connection(
    server: Server, announced: int
) -> None:
    """It has none (RFC 9112 §6.3); one that its server means all the same would be the next answer."""
    greenlet = send(server, 0, b"", None)
    server.until(b"\r\n\r\n")
    server.say(b"HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n" % announced + ANSWER)
    assert greenlet.get(timeout=5).complete
    assert len(server.cache.idle) == (not announced)
