"""Clients that hang up: behind bytes that nobody has read, in the queue, within an answer or a body."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import GUNICORN, PROMPT, Backend, Balancer, Client, handlers, seconds, streams
from harness.backend import Exchange, reset

AUTHORITY = trustme.CA()
EARLY = {
    "nothing": b"",
    "a stray line end": b"\r\n",
    "a pipelined request": b"POST /behind HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    "a part of a large one": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n"
    + bytes(40_000),
}


class TlsClient(Client):
    """The same with TLS."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(context)
        self.socket = context.wrap_socket(self.socket, server_hostname=address[0])

    def say_that_it_ends(self) -> None:
        """Send close_notify, and leave the connection open below it."""
        self.socket.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):  # the server's own has not come
            self.socket.unwrap()


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(name="plain", scope="module")
def _plain(server: Backend) -> Iterator[Balancer]:
    with Balancer([server]) as balancer:
        yield balancer


@pytest.fixture(name="pem", scope="module")
def _pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("tls")
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    return str(folder / "pem")


@pytest.fixture(name="secure", scope="module")
def _secure(server: Backend, pem: str) -> Iterator[Balancer]:
    with Balancer([server], tls={"certificate": pem, "key": pem}) as balancer:
        yield balancer


def is_noticed(balancer: Balancer, server: Backend, mark: int, **fields: Any) -> None:
    """The server's connection is let go, the request has its line, and nothing more was asked."""
    request = server.wait_for_request()
    assert request.connection.closed_by_peer.wait(PROMPT)
    line = balancer.access_line(since=mark)
    assert line["reason"] == "client_gone"
    assert {name: line[name] for name in fields} == fields
    assert [request.target for request in server.requests] == ["/"]


@pytest.mark.parametrize("early", EARLY.values(), ids=EARLY)
def test_a_hang_up_is_noticed_wherever_it_stands(
    plain: Balancer, server: Backend, early: bytes
) -> None:
    """Behind whatever the client has said before; what was pipelined is executed for nobody."""
    server.clear()
    server.handler = handlers.hang
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("GET", "/")
        server.wait_for_request()
        client.send(early)
    is_noticed(plain, server, mark, status=499)


@pytest.mark.parametrize("early", ["nothing", "a stray line end", "a pipelined request"])
@pytest.mark.parametrize("way", ["closed", "close_notify"])
def test_over_tls_too(secure: Balancer, server: Backend, early: str, way: str) -> None:
    """By the end of the connection or of TLS alone."""
    server.clear()
    server.handler = handlers.hang
    mark = secure.log_mark
    with TlsClient(secure.address) as client:
        client.send_head("GET", "/")
        server.wait_for_request()
        if EARLY[early]:
            client.send(EARLY[early])
        if way == "close_notify":
            client.say_that_it_ends()
            is_noticed(secure, server, mark, status=499)
    if way == "closed":
        is_noticed(secure, server, mark, status=499)


@pytest.mark.parametrize("early", ["nothing", "a stray line end"])
def test_over_gunicorn_s_tls(server: Backend, pem: str, early: str) -> None:
    """By --certfile: the end of the connection, not that of TLS alone."""
    server.clear()
    server.handler = handlers.hang
    command = (*GUNICORN[:-1], "--certfile", pem, "--keyfile", pem, GUNICORN[-1])
    with Balancer([server], command=command) as balancer:
        mark = balancer.log_mark
        with TlsClient(balancer.address) as client:
            client.send_head("GET", "/")
            server.wait_for_request()
            client.send(EARLY[early])
        is_noticed(balancer, server, mark, status=499)


