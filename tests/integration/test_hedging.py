"""Hedging: a second attempt beside one that takes too long, and the end of the one that lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import (
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    Truncated,
    handlers,
    seconds,
    wait_until,
)

Handler = Callable[[Exchange], None]


class Turns:
    """What each request meets, in the order in which they come, whoever gets them."""

    def __init__(self, *handlers_: Handler) -> None:
        self._left = list(handlers_)
        self._lock = threading.Lock()
        self.met: list[Backend] = []
        self.exchanges: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            handler = self._left.pop(0) if self._left else handlers.ok
            self.met.append(exchange.backend)
            self.exchanges.append(exchange)
        handler(exchange)


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[Backend, Backend]]:
    with Backend() as one, Backend() as other:
        yield one, other


def play(pair: tuple[Backend, Backend], *turns: Handler) -> Turns:
    made = Turns(*turns)
    for backend in pair:
        backend.handler = made
    return made


def hedging(pair: tuple[Backend, Backend], after: Any = 0.1, **more: Any) -> Balancer:
    """Each server has one place, so that one which is not given back is found by the next request."""
    retries = {"hedge_after": after, **more.pop("retries", {})}
    servers = [{"url": backend.url, "max_connections": 1} for backend in pair]
    settings = {"outlier_detection": False, "queue": False, "retries": retries}
    return Balancer(servers, **{**settings, **more})


def check_places(balancer: Balancer) -> None:
    """Both servers have their one place free: each answers, sooner or later, as all are asked in turn."""
    seen: set[bytes] = set()

    def have_both_answered() -> bool:
        answer = balancer.get("/after")
        assert answer.status == 200
        seen.add(answer.body)
        return len(seen) == 2

    wait_until(have_both_answered)


def after(event: threading.Event, then: Handler) -> Handler:
    def handler(exchange: Exchange) -> None:
        event.wait(seconds(10))
        then(exchange)

    return handler


def break_off(exchange: Exchange) -> None:
    """End the connection without an answer; it is over when the balancer has seen that."""
    exchange.connection.socket.shutdown(socket.SHUT_WR)
    assert exchange.wait_for_peer()
    exchange.close()


@pytest.mark.parametrize("command", [None, STOCK_WORKER], ids=["own worker", "stock worker"])
def test_the_second_server_answers_first(pair: tuple[Backend, Backend], command: Any) -> None:
    """The hung attempt is abandoned: its connection is closed and its place is free at once."""
    turns = play(pair, handlers.hang, handlers.answer(200, b"b" * 3_000_000))
    with hedging(pair, **({"command": command} if command else {})) as balancer:
        response = balancer.get("/hedged")
        line = balancer.access_line(target="/hedged")
        assert turns.exchanges[0].connection.closed_by_peer.wait(seconds(2))
        check_places(balancer)

    assert (response.status, response.body) == (200, b"b" * 3_000_000)
    first, second = line["attempts"]
    assert (first["status"], first["reason"]) == (None, "abandoned")
    assert (second["status"], second["reason"]) == (200, "hedged")
    assert first["server"] != second["server"] == line["backend"]
    assert (line["status"], line["reason"]) == (200, None)
    assert line["first_byte_ms"] == second["first_byte_ms"] < line["duration_ms"]


def test_the_first_server_answers_after_all(pair: tuple[Backend, Backend]) -> None:
    """Then the second attempt is abandoned, and its place is free."""
    hedged = threading.Event()

    def second(exchange: Exchange) -> None:
        hedged.set()
        handlers.hang(exchange)

    turns = play(pair, after(hedged, handlers.answer(200, b"first")), second)
    with hedging(pair) as balancer:
        response = balancer.get("/late")
        line = balancer.access_line(target="/late")
        assert turns.exchanges[1].connection.closed_by_peer.wait(seconds(2))
        check_places(balancer)

    assert response.body == b"first"
    assert [attempt["reason"] for attempt in line["attempts"]] == [None, "abandoned"]
    assert line["backend"] == line["attempts"][0]["server"]


@pytest.mark.parametrize("status", [200, 503], ids=["won", "kept"])
def test_the_second_servers_body_is_bounded_by_the_read_timeout(
    pair: tuple[Backend, Backend], status: int
) -> None:
    """Whoever falls silent in it is cut off, as the first would be."""
    head = b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nbegin" % status

    def silent(exchange: Exchange) -> None:
        exchange.send(head)
        exchange.wait_for_peer()

    def first(exchange: Exchange) -> None:
        threading.Event().wait(seconds(0.3))
        exchange.reset()

    play(pair, first, silent)
    with hedging(pair, timeouts={"read": seconds(1)}) as balancer:
        with pytest.raises(Truncated):
            balancer.get("/silent")
        line = balancer.access_line(target="/silent")

    assert (line["status"], line["reason"]) == (status, "read_timeout")


def test_a_quick_answer_is_not_hedged(pair: tuple[Backend, Backend]) -> None:
    """Nothing is sent twice."""
    turns = play(pair)
    with hedging(pair, after=seconds(2)) as balancer:
        assert [balancer.get("/quick").status for _ in range(10)] == [200] * 10
    assert len(turns.met) == 10


@pytest.mark.parametrize(
    ("method", "body"), [("POST", None), ("PUT", b"body")], ids=["POST", "PUT with a body"]
)
def test_what_is_not_hedged(pair: tuple[Backend, Backend], method: str, body: bytes | None) -> None:
    """What may not be repeated, and what has a body."""
    turns = play(pair, handlers.hang)
    with hedging(pair, timeouts={"read": seconds(0.5)}, retries={"attempts": 2}) as balancer:
        with balancer.connect() as client:
            status = client.request(method, "/once", body=body).status
        line = balancer.access_line(target="/once")

    assert all(attempt["reason"] not in ("hedged", "abandoned") for attempt in line["attempts"])
    assert status == (504 if method == "POST" else 200)
    assert len(turns.met) == (1 if method == "POST" else 2)


def test_the_first_fails_while_the_second_is_on_its_way(pair: tuple[Backend, Backend]) -> None:
    """The second is waited for: its answer is the client's."""
    hedged, failed = threading.Event(), threading.Event()

    def first(exchange: Exchange) -> None:
        hedged.wait(seconds(10))
        break_off(exchange)
        failed.set()

    def second(exchange: Exchange) -> None:
        hedged.set()
        failed.wait(seconds(10))
        handlers.ok(exchange)

    play(pair, first, second)
    with hedging(pair) as balancer:
        assert balancer.get("/both").status == 200
        line = balancer.access_line(target="/both")
        check_places(balancer)

    reasons = [attempt["reason"] for attempt in line["attempts"]]
    assert reasons == ["reset_before_head", "hedged"]


