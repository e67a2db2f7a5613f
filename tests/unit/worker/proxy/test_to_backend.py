"""A request as a backend gets it: the head that is sent, and what it is told of the body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.exchange import ClientSide
from fakes.pool import Pool

from app import config as configuration
from app.wire.forwarded import Trust
from app.wire.request import CHUNKED
from app.wire.response import read_head as read_response
from app.worker.net.deadlines import NEVER
from app.worker.proxy.replay import replay_of
from app.worker.proxy.to_backend import ToBackend

OWN = b"0123456789abcdef"


def to_backend(**settings: Any) -> ToBackend:
    config = configuration.parse(json.dumps(settings))
    trust = Trust(config.trusted_proxies, config.forwarded)
    return ToBackend(config, trust, b"load-balancer-" + OWN)


def sent(
    exchange: ClientSide, expires_at: float = NEVER, replay: Any = None, **backend: Any
) -> Any:
    one = Pool(1).backends[0]
    for name, value in backend.items():
        setattr(one, name, value)
    return to_backend().request(exchange, one, b"id-1", expires_at, replay)  # type: ignore[arg-type]


def side(request: bytes, **more: Any) -> ClientSide:
    exchange = ClientSide(request, **more)
    exchange.forwarded = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: "
    return exchange


def lines(request: Any) -> list[bytes]:
    found: list[bytes] = request.head.split(b"\r\n")
    return found


def test_the_plainest_request() -> None:
    """Its own fields in their order, then ours."""
    request = sent(side(b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-B: c\r\n\r\n"))
    assert lines(request) == [
        b"GET /a?b HTTP/1.1",
        b"Host: a",
        b"X-B: c",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: a",
        b"X-Request-Id: id-1",
        b"CDN-Loop: load-balancer-" + OWN,
        b"",
        b"",
    ]
    assert (request.raw_body, request.length, request.read_body) == (b"", 0, None)
    assert request.expires_at == NEVER


def test_the_servers_path_stands_before_the_target() -> None:
    """But not before the asterisk, which is no path; without a Host there is the server's."""
    request = sent(side(b"GET /a HTTP/1.0\r\n\r\n"), prefix=b"/v1")
    assert lines(request)[:2] == [b"GET /v1/a HTTP/1.1", b"Host: server"]
    assert request.on_interim is None  # HTTP/1.0 knows none
    request = sent(side(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), prefix=b"/v1")
    assert lines(request)[0] == b"OPTIONS * HTTP/1.1"


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        ("pass", [b"Server", b": ", b"secret/1.2", b"\r\n"]),
        ("none", []),
        ("ours", [b"Server", b": ", b"ours", b"\r\n"]),
    ],
)
def test_an_interim_answer_names_the_server_that_is_configured(
    setting: str, lines: list[bytes]
) -> None:
    """For whatever the client speaks, as in the answer that follows it."""
    exchange = side(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    made = to_backend(server_header=setting)
    backend: Any = Pool(1).backends[0]
    request = made.request(exchange, backend, b"id-1", NEVER)  # type: ignore[arg-type]
    head = read_response(b"HTTP/1.1 103 Early Hints\r\nServer: secret/1.2\r\n\r\n", b"GET")
    assert head is not None
    assert request.on_interim is not None
    request.on_interim(head)
    assert (exchange.interims, head.lines) == ([103], lines)


@pytest.mark.parametrize(
    ("setting", "is_trusted", "said", "expected"),
    [
        ("none", True, b"", []),
        ("none", True, b"1.1 other", [b"Via: 1.1 other"]),
        ("response", False, b"1.1 other", []),
        ("request", False, b"", [b"Via: 1.1 load-balancer"]),
        ("request", False, b"1.1 other", [b"Via: 1.1 load-balancer"]),
        ("both", True, b"1.1 other", [b"Via: 1.1 other, 1.1 load-balancer"]),
    ],
)
def test_via(setting: str, is_trusted: bool, said: bytes, expected: list[bytes]) -> None:
    """Ours where it is wanted, behind a trusted proxy's; a stranger's is nobody's way."""
    field = b"Via: %b\r\n" % said if said else b""
    exchange = side(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % field, is_trusted=is_trusted)
    backend: Any = Pool(1).backends[0]
    request = to_backend(via=setting).request(exchange, backend, b"id-1", NEVER)  # type: ignore[arg-type]
    assert [one for one in lines(request) if one.startswith(b"Via")] == expected


@pytest.mark.parametrize("is_trusted", [False, True])
def test_cdn_loop_is_kept_whoever_sends_it(is_trusted: bool) -> None:
    """Two balancers that do not trust each other find their loop; Connection cannot remove it."""
    fields = b"Connection: cdn-loop\r\nCDN-Loop: a.example\r\ncdn-loop: b\r\n"
    exchange = side(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % fields, is_trusted=is_trusted)
    loop = b"CDN-Loop: a.example, b, load-balancer-" + OWN
    assert [one for one in lines(sent(exchange)) if b"oop" in one] == [loop]


def test_a_body_that_is_here() -> None:
    """Its length is told, its bytes follow the head."""
    exchange = side(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", body=b"body")
    request = sent(exchange)
    assert b"Content-Length: 4" in lines(request)
    assert (request.raw_body, request.length, request.read_body) == (b"body", 4, None)


def test_a_body_of_unknown_length_is_framed_for_our_own_adapter() -> None:
    """With its trailers if it is all here; another adapter frames it itself."""
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    request = sent(side(head, body=b"body"))
    assert request.raw_body == b"4\r\nbody\r\n0\r\n\r\n"
    assert request.length == CHUNKED
    assert b"Trailer: X-Sum" in lines(request)
    assert sent(side(head, body=b"body"), adapter=object()).raw_body == b"body"


def test_a_body_that_is_still_to_come() -> None:
    """What is here, where the rest is read, and whether the backend is asked for it first."""
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    exchange = side(head, body=b"body")
    exchange.read_body = lambda _deadline: b"after"
    request = sent(exchange)
    assert (request.raw_body, request.read_body) == (b"body", exchange.read_body)
    assert request.expects_continue
    assert lines(request)[-3:] == [b"Expect: 100-continue", b"", b""]


def test_a_second_attempt_gets_what_the_first_has_read() -> None:
    """It asks for nothing any more that was read already."""
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    exchange = side(head, body=b"body")
    exchange.read_body = lambda _deadline: b"after"
    replay = replay_of(exchange, exchange.read_body, 100)
    assert replay is not None
    replay.read(exchange.deadline)
    request = sent(exchange, replay=replay)
    assert (request.raw_body, request.read_body) == (b"bodyafter", replay.read)
    assert not request.expects_continue


def test_an_offer_to_switch_protocols_is_passed_on_if_it_is_configured() -> None:
    """Not through an adapter that could not switch."""
    head = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    request = sent(side(head))
    assert (request.upgrade, b"Upgrade: websocket" in lines(request)) == (b"websocket", True)
    assert sent(side(head), adapter=object()).upgrade == b""


def test_the_end_of_the_request_is_the_attempts_too() -> None:
    assert sent(side(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 7.5).expires_at == 7.5


@pytest.mark.parametrize(("configured", "limit"), [(0, NEVER), (7.5, 7.5)])
def test_no_timeout_is_one_that_never_ends(configured: float, limit: float) -> None:
    """Who waits need not know that zero stands for it in the configuration."""
    make = to_backend(timeouts={"connect": configured, "read": configured})
    backend: Any = Pool(1).backends[0]
    exchange: Any = side(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    request = make.request(exchange, backend, b"id-1", NEVER)
    assert (request.connect_timeout, request.read_timeout) == (limit, limit)
