"""A request from its head to its line: what is refused before it is sent, and what nobody foresaw."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.exchange import ClientSide
from fakes.proxied import Proxied, forward, request_of
from fakes.session import Answer, Outcome

from app.errors import (
    BackendReset,
    BodyTimeout,
    ClientGone,
    ConnectFailed,
    NoBackend,
    ResponseTimeout,
)
from app.shared.layout import ASKED
from app.wire import via


def _no_backend() -> None:
    raise NoBackend


def test_one_request_has_one_attempt_and_one_line() -> None:
    """The line of the plainest request there is: every field, in its order."""
    proxied = Proxied(Answer(200, b"hello"))
    exchange = request_of("GET", "User-Agent: me\r\n")
    line = proxied.handle(exchange)

    assert exchange.got == [200, b"hello"]
    times = {name: line.pop(name) for name in ("request_id", "duration_ms", "first_byte_ms")}
    assert len(times["request_id"]) == 32
    assert 0 <= times["first_byte_ms"] <= times["duration_ms"]
    attempt = {
        "server": "server 0", "connect_ms": None, "first_byte_ms": times["first_byte_ms"],
        "status": 200, "reason": None,
    }  # fmt: skip
    assert list(line.items()) == [
        ("client_ip", "127.0.0.1"),
        ("method", "GET"),
        ("host", "a"),
        ("target", "/"),
        ("protocol", "HTTP/1.1"),
        ("status", 200),
        ("backend", "server 0"),
        ("attempts", [attempt]),
        ("bytes_in", 0),
        ("bytes_out", 5),
        ("connect_ms", None),
        ("reason", None),
        ("user_agent", "me"),
    ]
    assert list(line["attempts"][0]) == list(attempt)


def test_ids_follow_one_another_and_a_trusted_proxys_is_kept() -> None:
    """A stranger's is not."""
    proxied = Proxied()
    given = "X-Request-Id: abc-1\r\n"
    ids = [proxied.handle(request_of("GET", given))["request_id"] for _ in range(2)]
    assert int(ids[1], 16) - int(ids[0], 16) == 1
    exchange = request_of("GET", given)
    exchange.is_trusted = True
    assert proxied.handle(exchange)["request_id"] == "abc-1"


def test_a_body_over_the_limit_is_refused_before_a_server_is_asked() -> None:
    """For what its head says; one that has failed already keeps its reason."""
    proxied = Proxied(limits={"body": 3})
    line = proxied.handle(request_of("PUT", body=b"1234"))
    assert (line["status"], line["reason"], line["attempts"]) == (413, "body_too_large", [])
    assert proxied.handle(request_of("PUT", body=b"123"))["status"] == 200
    exchange = request_of("PUT", body=b"12")
    exchange.failure = BodyTimeout()
    assert proxied.handle(exchange)["reason"] == "client_timeout"


def test_a_request_that_was_here_before_is_refused() -> None:
    """By our mark in its CDN-Loop."""
    proxied = Proxied()
    assert proxied.handle(request_of("GET", "CDN-Loop: other\r\n"))["status"] == 200
    exchange = request_of("GET", f"CDN-Loop: other\r\nCDN-Loop: {via.mark(0).decode()}\r\n")
    line = proxied.handle(exchange)
    assert (line["status"], line["reason"]) == (508, "loop")


def test_options_that_must_go_no_further_are_answered_here() -> None:
    """Nobody is asked."""
    exchange = request_of("OPTIONS", "Max-Forwards: 0\r\n")
    line = Proxied().handle(exchange)
    assert (exchange.got, line["reason"], line["backend"]) == ([200], "max_forwards", None)
    assert "GET" in exchange.own[0]["Allow"]


def test_a_request_whose_client_has_gone_is_logged() -> None:
    """It was read and is not handled."""
    proxied = Proxied()
    proxied.proxy.drop(ClientSide(b"GET /a HTTP/1.0\r\n\r\n"), ClientGone())
    (line,) = proxied.lines
    assert (line["status"], line["reason"], line["attempts"]) == (499, "client_gone", [])
    assert (line["target"], line["protocol"], line["host"]) == ("/a", "HTTP/1.0", None)


