"""Answers that no backend gave: their bodies, their fields, and the last resort."""

from __future__ import annotations

import json

import pytest
from fakes.proxied import request_of

from app.errors import BadRequest, ClientGone, NoBackend, ProxyError
from app.worker.proxy.local_reply import LocalReply, error_body, prefers_text


def reply() -> LocalReply:
    return LocalReply(lambda reason: 7 if reason == "all_full" else 1, [("Server", "ours")])


@pytest.mark.parametrize(
    ("accept", "is_text"),
    [
        (None, False),
        (b"*/*", False),
        (b"text/html", True),
        (b"text/html, application/json", False),
        (b"application/json", False),
    ],
)
def test_who_is_told_in_text(accept: bytes | None, is_text: bool) -> None:
    """JSON unless the client names text and not JSON."""
    assert prefers_text(accept) == is_text


def test_an_error_says_what_and_why_by_name() -> None:
    """The detail is for the log."""
    error = NoBackend("10.0.0.7 is away", reason="all_full")
    assert json.loads(error_body(error, "id 1", is_text=False)) == {
        "status": 503,
        "error": "Service Unavailable",
        "reason": "all_full",
        "request_id": "id 1",
    }
    text = error_body(error, "id 1", is_text=True)
    assert text == b"503 Service Unavailable\nreason: all_full\nrequest id: id 1\n"


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (NoBackend(reason="all_full"), "Retry-After", "7"),
        (NoBackend(), "Retry-After", "1"),
        (BadRequest(status=405), "Allow", None),
        (BadRequest(), "Content-Type", "application/json"),
        (BadRequest(), "Server", "ours"),
        (BadRequest(), "X-Request-Id", "id"),
    ],
)
def test_what_a_client_is_told_beside_the_body(
    error: ProxyError, name: str, value: str | None
) -> None:
    exchange = request_of("GET")
    assert reply().fail(exchange, error, "id") == error.status
    fields, _ = exchange.own
    assert fields[name] == value or (value is None and "GET" in fields[name])


def test_who_has_gone_is_told_nothing() -> None:
    """Nor who goes while it is told."""
    exchange = request_of("GET")
    assert reply().fail(exchange, ClientGone(), "id") == 499
    assert exchange.got == ["cut"]

    def gone(*_: object) -> None:
        raise ClientGone

    exchange = request_of("GET")
    exchange.answer = gone  # type: ignore[method-assign]
    assert reply().fail(exchange, NoBackend(), "id") == 503
    assert exchange.got == ["cut"]


def test_the_last_resort_answers_or_cuts() -> None:
    """500 if nothing was sent; where an answer is on its way, it is cut."""
    exchange = request_of("GET")
    assert reply().fail_unforeseen(exchange, ValueError(), "id", None) == 500
    assert exchange.got == [500]
    exchange = request_of("GET")
    exchange.is_begun = True
    assert reply().fail_unforeseen(exchange, ValueError(), "id", None) == 500
    assert exchange.got == ["cut"]
