"""app.worker.accept: from a socket to the connection that serves it. Socket pairs, which reach nobody."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from fakes.certificates import AUTHORITY, store
from fakes.front import Front
from gevent.socket import wait_read

from app.telemetry import log
from app.tls.clients import certificates, protocols
from app.tls.failures import HandshakeFailures
from app.tls.handshake import ServerSide
from app.worker.accept import Acceptor
from app.worker.admission import Admission
from app.worker.net.deadlines import deadlines
from app.worker.net.stream import RawSocket

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Door:
    """An acceptor whose clients are socket pairs."""

    def __init__(
        self,
        *,
        limit: int = 0,
        sends_header: Callable[[str], bool] | None = None,
        tls: ServerSide | None = None,
    ) -> None:
        self.peers: list[str] = []
        self.counts: list[int] = []
        self.front = Front(self._handle)
        self.admission = Admission(limit)
        self.failures = HandshakeFailures()
        self._acceptor = Acceptor(
            self.front.context, self.admission, sends_header, tls, None, None, self.failures
        )
        self._open: list[Any] = []

    def _handle(self, exchange: Any) -> None:
        self.peers.append(exchange.peer)
        self.counts.append(self.admission.count)
        exchange.answer(200, [], b"")

    def connect(self, address: Any = "") -> tuple[Any, Any]:
        """A client's socket, and the greenlet of its connection, which has begun."""
        near, far = (RawSocket(fileno=one.detach()) for one in socket.socketpair())
        self._open.append(near)
        greenlet = gevent.spawn(self._acceptor.accepted, None, far, address)
        gevent.sleep(0)
        return near, greenlet

    def close(self) -> None:
        for near in self._open:
            near.close()


@pytest.fixture(name="make")
def _make() -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def make(**options: Any) -> Door:
        doors.append(Door(**options))
        return doors[-1]

    yield make
    for door in doors:
        door.close()
    assert not deadlines._deadlines


def ask(near: Any, greenlet: Any, data: bytes = GET) -> bytes:
    """What a client gets that sends this and no more."""
    near.sendall(data)
    near.shutdown(socket.SHUT_WR)
    greenlet.join(5)
    try:
        answer: bytes = near.recv(65536)
    except ConnectionResetError:  # closed on what was not read
        return b""
    return answer


def test_a_socket_is_counted_from_its_accept_to_its_close(make: Callable[..., Door]) -> None:
    """Arriving until its connection begins."""
    door = make()
    near, greenlet = door.connect()
    assert door.admission.count == 1
    assert ask(near, greenlet).startswith(b"HTTP/1.1 200 ")
    assert (door.counts, door.admission.count) == ([1], 0)


def test_who_awaits_its_header_is_counted(make: Callable[..., Door]) -> None:
    """A drain waits for it once it has begun to speak; the client is the one in the header."""
    door = make(sends_header=lambda peer: peer == "")
    near, greenlet = door.connect()
    assert (door.admission.count, door.admission.only_arriving()) == (1, True)
    header = b"PROXY TCP4 203.0.113.7 192.0.2.1 1000 80\r\n"
    near.sendall(header[:5])
    gevent.sleep(0.001)
    assert (door.admission.count, door.admission.only_arriving()) == (1, False)
    assert ask(near, greenlet, header[5:] + GET).startswith(b"HTTP/1.1 200 ")
    assert door.peers == ["203.0.113.7"]
    assert door.admission.count == 0


@pytest.mark.parametrize("data", [b"", GET])
def test_without_its_header_a_connection_comes_to_nothing(
    make: Callable[..., Door], data: bytes
) -> None:
    """Closed unanswered, and counted no more: a check that only connects, and a request without it."""
    door = make(sends_header=lambda peer: True)
    near, greenlet = door.connect()
    assert ask(near, greenlet, data) == b""
    assert greenlet.successful()
    assert door.admission.count == 0


def test_one_too_many_is_turned_away_and_takes_no_place(make: Callable[..., Door]) -> None:
    """While it is told so the next one that fits is served."""
    door = make(limit=1)
    first, served = door.connect()
    second, refused = door.connect()
    assert door.admission.count == 1
    assert second.recv(65536).startswith(b"HTTP/1.1 503 ")
    assert not refused.dead, "it lingers"
    assert ask(first, served).startswith(b"HTTP/1.1 200 ")
    third, greenlet = door.connect()
    assert ask(third, greenlet).startswith(b"HTTP/1.1 200 ")
    second.close()
    refused.join(5)
    assert door.admission.count == 0


def test_a_connection_that_cannot_be_set_up_is_counted_no_more(
    make: Callable[..., Door], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its client may have gone before it was looked at."""
    door = make()
    _, greenlet = door.connect(("192.0.2.1", 1000))  # a Unix socket has no TCP_NODELAY
    greenlet.join(5)
    assert isinstance(greenlet.exception, OSError)
    assert door.admission.count == 0


class TestTls:
    """Where TLS is spoken and a client does not speak it, or not ours."""

    @pytest.fixture(name="events")
    def _events(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        monkeypatch.setattr(
            log, "event", lambda logger, level, message, **fields: events.append(fields)
        )
        return events

    @pytest.fixture(name="door")
    def _door(self, make: Callable[..., Door], tmp_path: Path) -> Door:
        watched = certificates(store(tmp_path), offers_http2=False)
        return make(tls=ServerSide(watched, None, protocols(offers_http2=False)))

    def test_a_request_without_tls_is_told_so(
        self, door: Door, events: list[dict[str, Any]]
    ) -> None:
        """In the clear, once its first bytes are here; and counted."""
        near, greenlet = door.connect()
        answer = ask(near, greenlet, GET)
        assert answer.startswith(b"HTTP/1.1 400 ")
        door.failures.tick(1.0)
        assert events == [{"reason": "plain_http", "count": 1, "client": "", "detail": None}]
        assert door.admission.count == 0

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"\x00\x01nonsense that is no TLS", "tls_error"),
            (b"\x16\x03\x01\x02\x00\x01", "connection_closed"),
            (b"", ""),
        ],
    )
    def test_what_fails_is_counted_by_its_reason(
        self, door: Door, events: list[dict[str, Any]], data: bytes, reason: str
    ) -> None:
        """But who leaves without a word, as probes of a port do, has not begun one."""
        near, greenlet = door.connect()
        ask(near, greenlet, data)
        door.failures.tick(1.0)
        assert [event["reason"] for event in events] == ([reason] if reason else [])

    @pytest.mark.parametrize(("protocol", "is_served"), [("spdy/1", False), ("http/1.0", True)])
    def test_who_speaks_none_of_our_protocols_is_told_so(
        self, door: Door, events: list[dict[str, Any]], protocol: str, is_served: bool
    ) -> None:
        """By the alert of RFC 7301, before anything is agreed on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(context)
        context.set_alpn_protocols([protocol])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="first.example")
        near, _ = door.connect()
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        near.sendall(outgoing.read())
        wait_read(near.fileno(), timeout=5)
        incoming.write(near.recv(65536))
        if is_served:
            tls.do_handshake()
            assert tls.selected_alpn_protocol() == protocol
            return
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            tls.do_handshake()
        door.failures.tick(1.0)
        assert [event["reason"] for event in events] == ["no_application_protocol"]