def test_the_second_fails_while_the_first_is_waited_for(pair: tuple[Backend, Backend]) -> None:
    """The first goes on alone; no third attempt is made."""
    failed = threading.Event()

    def second(exchange: Exchange) -> None:
        break_off(exchange)
        failed.set()

    turns = play(pair, after(failed, handlers.ok), second)
    with hedging(pair) as balancer:
        assert balancer.get("/first").status == 200
        line = balancer.access_line(target="/first")
        check_places(balancer)

    reasons = [attempt["reason"] for attempt in line["attempts"]]
    assert reasons == [None, "reset_before_head"]
    assert [exchange.request.target for exchange in turns.exchanges].count("/first") == 2


def test_both_fail(pair: tuple[Backend, Backend]) -> None:
    """The client gets one of the failures, and each has its own reason."""
    hedged, failed = threading.Event(), threading.Event()

    def first(exchange: Exchange) -> None:
        hedged.wait(seconds(10))
        break_off(exchange)
        failed.set()

    def second(exchange: Exchange) -> None:
        hedged.set()
        failed.wait(seconds(10))
        handlers.raw(b"rubbish\r\n\r\n")(exchange)

    play(pair, first, second)
    with hedging(pair) as balancer:
        response = balancer.get("/none")
        line = balancer.access_line(target="/none")
        check_places(balancer)

    assert response.status == 502
    reasons = sorted(attempt["reason"] for attempt in line["attempts"])
    assert reasons == ["bad_response", "reset_before_head"]
    assert line["reason"] in reasons