def test_the_limit_for_all_attempts_begins_with_the_request() -> None:
    """timeouts.total is told to each of them."""
    proxied = Proxied(BackendReset(), timeouts={"total": 60})
    proxied.handle(request_of("GET"))
    first, second = proxied.session.expires_at
    assert first == second < float("inf")


@pytest.mark.parametrize("outcome", [200, ResponseTimeout()])
def test_the_limit_holds_for_whatever_the_client_is_waited_for(outcome: Outcome) -> None:
    """Until the answer has been passed on, or is one of our own."""
    proxied = Proxied(outcome, servers=1, timeouts={"total": 60})
    exchange = request_of("GET")
    limits: list[float] = []

    def note(*arguments: Any) -> None:
        limits.append(exchange.deadline.limit)
        exchange.is_begun = True

    exchange.start = exchange.answer = note  # type: ignore[method-assign]
    proxied.handle(exchange)
    expected = proxied.session.expires_at[0] if outcome == 200 else float("inf")
    assert limits == [expected]
    assert exchange.deadline.limit == float("inf")


def test_each_tick_counts_the_requests_that_were_forwarded() -> None:
    """Nobody buys retries with requests that are refused, whoever refuses them."""
    proxied = Proxied(servers=1, limits={"body": 3})
    proxy, cells = proxied.proxy, proxied.pool.cells
    proxy.tick(1.0)
    assert cells[ASKED] == 0
    for _ in range(3):
        proxied.handle(request_of("GET"))
        proxy.refuse("127.0.0.1", ClientGone(), 0.0)
        assert proxied.lines.pop()["status"] == 499
        assert proxied.handle(request_of("PUT", body=b"long"))["status"] == 413
        proxied.handle(request_of("OPTIONS", "Max-Forwards: 0\r\n"))
    proxy.tick(2.0)
    proxy.tick(3.0)
    assert cells[ASKED] == 3


def test_a_request_that_is_refused_after_a_tick_takes_nothing_back() -> None:
    """The count only grows: the next one takes its place."""
    proxied = Proxied(servers=0)
    proxy, cells = proxied.proxy, proxied.pool.cells
    exchange = request_of("GET")
    proxied.pool.pick = lambda *_: proxy.tick(1.0) or _no_backend()  # type: ignore[assignment]
    assert proxied.handle(exchange)["status"] == 503
    proxy.tick(2.0)
    assert cells[ASKED] == 1


# -- what nobody foresaw: an answer, a line, and no place kept ------------------------------------------


def test_whatever_is_raised_before_the_answer_is_a_500() -> None:
    """It is not the server's fault, and no reason to ask another."""
    result = forward("GET", ValueError("a mistake"))
    assert (result.status, len(result.tried)) == (500, 1)
    assert (result.line["status"], result.line["reason"]) == (500, "internal_error")
    assert result.attempts[0]["reason"] == "internal_error"
    assert result.pool.told == []


def test_whatever_is_raised_in_the_answer_cuts_it() -> None:
    """Its line has the status that the client has seen."""
    result = forward("GET", Answer(200, RuntimeError("a mistake")))
    assert result.sent == [200, "cut"]
    assert (result.line["status"], result.line["reason"]) == (200, "internal_error")


@pytest.mark.parametrize("outcome", [200, 503, "refused", "in two pieces"])
@pytest.mark.parametrize("broken", ["start", "write", "answer", "finish", "request_trailers"])
def test_a_client_s_side_that_breaks_leaves_a_line_too(broken: str, outcome: int | str) -> None:
    """Wherever it raises, also when it is told of the failure."""
    made = {"refused": ConnectFailed(), "in two pieces": Answer(200, b"rest")}
    result = forward("GET", made.get(outcome, outcome), servers=1, broken=broken)
    assert result.line["status"] in (200, 500, 502, 503)


@pytest.mark.parametrize("broken", ["start", "answer", "abort"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_two_mistakes_are_no_worse_than_one(broken: str, is_begun: bool) -> None:
    """The second is logged, and the first keeps its line."""
    mistake = RuntimeError("a mistake")
    result = forward("GET", Answer(200, mistake) if is_begun else mistake, broken=broken)
    assert result.line["reason"] == "internal_error"
