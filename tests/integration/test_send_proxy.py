"""The PROXY protocol towards backends: each connection says whose it is, and stays that client's."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    handlers,
    health_check,
    wait_until,
)
from harness.backend import Connection, PeerGone, reset

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class AnnouncedBackend(Backend):
    """A backend that reads the header before HTTP, and notes what each connection said."""

    def __init__(self, **more: Any) -> None:
        self.said: dict[Connection, tuple[Any, ...]] = {}
        super().__init__(handlers.ok, **more)

    def opened(self, connection: Connection) -> None:
        self.said[connection] = self._read(connection.socket)

    def clients(self) -> list[tuple[Any, ...]]:
        """What was said on the connection of each request, in order."""
        return [self.said[request.connection] for request in self.requests]

    @classmethod
    def _read(cls, sock: socket.socket) -> tuple[Any, ...]:
        start = cls._exactly(sock, 6)
        if start == b"PROXY ":
            line = b""
            while not line.endswith(b"\r\n"):
                line += cls._exactly(sock, 1)
            family, *ends = line.decode("ascii").split()
            return family, ends[0], int(ends[2])
        head = start + cls._exactly(sock, 10)
        assert head[:12] == SIGNATURE, head
        command, family, size = struct.unpack("!BBH", head[12:])
        data = cls._exactly(sock, size)
        if command == 0x20:
            return ("LOCAL",)
        assert command == 0x21
        assert family == 0x11
        return "TCP4", socket.inet_ntoa(data[:4]), struct.unpack("!H", data[8:10])[0]

    @staticmethod
    def _exactly(sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = sock.recv(size - len(data))
            if not piece:
                raise PeerGone("closed inside the header")
            data += piece
        return data


def source(client: Client) -> tuple[str, str, int]:
    """How a client must be announced."""
    host, port = client.socket.getsockname()
    return "TCP4", host, port


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_a_connection_is_one_client_s(command: tuple[str, ...], version: str) -> None:
    """Requests of one client share a connection, those of two never do, in whatever order they come."""
    with (
        AnnouncedBackend() as backend,
        Balancer(
            [backend], command=command, send_proxy=version, timeouts={"backend_keepalive": 60}
        ) as balancer,
        balancer.connect() as one,
        balancer.connect() as other,
    ):
        order = (one, other, one, one, other)
        for client in order:
            assert client.get("/").status == 200
        assert backend.clients() == [source(client) for client in order]
        # The stock worker looks after a client between two requests only while it keeps it open.
        assert len({request.connection for request in backend.requests}) == 2


def test_requests_at_once_have_connections_of_their_own() -> None:
    """Each is announced, also when they are opened together."""
    with (
        AnnouncedBackend() as backend,
        Balancer([backend], send_proxy="v2") as balancer,
    ):
        clients = [balancer.connect() for _ in range(8)]
        for client in clients:
            client.send_head("GET", f"/{client.socket.getsockname()[1]}")
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        for request in backend.requests:
            assert backend.said[request.connection][2] == int(request.target[1:])


def test_the_client_that_a_trusted_proxy_names() -> None:
    """Its port is not known; a forged name from elsewhere is not believed."""
    with AnnouncedBackend() as backend:
        forwarded = [("X-Forwarded-For", "203.0.113.9, 198.51.100.4")]
        trust = {"trusted_proxies": ["127.0.0.0/8"]}
        with (
            Balancer([backend], send_proxy="v2", **trust) as balancer,
            balancer.connect() as client,
        ):
            client.get("/trusted", forwarded)
            client.get("/other", [("X-Forwarded-For", "203.0.113.9")])
            client.get("/again", forwarded)
        with Balancer([backend], send_proxy="v2") as balancer, balancer.connect() as client:
            client.get("/forged", forwarded)
            peer = source(client)
        assert backend.clients() == [
            ("TCP4", "198.51.100.4", 0),
            ("TCP4", "203.0.113.9", 0),
            ("TCP4", "198.51.100.4", 0),
            peer,
        ]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_checks_speak_for_themselves(version: str) -> None:
    """A probe is nobody's connection (v2), or the balancer's own (v1)."""
    with (
        AnnouncedBackend() as backend,
        Balancer([backend], send_proxy=version, health_check=health_check()) as balancer,
    ):
        assert balancer.get("/").status == 200
        probe = backend.said[backend.probes[0].connection]
        assert probe[:2] == (("LOCAL",) if version == "v2" else ("TCP4", "127.0.0.1"))


def test_a_retry_announces_the_same_client() -> None:
    """The next server learns of the client, not of the first attempt."""
    with AnnouncedBackend() as dead, AnnouncedBackend() as alive:
        dead.handler = handlers.reset
        with Balancer([dead, alive], send_proxy="v1") as balancer, balancer.connect() as client:
            for _ in range(2):
                assert client.get("/").status == 200
            assert dead.requests
            assert set(alive.clients()) == set(dead.clients()) == {source(client)}


def test_a_tunnel_is_announced_too() -> None:
    """An upgraded connection began like every other."""

    def switch(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        exchange.wait_for_peer()

    with AnnouncedBackend() as backend, Balancer([backend], send_proxy="v2") as balancer:
        backend.handler = switch
        with balancer.connect() as client:
            client.send_head("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket")])
            assert client.read_head().status == 101
            assert backend.clients() == [source(client)]


def test_idle_connections_of_many_clients_do_not_pile_up() -> None:
    """Most clients never come back: a bounded number of their connections is kept."""
    with (
        AnnouncedBackend() as backend,
        Balancer([backend], send_proxy="v2", timeouts={"backend_keepalive": 0}) as balancer,
    ):
        for _ in range(140):
            assert balancer.get("/").status == 200
        wait_until(lambda: len(backend.open_connections()) <= 128, PATIENT, "128 connections")
        assert len(backend.open_connections()) > 100


def test_a_client_that_goes_while_it_waits_has_its_line() -> None:
    """Whose connection it was cannot be said any more: no server is asked, and the log has 499, each time."""
    gate = threading.Event()
    with AnnouncedBackend() as backend:
        server = {"url": backend.url, "max_connections": 1}
        with Balancer([server], send_proxy="v2", queue={"timeout": 30}) as balancer:
            for number in range(1, 11):
                gate.clear()
                backend.handler = handlers.gated(gate)
                backend.clear()
                with balancer.connect() as first, balancer.connect() as second:
                    first.send_head("GET", "/first")
                    wait_until(lambda: backend.requests)
                    second.send_head("GET", "/second")
                    with balancer.connect() as other:  # answered here, behind what was read before
                        other.send_head("OPTIONS", "/", [("Max-Forwards", "0")])
                        assert other.read_response("OPTIONS").status == 200
                    reset(second.socket)
                    gate.set()
                    assert first.read_response().status == 200
                lines = balancer.wait_for_access(number, target="/second")
                assert [(line["status"], line["reason"]) for line in lines] == [
                    (499, "client_gone")
                ] * number
            assert balancer.get("/").status == 200
        assert [request.target for request in backend.requests] == ["/first", "/"]
