"""Connections on both sides: kept, lost, abandoned, pipelined, too slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from harness import (
    PROMPT,
    Backend,
    Balancer,
    Truncated,
    handlers,
    processes,
    seconds,
    streams,
    wait_until,
)
from harness.backend import Exchange, Handler


@pytest.fixture(scope="module", name="strict_backend")
def _strict_backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="module", name="strict")
def _strict(strict_backend: Backend) -> Iterator[Balancer]:
    """Clients that are slower than half a second are given up."""
    timeouts = {"client": seconds(0.5), "keepalive": seconds(0.5)}
    with Balancer([strict_backend], timeouts=timeouts) as balancer:
        yield balancer


def test_both_sides_are_kept_alive(balancer: Balancer, backend: Backend) -> None:
    """Fifty requests one after another: one connection from the client, one to the backend."""
    with balancer.connect() as client:
        for _ in range(50):
            assert not client.get("/kept").will_close

    assert len({id(request.connection) for request in backend.requests}) == 1


def test_backend_connections_are_shared_by_clients(balancer: Balancer, backend: Backend) -> None:
    """Clients that come and go use the same connection to the backend."""
    for _ in range(20):
        assert balancer.get("/shared").status == 200

    assert len({id(request.connection) for request in backend.requests}) == 1


def test_connection_close_of_the_client_is_obeyed(balancer: Balancer, backend: Backend) -> None:
    """Connection: close, in any case and list, ends the client's connection and not the backend's."""
    for value in ("close", "Close", "foo, CLOSE"):
        with balancer.connect() as client:
            assert client.get("/", [("Connection", value)]).will_close
            assert client.is_closed()
    assert len({id(request.connection) for request in backend.requests}) == 1


def test_connection_close_of_the_backend_is_obeyed(balancer: Balancer, backend: Backend) -> None:
    """A backend's Connection: close ends its connection; the client keeps its own."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, b"bye", [("Connection", "close")])
        exchange.wait_for_peer()

    backend.handler = handler
    with balancer.connect() as client:
        for _ in range(3):
            assert client.get("/").body == b"bye"
    used = {id(request.connection): request.connection for request in backend.requests}
    assert len(used) == 3
    assert all(connection.closed_by_peer.wait(PROMPT) for connection in used.values())


def test_http_1_0_keep_alive(balancer: Balancer, backend: Backend) -> None:
    """A client of HTTP/1.0 that asks for it gets its connection kept."""
    with balancer.connect() as client:
        for _ in range(3):
            response = client.request(
                "GET", "/", [("Connection", "keep-alive")], version="HTTP/1.0"
            )
            assert response.status == 200
            assert not response.will_close


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_backend_that_closes_idle_connections(
    balancer: Balancer, backend: Backend, method: str, by_reset: bool
) -> None:
    """A kept connection that died while idle is never a client's error, with a body or without."""
    backend.handler = handlers.closing_when_idle(0.05, by_reset)
    body = b"precious" if method == "POST" else None
    with balancer.connect() as client:
        for number in range(1, 6):
            assert client.request(method, "/idle", body=body).status == 200
            connection = backend.wait_for_request(number).connection
            assert connection.closed.wait(PROMPT)
    assert len(backend.requests) == 5


def test_idle_connections_that_backends_end_are_let_go(
    balancer: Balancer, backend: Backend
) -> None:
    """The end of a kept connection is noticed when it comes, not when the connection is wanted again."""
    (worker,) = balancer.worker_pids()
    gate = threading.Event()
    backend.handler = handlers.gated(gate)
    clients = [balancer.connect() for _ in range(20)]
    for client in clients:
        client.send_head("GET", "/together")
    backend.wait_for_request(20)
    gate.set()
    for client in clients:
        client.read_response()
    before = processes.open_files(worker)
    backend.hang_up()
    wait_until(lambda: processes.open_files(worker) <= before - 20, seconds(1))
    for client in clients:
        client.close()


