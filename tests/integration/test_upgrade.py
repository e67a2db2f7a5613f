"""Connections that are switched to another protocol: the handshake on both sides, the tunnel, its end."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from harness import (
    GUNICORN,
    PROMPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    handlers,
    seconds,
    streams,
    wait_until,
)

WISH = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")]
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"


def switching(
    talk: Callable[[Exchange, socket.socket], None], head: bytes = ACCEPT
) -> Callable[[Exchange], None]:
    """Answer 101, then talk on the bare connection and close it."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(head + b"\r\n")
        try:
            talk(exchange, exchange.connection.socket)
        except ConnectionError:
            exchange.connection.closed_by_peer.set()
        exchange.close()

    return handler


def echo(exchange: Exchange, sock: socket.socket) -> None:
    """Send back what comes, from the bytes behind the head on; say "bye" at its end."""
    data, exchange.connection.unread = exchange.connection.unread, b""
    while True:
        sock.sendall(data)
        if not (data := sock.recv(65536)):
            break
    sock.sendall(b"bye")


def read_exactly(client: Client, size: int) -> bytes:
    """The next ``size`` bytes of a tunnel."""
    data = b""
    while len(data) < size:
        piece = client.read_some(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


@pytest.fixture(
    name="tunnels", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module"
)
def _tunnels(request: pytest.FixtureRequest) -> Iterator[tuple[Balancer, Backend]]:
    with (
        Backend() as backend,
        Balancer([backend], command=request.param, upgrade=["websocket", "tcp"]) as balancer,
    ):
        yield balancer, backend


def test_the_handshake_and_what_comes_with_it(tunnels: tuple[Balancer, Backend]) -> None:
    """Both sides get Connection and Upgrade once, bytes right behind a head are not lost, ends pass on."""
    balancer, backend = tunnels
    backend.clear()
    backend.handler = switching(echo, ACCEPT + b"X-Answer: 1\r\n")
    with balancer.connect() as client:
        client.send(
            b"GET /both HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n"
            b"Sec-WebSocket-Key: k\r\n\r\nearly"
        )
        response = client.read_head()
        assert (response.status, response.phrase) == (101, "Switching Protocols")
        assert response.get("Connection") == "Upgrade"
        assert response.get("Upgrade") == "websocket"
        assert response.get("X-Answer") == "1"
        assert read_exactly(client, 5) == b"early"
        client.send(b"later")
        assert read_exactly(client, 5) == b"later"
        client.socket.shutdown(socket.SHUT_WR)
        assert read_exactly(client, 3) == b"bye"
        assert client.is_closed()
    request = backend.requests[0]
    assert request.get("Connection") == "Upgrade"
    assert request.get("Upgrade") == "websocket"
    assert request.get("Sec-WebSocket-Key") == "k"
    line = balancer.access_line(target="/both")
    assert (line["status"], line["reason"]) == (101, "client_closed")
    assert (line["bytes_in"], line["bytes_out"]) == (10, 13)


def test_bytes_that_a_backend_sends_with_its_101(tunnels: tuple[Balancer, Backend]) -> None:
    """What comes in one piece with the backend's head reaches the client; the backend ends first."""
    balancer, backend = tunnels
    backend.handler = handlers.raw(ACCEPT + b"\r\nfirst")
    with balancer.connect() as client:
        client.send_head("GET", "/greeting", WISH)
        assert client.read_head().status == 101
        assert read_exactly(client, 5) == b"first"
        assert client.is_closed()
    assert balancer.access_line(target="/greeting")["reason"] == "backend_closed"


@pytest.mark.parametrize(
    "fields",
    [
        [("Connection", "Upgrade"), ("Upgrade", "h2c")],
        [("Connection", "keep-alive"), ("Upgrade", "websocket")],
        [("Connection", "Upgrade")],
    ],
    ids=["not allowed", "not in Connection", "nothing named"],
)
def test_other_wishes_are_not_passed_on(
    tunnels: tuple[Balancer, Backend], fields: list[tuple[str, str]]
) -> None:
    """The request is forwarded without the wish, and the connection stays one of HTTP."""
    balancer, backend = tunnels
    backend.clear()
    backend.handler = handlers.ok
    with balancer.connect() as client:
        assert client.get("/plain", fields).status == 200
        assert client.get("/plain").status == 200
    assert backend.requests[0].get("Upgrade") is None
    assert "upgrade" not in (backend.requests[0].get("Connection") or "").lower()


def test_a_wish_that_is_not_granted_is_an_ordinary_request(
    tunnels: tuple[Balancer, Backend],
) -> None:
    """A backend that answers 403 or 200 does so, and the next request on the connection is answered."""
    balancer, backend = tunnels
    backend.handler = handlers.answer(403, b"no", phrase="Forbidden")
    with balancer.connect() as client:
        response = client.get("/refused", WISH)
        assert (response.status, response.body) == (403, b"no")
        backend.handler = handlers.ok
        assert client.get("/next", WISH).status == 200


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ([], ACCEPT),
        (WISH, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n"),
        (WISH, b"HTTP/1.1 101 Switching Protocols\r\n"),
    ],
    ids=["not asked", "another protocol", "no protocol"],
)
def test_a_101_that_is_no_answer_is_refused(
    tunnels: tuple[Balancer, Backend], fields: list[tuple[str, str]], answer: bytes
) -> None:
    """A backend cannot switch a connection that did not ask for exactly that."""
    balancer, backend = tunnels
    backend.handler = handlers.raw(answer + b"\r\n")
    with balancer.connect() as client:
        response = client.get("/uncalled", fields)
        assert (response.status, response.json()["reason"]) == (502, "bad_response")


