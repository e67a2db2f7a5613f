"""A backend's answer on its way to the client: what is changed in it, and what becomes of one that fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.exchange import ClientSide
from fakes.pool import Pool
from fakes.proxied import request_of
from fakes.session import Answer

from app import config as configuration
from app.errors import Aborted, ClientGone
from app.worker.balance.sticky import StickyCookie
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.to_client import ToClient, server_header


def to_client(pool: Any, **settings: Any) -> ToClient:
    return ToClient(configuration.parse(json.dumps(settings)), pool)


def deliver(
    answer: Answer, exchange: ClientSide | None = None, pool: Pool | None = None, **settings: Any
) -> tuple[ClientSide, Attempt, Pool]:
    """Deliver one answer; what the client, the attempt and the pool have of it."""
    pool = pool or Pool(1)
    exchange = exchange or request_of("GET")
    attempt = Attempt(pool, pool.pick(()), exchange)  # type: ignore[arg-type]
    attempt.response = answer
    try:
        to_client(pool, **settings).deliver(exchange, attempt, b"id-1")  # type: ignore[arg-type]
    finally:
        assert pool.in_flight() == [0]
    return exchange, attempt, pool


def test_an_answer_is_passed_on_as_it_comes() -> None:
    """Its head and what came with it, then the rest."""
    exchange, attempt, pool = deliver(Answer(200, b"rest"))
    assert exchange.got == [200, b"rest"]
    assert (attempt.reason, pool.told) == (None, [])


def test_a_whole_answer_gives_its_place_back_before_it_is_sent() -> None:
    """How slowly a client takes it is not the server's affair; one that still comes holds its place."""
    places: list[list[int]] = []
    for answer in (Answer(200), Answer(200, b"rest")):
        pool, exchange = Pool(1), request_of("GET")
        start = exchange.start

        def watched(*given: Any, start: Any = start, pool: Pool = pool) -> None:
            places.append(pool.in_flight())
            start(*given)

        exchange.start = watched  # type: ignore[method-assign]
        deliver(answer, exchange, pool)
    assert places == [[0], [1]]


@pytest.mark.parametrize(("status", "told"), [(200, []), (500, [("server 0", 500)])])
def test_of_which_answers_the_pool_is_told(status: int, told: list[tuple[str, int]]) -> None:
    """Of failures; of all of a backend that is watched."""
    assert deliver(Answer(status))[2].told == told
    pool = Pool(1)
    pool.backends[0].is_watched = True
    assert deliver(Answer(status), pool=pool)[2].told == [("server 0", status)]


def test_one_that_breaks_off_is_cut() -> None:
    """Its head is out: the client must see that it is no good ending."""
    exchange, attempt, pool = deliver(Answer(200, Aborted(reason="truncated")))
    assert exchange.got == [200, "cut"]
    assert (attempt.reason, pool.told) == ("truncated", [("server 0", "truncated")])


def test_a_client_that_has_gone_before_the_head_is_raised() -> None:
    """Whoever asked tells nobody then."""
    exchange = request_of("GET")

    def gone(*_: object) -> None:
        raise ClientGone

    exchange.start = gone  # type: ignore[method-assign]
    answer = Answer(200, b"rest")
    with pytest.raises(ClientGone):
        deliver(answer, exchange)
    assert answer.is_closed


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("pass", [b"theirs"]), ("none", []), ("ours", [b"ours"])],
)
def test_the_server_field(setting: str, expected: list[bytes]) -> None:
    """The backend's, none, or ours in its place."""
    answer = Answer(200)
    answer.head.lines = [b"server", b": ", b"theirs", b"\r\n"]
    exchange, _, _ = deliver(answer, server_header=setting)
    assert exchange.lines[2::4] == [*expected, b"id-1"]


def test_the_client_is_told_the_id_that_is_in_the_log() -> None:
    """Of an answer that a server gave."""
    assert deliver(Answer(200))[0].lines[-4:] == [b"X-Request-Id", b": ", b"id-1", b"\r\n"]


@pytest.mark.parametrize(
    ("setting", "minor", "expected"),
    [
        ("request", 1, []),
        ("response", 1, [b"1.1 theirs", b"1.1 load-balancer"]),
        ("both", 0, [b"1.1 theirs", b"1.0 load-balancer"]),
    ],
)
def test_via(setting: str, minor: int, expected: list[bytes]) -> None:
    """Ours behind the backend's, with the version that it spoke."""
    answer = Answer(200)
    answer.head.minor = minor
    if expected:
        answer.head.lines = [b"Via", b": ", b"1.1 theirs", b"\r\n"]
    lines = deliver(answer, via=setting)[0].lines
    assert [lines[at + 2] for at in range(0, len(lines), 4) if lines[at] == b"Via"] == expected


def test_our_own_answers_have_the_field_too() -> None:
    """Where one is configured, for a backend's is not theirs."""
    assert to_client(Pool(1), server_header="ours").server_field == [("Server", "ours")]
    assert to_client(Pool(1), server_header="pass").server_field == []
    assert to_client(Pool(1), server_header="none").server_field == []
    assert server_header("none") == ()


@pytest.mark.parametrize(("had", "is_set"), [(None, True), (b"other", True), (b"this", False)])
def test_the_sticky_cookie_is_set_where_another_backend_answers(
    had: bytes | None, is_set: bool
) -> None:
    pool, exchange = Pool(1), request_of("GET")
    sticky = configuration.parse('{"sticky": {"secret": "a secret of 16 bytes"}}').sticky
    assert sticky is not None
    pool.sticky = StickyCookie(sticky)
    pool.backends[0].cookie = b"this"
    exchange.head.sticky = had
    deliver(Answer(200), exchange, pool)
    assert (b"Set-Cookie" in exchange.lines) == is_set
