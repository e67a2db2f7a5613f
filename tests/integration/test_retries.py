"""Retries: what is sent again and to whom, whose answer the client gets, and when it is the end."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import (
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    handlers,
    seconds,
    wait_until,
)

Handler = Callable[[Exchange], None]

BODY = bytes(range(256)) * 160
"""40 KiB: below ``retries.buffer``, above what comes along with the head."""


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[Backend, Backend]]:
    """Two servers; what each does is up to the test."""
    with Backend() as one, Backend() as other:
        yield one, other


def in_front_of(*backends: Backend | dict[str, Any], **settings: Any) -> Balancer:
    """A balancer that sets nobody aside: each test decides who is asked."""
    return Balancer(backends, **{"outlier_detection": False, **settings})


def first_then(first: Handler, then: Handler = handlers.echo) -> Handler:
    """The first request anywhere, then all others."""
    seen = threading.Lock()

    def handler(exchange: Exchange) -> None:
        (first if seen.acquire(blocking=False) else then)(exchange)

    return handler


def script(pair: tuple[Backend, ...], handler: Handler) -> None:
    """All of them do the same, so that it does not matter who is asked first."""
    for backend in pair:
        backend.handler = handler


def after_body(end: Handler) -> Handler:
    """Take the whole request, then end like that."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        end(exchange)

    return handler


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_answer_that_is_refused_is_not_asked_for_again(
    pair: tuple[Backend, Backend], method: str
) -> None:
    """A length that is none: the request was carried out once, and is not a second time elsewhere."""
    script(pair, handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        response = client.request(method, "/once")
        line = balancer.access_line(target="/once")

    assert (response.status, response.json()["reason"]) == (502, "bad_response")
    assert [attempt["reason"] for attempt in line["attempts"]] == ["bad_response"]
    assert line["attempts"][0]["not_retried"] == "bad_response"
    assert sum(len(backend.requests) for backend in pair) == 1


def checksum(body: bytes) -> bytes:
    """What ``handlers.echo`` answers."""
    return hashlib.sha256(body).hexdigest().encode()


def test_a_listed_status_makes_another_server_be_asked() -> None:
    """A GET that meets a 500 is answered by the other server; a POST keeps its 500."""
    broken = Backend(handlers.answer(500, b"x" * 100_000))
    broken.probe = handlers.ok
    with broken, Backend() as good, in_front_of(broken, good) as balancer:
        with balancer.connect() as client:
            read = [client.get(f"/{number}").status for number in range(10)]
            written = [client.request("POST", "/once", body=b"x").status for _ in range(10)]
        lines = balancer.wait_for_access(10, method="GET")

    assert read == [200] * 10
    assert sorted(set(written)) == [200, 500]
    assert max(len(line["attempts"]) for line in lines) == 2
    assert {attempt["status"] for line in lines for attempt in line["attempts"]} == {200, 500}


def test_the_answer_that_there_was_is_not_lost(pair: tuple[Backend, Backend]) -> None:
    """The other server fails too: the client gets the whole first answer, larger than any buffer."""
    script(pair, first_then(handlers.answer(503, b"s" * 3_000_000), handlers.reset))
    with in_front_of(*pair) as balancer:
        response = balancer.get("/kept")
        line = balancer.access_line(target="/kept")

    assert (response.status, response.body) == (503, b"s" * 3_000_000)
    assert [attempt["status"] for attempt in line["attempts"]] == [503, None]
    assert line["attempts"][1]["reason"] == "reset_before_head"
    assert line["backend"] == line["attempts"][0]["server"]
    assert (line["status"], line["reason"]) == (503, None)


@pytest.mark.parametrize("command", [None, STOCK_WORKER], ids=["own worker", "stock worker"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_body_is_sent_again(
    pair: tuple[Backend, Backend], command: Any, is_chunked: bool
) -> None:
    """A server that resets after it has read all of it: the other one gets the same bytes."""
    script(pair, first_then(after_body(handlers.reset)))
    more = {"command": command} if command else {}
    with in_front_of(*pair, **more) as balancer, balancer.connect() as client:
        if is_chunked:
            client.send_head("PUT", "/again", [("Transfer-Encoding", "chunked")])
            client.send_chunked(BODY[at : at + 1000] for at in range(0, len(BODY), 1000))
            response = client.read_response("PUT")
        else:
            response = client.request("PUT", "/again", body=BODY)
        line = balancer.access_line(target="/again")

    assert (response.status, response.body) == (200, checksum(BODY))
    assert len(line["attempts"]) == 2
    assert line["bytes_in"] == len(BODY)


def test_a_body_that_is_still_coming_goes_on_at_the_other_server(
    pair: tuple[Backend, Backend],
) -> None:
    """The first server fails in its middle: the part that was sent is sent again, then the rest."""
    met = threading.Event()

    def fail(exchange: Exchange) -> None:
        next(exchange.body())
        exchange.reset()
        met.set()

    script(pair, first_then(fail))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head("PUT", "/rest", [("Content-Length", str(len(BODY)))])
        client.send(BODY[:10_000])
        assert met.wait(seconds(5))
        wait_until(lambda: all(backend.requests for backend in pair))
        client.send(BODY[10_000:])
        response = client.read_response("PUT")

    assert (response.status, response.body) == (200, checksum(BODY))


def test_an_early_answer_ends_the_first_servers_part_in_the_body(
    pair: tuple[Backend, Backend],
) -> None:
    """It is held, unread, while the rest of the body goes to the other server, and only there."""
    met = threading.Event()

    def refuse(exchange: Exchange) -> None:
        next(exchange.body())
        exchange.send(b"HTTP/1.1 503 No\r\nContent-Length: 9000000\r\n\r\nbegin")
        met.set()
        exchange.wait_for_peer()

    script(pair, first_then(refuse))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head("PUT", "/early", [("Content-Length", str(len(BODY)))])
        client.send(BODY[:10_000])
        assert met.wait(seconds(5))
        wait_until(lambda: all(backend.requests for backend in pair))
        client.send(BODY[10_000:])
        response = client.read_response("PUT")

    assert (response.status, response.body) == (200, checksum(BODY))


def test_trailers_come_with_a_body_that_is_sent_again(pair: tuple[Backend, Backend]) -> None:
    """Behind the last chunk, as the first time."""
    seen: list[bytes] = []

    def record(exchange: Exchange) -> None:
        data = exchange.connection.unread
        while not data.endswith(b"\r\nX-Sum: 5\r\n\r\n"):
            data += exchange.connection.socket.recv(65536)
        seen.append(data)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        exchange.keep = False

    script(pair, first_then(after_body(handlers.reset), record))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head("PUT", "/t", [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")])
        wait_until(lambda: any(backend.requests for backend in pair))
        client.send(b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")
        assert client.read_response("PUT").status == 200

    assert seen == [b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"]


def test_an_expectation_is_not_repeated(pair: tuple[Backend, Backend]) -> None:
    """The client was told once to go on; the second server gets the body at once, without one."""

    def ask(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.read_body()
        exchange.reset()

    script(pair, first_then(ask))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head(
            "PUT", "/e", [("Content-Length", str(len(BODY))), ("Expect", "100-continue")]
        )
        assert client.read_head().status == 100
        client.send(BODY)
        response = client.read_response("PUT")

    assert (response.status, response.body, response.interim) == (200, checksum(BODY), [])
    asked = [request.get("expect") for backend in pair for request in backend.requests]
    assert sorted(asked, key=str) == ["100-continue", None]


def test_an_expectation_is_not_repeated_in_the_middle_of_a_body(
    pair: tuple[Backend, Backend],
) -> None:
    """The client has begun to send: the second server is not asked whether it wants the body."""

    def ask(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        next(exchange.body())
        exchange.reset()

    script(pair, first_then(ask))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head(
            "PUT", "/e", [("Content-Length", str(len(BODY))), ("Expect", "100-continue")]
        )
        assert client.read_head().status == 100
        client.send(BODY[:10_000])
        wait_until(lambda: all(backend.requests for backend in pair))
        client.send(BODY[10_000:])
        assert client.read_response("PUT").body == checksum(BODY)

    asked = [request.get("expect") for backend in pair for request in backend.requests]
    assert sorted(asked, key=str) == ["100-continue", None]


def test_a_refused_expectation_costs_no_body(pair: tuple[Backend, Backend]) -> None:
    """503 instead of 100: the other server is asked, and the body is read only for that one."""

    def refuse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        exchange.keep = False

    def ask(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        handlers.echo(exchange)

    large = b"l" * 300_000  # more than is ever kept
    script(pair, first_then(refuse, ask))
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        client.send_head(
            "PUT", "/e", [("Content-Length", str(len(large))), ("Expect", "100-continue")]
        )
        assert client.read_head().status == 100
        client.send(large)
        response = client.read_response("PUT")

    assert (response.status, response.body) == (200, checksum(large))


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_body_beyond_the_buffer_is_sent_once(
    pair: tuple[Backend, Backend], is_chunked: bool
) -> None:
    """The failure is the client's, and the line says why."""
    script(pair, after_body(handlers.reset))
    with (
        in_front_of(*pair, retries={"buffer": len(BODY) - 1}) as balancer,
        balancer.connect() as client,
    ):
        if is_chunked:
            client.send_head("PUT", "/long", [("Transfer-Encoding", "chunked")])
            wait_until(lambda: any(backend.requests for backend in pair))
            client.send_chunked([BODY[:30_000], BODY[30_000:]])
            response = client.read_response("PUT")
        else:
            response = client.request("PUT", "/long", body=BODY)
        line = balancer.access_line(target="/long")

    assert response.status == 502
    assert [attempt["not_retried"] for attempt in line["attempts"]] == ["body_gone"]


def test_a_kept_body_that_the_next_server_does_not_take_is_a_timeout(
    pair: tuple[Backend, Backend],
) -> None:
    """After ``timeouts.read``, though all of it is here and is sent in one go."""
    first, second = pair
    first.handler = handlers.answer(503)
    body = b"x" * (16 << 20)  # more than any socket's buffers hold
    with (
        in_front_of(
            *pair,
            algorithm="first",
            timeouts={"read": seconds(1)},
            retries={"buffer": len(body), "statuses": [503]},
        ) as balancer,
        balancer.connect() as client,
    ):
        second.handler = lambda exchange: time.sleep(seconds(3)) or exchange.reset()
        response = client.request("PUT", "/kept", body=body)
        line = balancer.access_line(target="/kept")

    assert response.status == 503  # the answer in hand
    assert [attempt["reason"] for attempt in line["attempts"]] == [None, "response_timeout"]


def test_a_post_is_repeated_if_its_client_says_it_may(pair: tuple[Backend, Backend]) -> None:
    """With Idempotency-Key; without it the line says why it was not."""
    with in_front_of(*pair) as balancer, balancer.connect() as client:
        script(pair, first_then(after_body(handlers.reset)))
        plain = client.request("POST", "/plain", body=BODY)
        script(pair, first_then(after_body(handlers.reset)))
        keyed = client.request("POST", "/keyed", [("Idempotency-Key", "7")], body=BODY)
        line = balancer.access_line(target="/plain")

    assert (plain.status, keyed.status, keyed.body) == (502, 200, checksum(BODY))
    assert line["attempts"][0]["not_retried"] == "not_repeatable"


def test_the_only_server_is_asked_again_after_a_moment() -> None:
    """There is no other: within the attempts it gets a second chance."""
    with (
        Backend(first_then(handlers.reset, handlers.ok)) as backend,
        in_front_of(backend) as balancer,
    ):
        started = time.monotonic()
        assert balancer.get("/again").status == 200
        assert time.monotonic() - started >= 0.0125
        line = balancer.access_line(target="/again")

    assert [attempt["reason"] for attempt in line["attempts"]] == ["reset_before_head", None]


def test_an_attempt_has_its_own_time(pair: tuple[Backend, Backend]) -> None:
    """A server that hangs costs per_try_timeout, not timeouts.read; the last attempt has that."""

    def late(exchange: Exchange) -> None:
        time.sleep(seconds(0.6))
        handlers.ok(exchange)

    script(pair, first_then(handlers.hang, late))
    with in_front_of(*pair, retries={"per_try_timeout": seconds(0.3)}) as balancer:
        response = balancer.get("/slow")
        line = balancer.access_line(target="/slow")

    assert response.status == 200
    first, second = line["attempts"]
    assert first["reason"] == "response_timeout"
    assert second["first_byte_ms"] > seconds(0.5) * 1000


def test_the_time_for_one_try_fails_nobody_whom_the_budget_denies_another(
    pair: tuple[Backend, Backend],
) -> None:
    """All servers take longer than it: whoever cannot be sent elsewhere is answered all the same."""

    def late(exchange: Exchange) -> None:
        time.sleep(seconds(0.6))
        handlers.ok(exchange)

    script(pair, late)
    retries = {"per_try_timeout": seconds(0.2), "budget": 0, "min_per_second": 0}
    with in_front_of(*pair, retries=retries) as balancer:
        assert [balancer.get("/late").status for _ in range(2)] == [200, 200]
        lines = balancer.wait_for_access(2, target="/late")

    assert [len(line["attempts"]) for line in lines] == [1, 1]


def test_a_retry_waits_for_a_place_no_longer_than_the_total(pair: tuple[Backend, Backend]) -> None:
    """One server fails late, the other one is full: the failure is told when the time is over."""
    total, has_begun, gate = seconds(1.5), threading.Event(), threading.Event()

    def fail_late(exchange: Exchange) -> None:
        has_begun.set()
        time.sleep(0.7 * total)
        handlers.reset(exchange)

    script(pair, first_then(fail_late, handlers.gated(gate)))
    servers = [{"url": backend.url, "max_connections": 1} for backend in pair]
    settings = {"timeouts": {"total": total}, "queue": {"timeout": 10 * total}}
    with in_front_of(*servers, **settings) as balancer, balancer.connect() as client:
        client.send_head("GET", "/waits")
        assert has_begun.wait(seconds(5))
        time.sleep(0.5 * total)
        with balancer.connect() as holder:  # it has its place for the whole of its own time
            holder.send_head("GET", "/holds")
            assert client.read_response().status == 502
            line = balancer.access_line(target="/waits")
            assert holder.read_response().status == 504
        gate.set()

    assert [attempt["not_retried"] for attempt in line["attempts"]] == ["out_of_time"]
    assert line["duration_ms"] < 1.4 * total * 1000


@pytest.mark.parametrize("workers", [1, 3])
def test_retries_are_no_storm(workers: int) -> None:
    """All servers fail: all workers together make no more retries than the budget has."""
    with Backend(handlers.reset, bind="0.0.0.0") as backend:
        settings = {"retries": {"budget": 0, "min_per_second": 2}, "outlier_detection": False}
        with Balancer(backend.urls(4), workers=workers, **settings) as balancer:
            started = time.monotonic()
            for _ in range(100):  # a connection each: all workers take part
                assert balancer.get("/storm").status == 502
            windows = (time.monotonic() - started) / 10
            lines = balancer.wait_for_access(100, target="/storm")

    retries = sum(len(line["attempts"]) - 1 for line in lines)
    assert 20 <= retries <= 20 * (1 + windows)
    why_not = {line["attempts"][-1]["not_retried"] for line in lines}
    assert why_not == {"attempts_used", "over_budget"}


def test_a_worker_killed_between_two_attempts_leaves_nothing(
    pair: tuple[Backend, Backend],
) -> None:
    """An answer is held, the other server has the request: both have their one place free again."""
    long = handlers.raw(b"HTTP/1.1 503 No\r\nContent-Length: 9000000\r\n\r\nbegin", keep=True)
    hold = threading.Event()

    def begin(exchange: Exchange) -> None:
        long(exchange)
        hold.wait(seconds(10))
        exchange.keep = False

    script(pair, first_then(begin, handlers.hang))
    servers = [{"url": backend.url, "max_connections": 1} for backend in pair]
    with Balancer(servers, outlier_detection=False) as balancer, balancer.connect() as client:
        client.send_head("GET", "/killed")
        wait_until(lambda: all(backend.requests for backend in pair))
        with balancer.connect() as second:
            assert second.get("/full").status == 503  # both are full: one holds, one waits
        old = balancer.worker_pids()
        for pid in old:
            balancer.signal(signal.SIGKILL, pid)
        balancer.wait_for_workers(gone=old)
        hold.set()
        script(pair, handlers.ok)
        assert [balancer.get("/after").status for _ in range(6)] == [200] * 6