def test_a_request_with_a_body_can_be_switched(tunnels: tuple[Balancer, Backend]) -> None:
    """The body goes to the backend before the switch, what follows it into the tunnel (docker exec)."""
    balancer, backend = tunnels
    backend.clear()
    head = ACCEPT.replace(b"websocket", b"tcp")
    backend.handler = switching(echo, head)
    with balancer.connect() as client:
        client.send_head(
            "POST",
            "/exec",
            [("Connection", "Upgrade"), ("Upgrade", "tcp"), ("Content-Length", "4")],
        )
        client.send(b"bodyraw")
        assert client.read_head().status == 101
        assert read_exactly(client, 3) == b"raw"
    assert (backend.requests[0].body, backend.requests[0].get("Upgrade")) == (b"body", "tcp")


def test_much_both_ways_at_once(tunnels: tuple[Balancer, Backend]) -> None:
    """Tens of MiB in both directions at the same time arrive whole."""
    balancer, backend = tunnels
    size = 20 * streams.MIB
    digest = hashlib.sha256()

    def talk(exchange: Exchange, sock: socket.socket) -> None:
        def send() -> None:
            for block in streams.blocks(size):
                sock.sendall(block)

        sender = threading.Thread(target=send)
        sender.start()
        left = size
        while left:
            piece = sock.recv(min(left, 262144))
            digest.update(piece)
            left -= len(piece)
        sender.join()

    backend.handler = switching(talk)
    with balancer.connect() as client:
        client.send_head("GET", "/much", WISH)
        assert client.read_head().status == 101
        received = hashlib.sha256()

        def receive() -> None:
            while piece := client.read_some(262144):
                received.update(piece)

        receiver = threading.Thread(target=receive)
        receiver.start()
        for block in streams.blocks(size):
            client.socket.sendall(block)
        receiver.join()
    assert digest.hexdigest() == received.hexdigest() == streams.checksum(size)
    line = balancer.access_line(target="/much")
    assert (line["bytes_in"], line["bytes_out"]) == (size, size)