@pytest.mark.parametrize("early", ["nothing", "a stray line end"])
def test_while_its_answer_comes(plain: Balancer, server: Backend, early: str) -> None:
    """A server that says little now and then is not held for who has gone."""

    def begin(exchange: Exchange) -> None:
        exchange.send(handlers.HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        exchange.wait_for_peer()

    server.clear()
    server.handler = begin
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("GET", "/")
        client.read_head()
        client.send(EARLY[early])
    is_noticed(plain, server, mark, status=200)


def test_while_it_waits_in_the_queue() -> None:
    """It is asked of no server when its turn would have come."""
    gate = threading.Event()
    with (
        Backend(handlers.gated(gate)) as server,
        Balancer([{"url": server.url, "max_connections": 1}]) as balancer,
        balancer.connect() as first,
    ):
        first.send_head("GET", "/first")
        server.wait_for_request()
        with balancer.connect() as second:
            second.send_head("GET", "/second")
            second.send(b"\r\n")
        line = balancer.access_line(target="/second")
        assert (line["status"], line["reason"], line["attempts"]) == (499, "client_gone", [])
        gate.set()
        assert first.read_response().status == 200
        assert [request.target for request in server.requests] == ["/first"]


def test_while_its_body_waits_for_the_server(plain: Balancer, server: Backend) -> None:
    """A server that reads nothing holds back what the client has sent; a reset comes by it."""
    server.clear()

    def stuck(exchange: Exchange) -> None:
        has_gone.wait(seconds(10))
        exchange.wait_for_peer()

    has_gone = threading.Event()
    server.handler = stuck
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("POST", "/", [("Transfer-Encoding", "chunked")])
        server.wait_for_request()
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(b"4000000\r\n" + bytes(64 * streams.MIB))
        reset(client.socket)
    plain.access_line(since=mark)
    has_gone.set()
    is_noticed(plain, server, mark, status=499)


def test_who_expects_to_be_asked_for_its_body(plain: Balancer, server: Backend) -> None:
    """And leaves before it is."""
    server.clear()
    server.handler = handlers.hang
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("POST", "/", [("Content-Length", "2"), ("Expect", "100-continue")])
        server.wait_for_request()
    is_noticed(plain, server, mark, status=499)


def test_a_half_closed_client_is_served_where_that_is_asked_for(server: Backend) -> None:
    """``timeouts.half_close``: all that it has sent is answered, but no longer than that."""
    server.clear()
    server.handler = handlers.ok
    timeouts = {"half_close": seconds(0.5)}
    with Balancer([server], timeouts=timeouts) as balancer:
        with balancer.connect() as client:
            client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
            client.socket.shutdown(socket.SHUT_WR)
            assert [client.read_response().status for _ in range(2)] == [200, 200]
            assert client.is_closed()
        server.handler = handlers.hang
        with balancer.connect() as client:
            client.send_head("GET", "/hangs")
            client.socket.shutdown(socket.SHUT_WR)
            assert client.is_closed(seconds(3))
        assert balancer.access_line(target="/hangs")["status"] == 499


def test_who_is_answered_early_may_finish_its_body(plain: Balancer, server: Backend) -> None:
    """Until it hangs up: the answer stands, and is whole although the body went on behind it."""
    server.clear()

    def refuse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        exchange.keep = False

    server.handler = refuse
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("POST", "/", [("Content-Length", "200000")])
        client.send(bytes(1000))
        plain.access_line(since=mark)
        client.send(bytes(100_000))
        client.socket.shutdown(socket.SHUT_WR)
        response = client.read_response("POST")
        assert (response.status, response.body) == (413, b"no")
        assert client.is_closed()
    line = plain.access_line(since=mark)
    assert (line["status"], line["reason"]) == (413, None)


@pytest.mark.parametrize("is_agreed", [True, False])
def test_what_is_sent_behind_an_upgrade(plain: Balancer, server: Backend, is_agreed: bool) -> None:
    """It is the tunnel's, or the next request; an end behind it while the server thinks is a hang-up."""
    server.clear()
    server.handler = handlers.hang
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    mark = plain.log_mark
    with plain.connect() as client:
        client.send_head("GET", "/", upgrade)
        server.wait_for_request()
        client.send(b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
    is_noticed(plain, server, mark, status=499)

    def switch(exchange: Exchange) -> None:
        if exchange.request.get("Upgrade") is None:
            exchange.reply(body=b"next")
        elif is_agreed:
            exchange.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            exchange.send(exchange.connection.socket.recv(65536))
            exchange.close()
        else:
            exchange.reply(body=b"no")

    server.handler = switch
    behind = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
    with plain.connect() as client:
        client.send_head("GET", "/", upgrade)
        client.send(behind)
        if is_agreed:
            assert client.read_head().status == 101
            assert client.read_some() == behind
        else:
            assert [client.read_response().text for _ in range(2)] == ["no", "next"]
    plain.access_line(since=mark, target="/", status=101 if is_agreed else 200)