def test_backend_that_closes_just_as_the_next_request_comes(
    balancer: Balancer, backend: Backend
) -> None:
    """The race nobody can see coming: a reused connection dies with the request on it; tried again."""
    backend.hang_up()
    backend.clear()
    backend.handler = handlers.answering_once
    with balancer.connect() as client:
        for _ in range(6):
            assert client.get("/race").status == 200


def test_idle_backend_connections_are_closed_before_backends_do() -> None:
    """``timeouts.backend_keepalive``: the balancer ends what it has not used for that long."""
    timeouts = {"backend_keepalive": seconds(0.3)}
    with Backend() as backend, Balancer([backend], timeouts=timeouts) as balancer:
        balancer.get("/")
        connection = backend.wait_for_request().connection
        assert connection.closed_by_peer.wait(seconds(3))
        assert balancer.get("/").status == 200


def test_client_that_leaves_while_the_backend_works(balancer: Balancer, backend: Backend) -> None:
    """Logged as 499, the backend's connection is closed at once, nothing else is disturbed."""
    mark = balancer.log_mark
    backend.handler = handlers.hang
    with balancer.connect() as client:
        client.send_head("GET", "/left")
        request = backend.wait_for_request()
    assert request.connection.closed_by_peer.wait(seconds(2))
    line = balancer.access_line(since=mark, target="/left")
    assert (line["status"], line["reason"]) == (499, "client_gone")
    assert line["backend"] == backend.address
    backend.handler = handlers.ok
    assert balancer.get("/after").status == 200


def test_client_that_leaves_inside_its_upload(balancer: Balancer, backend: Backend) -> None:
    """Half an upload: 499, and the backend sees the connection end, never a complete body."""
    mark = balancer.log_mark
    backend.handler = handlers.echo
    with balancer.connect() as client:
        client.send_head("PUT", "/half", [("Content-Length", "1000")])
        client.send(b"x" * 500)
        request = backend.wait_for_request()
    assert request.connection.closed_by_peer.wait(seconds(2))
    assert not request.is_complete
    assert balancer.access_line(since=mark, target="/half")["status"] == 499


def test_client_that_leaves_inside_a_download(balancer: Balancer, backend: Backend) -> None:
    """The backend's connection is closed when nobody reads any more."""
    mark = balancer.log_mark
    backend.handler = handlers.stream(256 * streams.MIB)
    with balancer.connect() as client:
        client.send_head("GET", "/enough")
        client.read_head()
        client.read_some()
    request = backend.wait_for_request()
    assert request.connection.closed_by_peer.wait(seconds(2))
    line = balancer.access_line(since=mark, target="/enough")
    assert line["reason"] == "client_gone"
    assert line["bytes_out"] < 256 * streams.MIB


def test_clients_that_leave_cost_nothing(balancer: Balancer, backend: Backend) -> None:
    """After a hundred abandoned requests the worker holds no more descriptors than before."""
    (worker,) = balancer.worker_pids()
    assert balancer.get("/").status == 200
    before = processes.open_files(worker)
    backend.handler = handlers.hang
    for _ in range(100):
        with balancer.connect() as client:
            client.send_head("GET", "/abandoned")
    wait_until(lambda: processes.open_files(worker) <= before, seconds(5))
    wait_until(lambda: not any(c.requests for c in backend.open_connections()), seconds(5))


