"""TLS above a stream, both ends in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from app.worker.net import tls_stream
from app.worker.net.tls_stream import WRITE_SIZE, TlsStream

AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert("here.example")


class End:
    """One end of a connection without a network: what it sends is at once what the other can read."""

    def __init__(self) -> None:
        self.peer: End | None = None
        self.inbox = b""
        self.is_over = False
        self.writes = 0
        self.posts = 0
        self.is_watched = self.is_end_watched = False
        self.on_event: Callable[[], None] | None = None
        self.wants: Callable[[], None] | None = None  # what a read that would wait does first

    def read(self) -> bytes:
        if not self.inbox and not self.is_over and self.wants is not None:
            self.wants()
        data, self.inbox = self.inbox, b""
        return data

    def read_now(self) -> bytes | None:
        if not self.inbox and not self.is_over:
            return None
        return self.read()

    def write(self, data: bytes) -> None:
        assert self.peer is not None
        self.writes += 1
        self.peer.inbox += data
        if self.peer.is_watched and self.peer.on_event is not None:
            self.peer.is_watched = False
            self.peer.on_event()

    def post(self, data: bytes) -> None:
        self.posts += 1
        self.write(data)

    def watch(self) -> None:
        self.is_watched = True

    def watch_end(self) -> None:
        self.is_end_watched = True

    def has_ended(self) -> bool:
        return self.is_over

    def send_posted(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        assert self.peer is not None
        self.peer.is_over = True


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    LEAF.configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Pair:
    """A client and a server that have shaken hands, each driven by the other's waits."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        self.below_client, self.below_server = End(), End()
        self.below_client.peer, self.below_server.peer = self.below_server, self.below_client
        context = client_context()
        context.maximum_version = version
        below_client: Any = self.below_client
        below_server: Any = self.below_server
        self.client = TlsStream(below_client, context, False, "here.example")
        self.server = TlsStream(below_server, server_context(), True)
        # Whoever waits lets the other side take a step.
        self.below_client.wants = self._step_server
        self._server_is_done = False
        self.client.handshake()
        if not self._server_is_done:  # in TLS 1.3 the client's last word comes after its handshake
            self._step_server()

    def _step_server(self) -> None:
        if self._server_is_done:
            raise BlockingIOError("the client waits for nothing that comes")
        try:
            self.server.handshake()
        except ssl.SSLEOFError:  # its inbox is empty: the client has to say more
            return
        self._server_is_done = True


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """A connection of each version."""
    return Pair(request.param)


def test_both_directions(pair: Pair) -> None:
    """What one end writes or posts is what the other reads; ALPN has agreed."""
    pair.client.write(b"question")
    assert pair.server.read() == b"question"
    pair.server.post(b"answer")
    assert pair.client.read() == b"answer"
    assert pair.server.protocol == pair.client.protocol == "http/1.1"


def test_a_read_gives_no_more_than_asked(pair: Pair) -> None:
    """The rest of a record stays for the next read, without a wait."""
    pair.client.write(b"abcdef")
    assert [pair.server.read(4), pair.server.read(4)] == [b"abcd", b"ef"]


def test_records_that_are_here_are_read_together(pair: Pair) -> None:
    """Up to what was asked for, and the end after them comes with the next read."""
    for _ in range(3):
        pair.client.write(b"x" * 16384)
    pair.client.close()
    assert [len(pair.server.read(40000)) for _ in range(3)] == [40000, 3 * 16384 - 40000, 0]


