"""Where a request goes is the configuration's affair alone: whatever a message names, nobody else is called.

A decoy listens beside the backend. Every request and every answer below names it in some way that some
proxy has honoured once (RFC 9110 §7.1, §15.4; CWE-918); the decoy must never see as much as a connection.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from harness import (
    GUNICORN,
    STOCK_WORKER,
    Backend,
    Balancer,
    NoAnswer,
    handlers,
    health_check,
    wait_until,
)

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"

# Target, further fields, and whether the request is one that gets through; DECOY is its host:port.
REQUESTS = [
    ("GET http://DECOY/ HTTP/1.1\r\nHost: DECOY", True),
    ("GET http://DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET http://backend.example@DECOY/ HTTP/1.1\r\nHost: DECOY", False),
    ("GET http://DECOY@backend.example/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET http://backend.example#@DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET http://backend.example\\@DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET https://DECOY/ HTTP/1.1\r\nHost: DECOY", None),
    ("GET ftp://DECOY/ HTTP/1.1\r\nHost: DECOY", None),
    ("GET unix:/run/other.sock HTTP/1.1\r\nHost: backend.example", False),
    ("GET //DECOY/ HTTP/1.1\r\nHost: backend.example", True),
    ("GET ///DECOY/ HTTP/1.1\r\nHost: backend.example", True),
    ("GET /\\DECOY/ HTTP/1.1\r\nHost: backend.example", True),
    ("GET /%2f%2fDECOY/ HTTP/1.1\r\nHost: backend.example", True),
    ("GET @DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET :80@DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET .DECOY/ HTTP/1.1\r\nHost: backend.example", False),
    ("GET DECOY HTTP/1.1\r\nHost: backend.example", False),
    ("GET /?url=http://DECOY/&host=DECOY HTTP/1.1\r\nHost: backend.example", True),
    ("OPTIONS * HTTP/1.1\r\nHost: DECOY", True),
    ("CONNECT DECOY HTTP/1.1\r\nHost: DECOY", False),
    ("GET / HTTP/1.1\r\nHost: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: user@DECOY", False),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nHost: DECOY", False),
    ("GET / HTTP/1.1\r\nHost: backend.example, DECOY", False),
    (f"GET / HTTP/1.1\r\n{UPGRADE}Host: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Forwarded-Host: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Forwarded-Server: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Host: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Original-URL: http://DECOY/", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Rewrite-URL: http://DECOY/", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Real-Ip: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nForwarded: for=DECOY;host=DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nX-Forwarded-For: DECOY", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nProxy: http://DECOY/", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nReferer: http://DECOY/", True),
    ("GET / HTTP/1.1\r\nHost: backend.example\r\nDestination: http://DECOY/", True),
    ("GET / HTTP/1.0\r\nX-Forwarded-Host: DECOY", True),
]

# Answers that name another place; none is an instruction to a proxy in front of many.
ANSWERS = (
    [
        b"HTTP/1.1 %d See\r\nLocation: http://DECOY/\r\nContent-Length: 0\r\n\r\n" % status
        for status in (301, 302, 303, 305, 307, 308)
    ]
    + [
        b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 0\r\n\r\n" % field
        for field in (
            b"X-Accel-Redirect: http://DECOY/",
            b"X-Reproxy-URL: http://DECOY/",
            b"X-Sendfile: /etc/hostname",
            b"Refresh: 0; url=http://DECOY/",
            b"Content-Location: http://DECOY/",
            b'Alt-Svc: h2="DECOY"',
            b"Link: <http://DECOY/>; rel=preload",
        )
    ]
    + [
        b"HTTP/1.1 103 Early Hints\r\nLink: <http://DECOY/>; rel=preload\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nLocation: http://DECOY/\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    ]
)


@pytest.fixture(name="decoy", scope="module")
def _decoy() -> Iterator[Backend]:
    with Backend(name="decoy") as decoy:
        yield decoy


@pytest.fixture(name="pair", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module")
def _pair(request: pytest.FixtureRequest) -> Iterator[tuple[Balancer, Backend]]:
    environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    trusted = {"trusted_proxies": ["127.0.0.0/8"]}
    with (
        Backend() as backend,
        Balancer([backend], command=request.param, env=environment, **trusted) as balancer,
    ):
        yield balancer, backend


@pytest.mark.parametrize(("head", "passes"), REQUESTS, ids=[head for head, _ in REQUESTS])
def test_no_request_chooses_its_server(
    pair: tuple[Balancer, Backend], decoy: Backend, head: str, passes: bool | None
) -> None:
    """It goes to the one configured server, or is refused; also from a trusted client."""
    balancer, backend = pair
    backend.clear()
    with balancer.connect() as client:
        client.send(head.replace("DECOY", decoy.address).encode() + b"\r\n\r\n")
        try:
            status = client.read_head().status
        except NoAnswer:  # the stock worker says nothing to some of what gunicorn cannot read
            status = 400
    reached = len(backend.requests) == 1
    assert reached == (status == 200)
    if passes is not None:
        assert reached is passes
    assert decoy.connections == []


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer[9:60].decode() for answer in ANSWERS])
def test_no_answer_sends_the_balancer_elsewhere(
    pair: tuple[Balancer, Backend], decoy: Backend, answer: bytes
) -> None:
    """Redirects and the like are the client's to follow: one request, one answer, passed on."""
    balancer, backend = pair
    backend.clear()
    backend.handler = handlers.raw(answer.replace(b"DECOY", decoy.address.encode()), keep=True)
    try:
        response = balancer.get("/")
    finally:
        backend.handler = handlers.ok
    final = answer.split(b"HTTP/1.1 ")[-1]
    assert response.status == int(final[:3])
    location = response.get("Location")
    assert (location is not None) == (b"Location: http" in final and b"Content-Loc" not in final)
    assert len(backend.requests) == 1
    assert decoy.connections == []


def test_no_check_is_sent_elsewhere(decoy: Backend) -> None:
    """A health check does not follow a redirect either; by default it takes it for a good sign."""
    with Backend() as backend:
        backend.probe = handlers.answer(302, b"", ("Location", decoy.url + "/"))
        with Balancer([backend], health_check=health_check()) as balancer:
            wait_until(lambda: len(backend.probes) >= 3, what="three checks")
            assert balancer.get("/").status == 200
    assert decoy.connections == []


def test_an_upgraded_connection_leads_to_the_same_server(decoy: Backend) -> None:
    """What is said in a tunnel is not read: a request in it reaches the backend as bytes."""
    said: list[bytes] = []

    def switch(exchange: handlers.Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        said.append(exchange.connection.socket.recv(65536))
        exchange.close()

    inside = f"GET http://{decoy.address}/ HTTP/1.1\r\nHost: {decoy.address}\r\n\r\n".encode()
    with Backend(switch) as backend, Balancer([backend]) as balancer, balancer.connect() as client:
        client.send_head("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket")])
        assert client.read_head().status == 101
        client.send(inside)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
        assert said == [inside]
    assert decoy.connections == []