def test_a_reader_that_stops_stops_the_writer(tunnels: tuple[Balancer, Backend]) -> None:
    """Nothing is hoarded: a backend that sends without end is held back by a client that does not read."""
    balancer, backend = tunnels
    sent = 0

    def talk(exchange: Exchange, sock: socket.socket) -> None:
        nonlocal sent
        sock.settimeout(seconds(1))
        try:
            while True:
                sent += sock.send(b"x" * 65536)
        except TimeoutError:
            pass

    backend.handler = switching(talk)
    with balancer.connect(receive_buffer=65536) as client:
        client.send_head("GET", "/stalled", WISH)
        assert client.read_head().status == 101
        wait_until(lambda: not backend.open_connections(), seconds(15), "the backend gave up")
        assert sent < 40 * streams.MIB, "kernel buffers of two connections hold a few MiB"
        received = 0
        while piece := client.read_some(262144):
            received += len(piece)
        assert received == sent


def test_a_reset_is_passed_on(tunnels: tuple[Balancer, Backend]) -> None:
    """A side that breaks ends the other with an error, never in order."""
    balancer, backend = tunnels

    def talk(exchange: Exchange, sock: socket.socket) -> None:
        sock.recv(1)
        exchange.reset()

    backend.handler = switching(talk)
    with balancer.connect() as client:
        client.send_head("GET", "/broken", WISH)
        assert client.read_head().status == 101
        client.send(b"x")
        with pytest.raises(ConnectionResetError):
            client.read_some()
    assert balancer.access_line(target="/broken")["reason"] == "backend_reset"


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_a_silent_tunnel_ends_after_its_own_timeout(command: tuple[str, ...]) -> None:
    """``timeouts.tunnel`` bounds silence; traffic either way holds it open; other timeouts do not count."""
    short, silence = seconds(0.3), seconds(1.0)
    timeouts = {"tunnel": silence, "client": short, "read": short, "total": short}
    with (
        Backend(switching(echo)) as backend,
        Balancer([backend], command=command, timeouts=timeouts) as balancer,
        balancer.connect() as client,
    ):
        client.send_head("GET", "/silent", WISH)
        assert client.read_head().status == 101
        for _ in range(4):
            assert not client.is_closed(silence / 2)
            client.send(b"x")
            assert read_exactly(client, 1) == b"x"
        assert client.is_closed()
        line = balancer.access_line(target="/silent")
        assert line["reason"] == "tunnel_timeout"
        assert line["duration_ms"] > silence * 3000 * 0.9


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_tunnels_live_until_graceful_timeout(stop: signal.Signals) -> None:
    """A stop or a reload lets a tunnel talk on for as long as requests may take, then cuts and logs it."""
    with (
        Backend(switching(echo)) as backend,
        Balancer([backend], graceful_timeout=seconds(1.5)) as balancer,
        balancer.connect() as client,
    ):
        client.send_head("GET", "/long", WISH)
        assert client.read_head().status == 101
        balancer.signal(stop)
        for _ in range(5):
            client.send(b"x")
            assert read_exactly(client, 1) == b"x"
            assert not client.is_closed(seconds(0.2))
        assert client.is_closed()
        line = balancer.wait_for_access(1, target="/long")[0]
        assert (line["reason"], line["status"], line["bytes_in"]) == ("shutting_down", 101, 5)
        assert backend.connections[-1].closed.wait(PROMPT)


def test_a_tunnel_is_in_flight_until_its_end() -> None:
    """It counts for ``max_connections`` as long as it lives."""
    with (
        Backend(switching(echo)) as backend,
        Balancer([{"url": backend.url, "max_connections": 1}]) as balancer,
    ):
        with balancer.connect() as client:
            client.send_head("GET", "/one", WISH)
            assert client.read_head().status == 101
            response = balancer.get("/two")
            assert (response.status, response.json()["reason"]) == (503, "all_full")
        balancer.wait_for_access(1, target="/one")
        backend.handler = handlers.ok
        assert balancer.get("/three").status == 200