def test_tiny_records_are_read_by_turns(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of 64 KiB holds thousands: some of them, then others are looked at, then the next."""
    taken: list[int] = []
    monkeypatch.setattr(tls_stream, "turns", SimpleNamespace(next=lambda: taken.append(1)))
    for _ in range(600):
        pair.client.write(b"x")
    assert [len(pair.server.read()) for _ in range(3)] == [256, 256, 88]
    assert len(taken) == 2


def test_a_long_message_is_encrypted_piece_by_piece(pair: Pair) -> None:
    """Memory holds one piece of it in ciphertext, however long it is."""
    data = bytes(range(256)) * 1024
    before = pair.below_client.writes
    pair.client.write(data)
    assert pair.below_client.writes - before == len(data) // WRITE_SIZE
    got = b""
    while len(got) < len(data):
        got += pair.server.read()
    assert got == data


def test_close_is_an_end_and_a_cut_is_not(pair: Pair) -> None:
    """close_notify ends a read with b"", again and again; a bare FIN raises."""
    pair.client.close()
    assert pair.server.peek() == b""
    assert [pair.server.read(), pair.server.read()] == [b"", b""]


def test_a_cut_raises(pair: Pair) -> None:
    """A connection that ends without close_notify may have been truncated."""
    pair.below_server.is_over = True
    with pytest.raises(ssl.SSLEOFError):
        pair.server.read()


def test_peek_shows_what_was_said_inside(pair: Pair) -> None:
    """None, then data that a read still gives, then the end."""
    assert pair.server.peek() is None
    pair.client.write(b"hello")
    assert pair.server.peek() == b"h"
    assert pair.server.read() == b"hello"
    pair.client.shutdown_write()
    assert pair.server.peek() == b""


def test_an_end_is_heard_behind_what_is_unread(pair: Pair) -> None:
    """close_notify, or the end of what is below; all that came before is still read."""
    heard: list[bool] = []

    def hear() -> None:
        heard.append(pair.server.has_ended())
        if not heard[-1]:
            pair.server.watch_end()

    pair.server.on_event = hear
    pair.server.watch()
    pair.client.write(b"early")
    pair.client.write(b" bytes")
    pair.client.shutdown_write()
    assert heard == [False, False, True]
    assert [pair.server.read(), pair.server.read()] == [b"early bytes", b""]


def test_an_end_below_is_heard_without_a_look_inside(pair: Pair) -> None:
    """However much is unread."""
    pair.below_server.is_over = True
    assert pair.server.has_ended()


def test_no_more_is_read_ahead_than_the_bound(pair: Pair) -> None:
    """Else who sends what nobody reads would fill the memory; the end below is watched all the same."""
    pair.server.on_event = lambda: pair.server.has_ended() or pair.server.watch_end()
    pair.server.watch()
    for _ in range(40):
        pair.client.write(b"x" * 16384)
    assert not pair.below_server.is_watched
    assert pair.below_server.is_end_watched
    assert len(pair.server._ahead) + pair.server._incoming.pending < 3 * 65536
    received = 0
    while received < 40 * 16384:
        received += len(pair.server.read())


@pytest.mark.parametrize("size", [10, 40_000])
def test_who_has_said_goodbye_reads_on(pair: Pair, size: int) -> None:
    """What the peer had sent by then, looked at or not, and what it still sends."""
    pair.client.write(b"x" * size)
    assert pair.server.peek() == b"x"
    pair.client.write(b"y" * size)
    pair.server.shutdown_write()
    pair.client.write(b"z")
    received = b""
    while not received.endswith(b"z"):
        received += pair.server.read()
    assert received == b"x" * size + b"y" * size + b"z"


def test_session_tickets_are_no_event(pair: Pair) -> None:
    """TLS 1.3 sends them after the handshake: an idle connection to a backend must survive them."""
    events: list[str] = []
    pair.client.on_event = lambda: events.append("event")
    pair.client.watch()
    if pair.below_client.inbox:
        pair.client._look()
    assert pair.client.peek() is None
    assert events == []
    assert pair.below_client.is_watched
    pair.server.write(b"unasked")
    assert events == ["event"]


def test_a_stranger_is_refused() -> None:
    """A certificate of another authority ends the handshake."""
    below_client, below_server = End(), End()
    below_client.peer, below_server.peer = below_server, below_client
    plain_client: Any = below_client
    plain_server: Any = below_server
    client = TlsStream(plain_client, ssl.create_default_context(cafile=None), False, "here.example")
    server = TlsStream(plain_server, server_context(), True)

    def step() -> None:
        with pytest.raises(ssl.SSLEOFError):
            server.handshake()

    below_client.wants = step
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        server.handshake()  # it was told why