def test_a_failure_does_not_win_against_a_server_that_may_still_answer(
    pair: tuple[Backend, Backend],
) -> None:
    """A 503 of the second is kept; the first answers, and that is the client's."""
    answered = threading.Event()

    def second(exchange: Exchange) -> None:
        handlers.answer(503, b"no")(exchange)
        # By then it has been read; nothing shows when.
        threading.Timer(seconds(0.3), answered.set).start()

    play(pair, after(answered, handlers.ok), second)
    with hedging(pair) as balancer:
        assert balancer.get("/kept").status == 200
        line = balancer.access_line(target="/kept")
        check_places(balancer)

    assert [attempt["status"] for attempt in line["attempts"]] == [200, 503]


def test_a_kept_answer_is_the_clients_if_the_other_fails(pair: tuple[Backend, Backend]) -> None:
    """The 503 of the second, all of it, when the first breaks off."""
    answered = threading.Event()

    def second(exchange: Exchange) -> None:
        handlers.answer(503, b"n" * 1_000_000)(exchange)

    def first(exchange: Exchange) -> None:
        answered.wait(seconds(10))
        exchange.reset()

    turns = play(pair, first, second)
    with hedging(pair) as balancer, balancer.connect() as client:
        client.send_head("GET", "/kept")
        wait_until(lambda: len(turns.met) == 2)
        threading.Timer(seconds(0.3), answered.set).start()
        response = client.read_response()
        line = balancer.access_line(target="/kept")
        check_places(balancer)

    assert (response.status, response.body) == (503, b"n" * 1_000_000)
    assert line["backend"] == line["attempts"][1]["server"]


def test_a_failure_of_the_first_waits_for_the_second(pair: tuple[Backend, Backend]) -> None:
    """A 500 is not passed on while the other server may do better."""
    hedged, failed = threading.Event(), threading.Event()

    def first(exchange: Exchange) -> None:
        hedged.wait(seconds(10))
        handlers.answer(500, b"no")(exchange)
        failed.set()

    def second(exchange: Exchange) -> None:
        hedged.set()
        failed.wait(seconds(10))
        handlers.ok(exchange)

    play(pair, first, second)
    with hedging(pair) as balancer:
        assert balancer.get("/better").status == 200
        line = balancer.access_line(target="/better")
        check_places(balancer)

    assert [attempt["status"] for attempt in line["attempts"]] == [500, 200]


def test_a_client_that_leaves_ends_both(pair: tuple[Backend, Backend]) -> None:
    """Both connections are closed, both places are free."""
    turns = play(pair, handlers.hang, handlers.hang)
    with hedging(pair) as balancer:
        with balancer.connect() as client:
            client.send_head("GET", "/gone")
            wait_until(lambda: len(turns.met) == 2)
        for exchange in turns.exchanges:
            assert exchange.connection.closed_by_peer.wait(seconds(5))
        line = balancer.access_line(target="/gone")
        check_places(balancer)

    assert line["status"] == 499
    assert [attempt["reason"] for attempt in line["attempts"]] == ["client_gone", "abandoned"]


def test_hedges_are_charged_to_the_budget(pair: tuple[Backend, Backend]) -> None:
    """When it is used up, slow servers are waited for like without hedging."""

    def slow(exchange: Exchange) -> None:
        threading.Event().wait(seconds(0.5))
        handlers.ok(exchange)

    play(pair, *[slow] * 100)
    budget = {"budget": 0, "min_per_second": 0.5}
    with hedging(pair, after=0.01, retries=budget) as balancer:
        assert {balancer.get("/slow").status for _ in range(7)} == {200}
        lines = balancer.wait_for_access(7, target="/slow")

    assert sum(len(line["attempts"]) - 1 for line in lines) == 5


def test_a_percentile_of_the_latest_answers(pair: tuple[Backend, Backend]) -> None:
    """Known after some answers: then a request is hedged that takes longer than nearly all of them."""

    def late(exchange: Exchange) -> None:
        threading.Event().wait(0.05)
        handlers.ok(exchange)

    # A twelfth of them, so that the percentile is longer than a busy machine takes to hand a request on.
    turns = play(pair, *(late if number % 8 == 0 else handlers.ok for number in range(40)))
    with hedging(pair, after="p95", retries={"min_per_second": 100}) as balancer:
        with balancer.connect() as client:
            for _ in range(60):
                client.get("/warm")
            turns._left += [handlers.hang]
            threading.Event().wait(0.3)  # the tick that looks at them
            assert client.get("/slow").status == 200
        line = balancer.access_line(target="/slow")

    assert [attempt["reason"] for attempt in line["attempts"]] == ["abandoned", "hedged"]