def test_pipelined_requests_are_answered_in_order(balancer: Balancer, backend: Backend) -> None:
    """Requests sent without waiting are answered one by one, in their order, bodies included."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        if exchange.request.target == "/1":
            time.sleep(0.1)
        exchange.reply(body=exchange.request.target.encode() + exchange.request.body)

    backend.handler = handler
    with balancer.connect() as client:
        wire = b""
        for number in range(1, 6):
            wire += b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nb%d" % (
                number,
                number,
            )
            wire += b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
        client.send(wire)
        bodies = []
        for _ in range(5):
            bodies += [client.read_response("POST").text, client.read_response().text]

    assert bodies == [text for n in range(1, 6) for text in (f"/{n}b{n}", f"/{n}")]


def test_unread_request_body_is_not_the_next_request(balancer: Balancer, backend: Backend) -> None:
    """A backend that answers without reading the body: those bytes are not taken for a request."""

    def handler(exchange: Exchange) -> None:
        if exchange.request.target == "/unread":
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            exchange.wait_for_peer()
        else:
            exchange.reply(body=b"smuggled")

    backend.handler = handler
    body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with balancer.connect() as client:
        response = client.request("POST", "/unread", body=body)
        assert response.body == b"ok"
        # If the body had not come in full when the answer went out, the connection ends with it.
        assert client.is_closed() if response.will_close else not client.has_input()
    balancer.get("/after")
    assert [request.target for request in backend.requests] == ["/unread", "/after"]


def test_slow_head(strict: Balancer, strict_backend: Backend) -> None:
    """A head that does not end: 408 after the client limit, however steadily it drips."""
    started = time.monotonic()
    with strict.connect() as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n")
        while not client.has_input() and time.monotonic() - started < seconds(4):
            client.send(b"X-A: b\r\n")
            time.sleep(0.05)
        assert client.read_response().status == 408
        assert client.is_closed()
    assert time.monotonic() - started < seconds(2.5)


def test_slow_body(strict: Balancer, strict_backend: Backend) -> None:
    """A body that stops coming: 408, and the backend's connection is closed."""
    strict_backend.handler = handlers.echo
    strict_backend.clear()
    mark, started = strict.log_mark, time.monotonic()
    with strict.connect() as client:
        client.send_head("POST", "/slow-body", [("Content-Length", "100")])
        client.send(b"x" * 50)
        assert client.read_response("POST").status == 408
        assert client.is_closed()
    assert time.monotonic() - started < seconds(2.5)
    line = strict.access_line(since=mark, target="/slow-body")
    assert (line["status"], line["reason"]) == (408, "client_timeout")
    assert strict_backend.wait_for_request().connection.closed_by_peer.wait(PROMPT)


def test_silent_client(strict: Balancer) -> None:
    """A connection on which nothing is ever said is closed."""
    with strict.connect() as client:
        started = time.monotonic()
        try:
            assert client.read_response().status == 408
        except Truncated:
            pass
        assert time.monotonic() - started < seconds(2.5)


def test_idle_client_connections_are_closed(strict: Balancer, strict_backend: Backend) -> None:
    """``timeouts.keepalive``: a kept connection without a next request is closed, without a 408."""
    strict_backend.handler = handlers.ok
    with strict.connect() as client:
        assert client.get("/").status == 200
        assert client.is_closed(seconds(3))


@pytest.mark.parametrize("make", [handlers.stream, handlers.stream_chunked])
def test_slow_reader_is_given_up(
    strict: Balancer, strict_backend: Backend, make: Callable[[int], Handler]
) -> None:
    """A client that stops reading does not hold its backend for ever."""
    strict_backend.handler = make(64 * streams.MIB)
    strict_backend.clear()
    with strict.connect(receive_buffer=64 * streams.KIB) as client:
        client.send_head("GET", "/stuck")
        request = strict_backend.wait_for_request()
        assert request.connection.closed_by_peer.wait(seconds(5))


def test_long_answer_is_not_a_slow_client(strict: Balancer, strict_backend: Backend) -> None:
    """The limits on clients do not run while the backend is thinking or streaming."""
    gate = threading.Event()
    strict_backend.handler = handlers.gated(gate)
    strict_backend.clear()
    with strict.connect() as client:
        client.send_head("GET", "/thinking")
        strict_backend.wait_for_request()
        assert not gate.wait(seconds(1.5))
        gate.set()
        assert client.read_response().status == 200


def test_many_connections_at_once(balancer: Balancer, backend: Backend) -> None:
    """Three hundred clients of one worker are all answered, while all of them wait together."""
    gate = threading.Event()
    backend.handler = handlers.gated(gate)
    clients = [balancer.connect() for _ in range(300)]
    for client in clients:
        client.send_head("GET", "/together")
    backend.wait_for_request(300)
    gate.set()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
