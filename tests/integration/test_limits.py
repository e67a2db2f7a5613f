"""What clients may ask for: at each limit they are served, over it refused with its status, and closed."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from harness import (
    GUNICORN,
    PROMPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Response,
    handlers,
    processes,
    seconds,
    wait_until,
)

LINE, COUNT, SIZE, ALL = 300, 8, 260, 700


@pytest.fixture(
    name="limited", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module"
)
def _limited(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    limits = {
        "request_line": LINE,
        "header_count": COUNT,
        "header_size": SIZE,
        "headers_size": ALL,
        "body": 1000,
    }
    with Backend() as backend, Balancer([backend], command=request.param, limits=limits) as it:
        yield it


def is_ours(balancer: Balancer) -> bool:
    """Whether it runs our own worker."""
    return balancer.command == GUNICORN


def answer(balancer: Balancer, head: bytes) -> Response:
    """What one head gets; after a refusal the connection must end."""
    with balancer.connect() as client:
        client.send(head)
        response = client.read_response()
        if response.status != 200:
            assert response.will_close
            assert client.is_closed()
        return response


def head(line: int = 100, fields: tuple[int, ...] = ()) -> bytes:
    """A head with a request line of this size, and fields of these sizes behind its Host."""
    start = b"GET /" + b"a" * (line - 14) + b" HTTP/1.1\r\nHost: a\r\n"
    return (
        start
        + b"".join(b"X-%d: %b\r\n" % (n, b"b" * (s - 7)) for n, s in enumerate(fields))
        + b"\r\n"
    )


@pytest.mark.parametrize(
    ("at", "over", "status"),
    [
        pytest.param(head(LINE), head(LINE + 1), 414, id="request line"),
        pytest.param(head(100, (20,) * (COUNT - 1)), head(100, (20,) * COUNT), 431, id="count"),
        pytest.param(head(100, (SIZE,)), head(100, (SIZE + 1,)), 431, id="one header"),
    ],
)
def test_heads(limited: Balancer, at: bytes, over: bytes, status: int) -> None:
    """At the limit 200, one byte or field more is refused, whichever worker reads it."""
    assert answer(limited, at).status == 200
    refused = answer(limited, over)
    assert refused.status == status if is_ours(limited) else refused.status in (400, status)
    if is_ours(limited):
        assert refused.json()["reason"] == {414: "target_too_long", 431: "head_too_large"}[status]


def test_all_headers_together(limited: Balancer) -> None:
    """Each within its own limit, all together a byte too many."""
    if not is_ours(limited):
        pytest.skip("gunicorn has no such limit")
    rest = ALL - len(b"Host: a\r\n") - 500
    assert answer(limited, head(100, (250, 250, rest))).status == 200
    assert answer(limited, head(100, (250, 250, rest + 1))).status == 431


def test_bodies(limited: Balancer) -> None:
    """A thousand bytes pass, one more does not, in either framing."""
    with limited.connect() as client:
        assert client.request("POST", "/", body=b"x" * 1000).status == 200
    with limited.connect() as client:
        client.send_head("POST", "/", [("Transfer-Encoding", "chunked")])
        client.send_chunked([b"x" * 500] * 2)
        assert client.read_response("POST").status == 200
    with limited.connect() as client:
        client.send_head("POST", "/", [("Content-Length", "1001")])
        response = client.read_response("POST")
        assert (response.status, response.json()["reason"]) == (413, "body_too_large")


def test_requests_per_connection() -> None:
    """The last answer says so and the connection ends; what was pipelined behind it is never read."""
    with (
        Backend() as backend,
        Balancer([backend], limits={"requests_per_connection": 3}) as balancer,
        balancer.connect() as client,
    ):
        assert not client.get("/1").will_close
        client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % 2 * 3)
        assert not client.read_response().will_close
        assert client.read_response().will_close
        assert client.is_closed()
        assert len(backend.requests) == 3
        assert balancer.get("/another-connection").status == 200


def refusal(client: Client) -> tuple[int, str]:
    """What a client is told that was turned away before it asked."""
    response = client.read_response()
    assert response.get("Retry-After") in ("1", "2")
    assert response.will_close
    assert client.is_closed()
    return response.status, response.json()["reason"]


def test_connections_of_a_worker() -> None:
    """Two are served, the third is answered 503 at once; one that ends makes room, idle ones count."""
    with (
        Backend() as backend,
        Balancer([backend], limits={"connections": 2}) as balancer,
        balancer.connect() as first,
    ):
        assert first.get("/").status == 200
        with balancer.connect() as second:
            assert second.get("/").status == 200
            mark, started = balancer.log_mark, time.monotonic()
            with balancer.connect() as third:
                assert refusal(third) == (503, "too_many_connections")
            assert time.monotonic() - started < PROMPT
            assert balancer.access_line(since=mark, status=503)["client_ip"] == "127.0.0.1"
            assert first.get("/").status == 200

        def is_let_in() -> bool:
            with balancer.connect() as client:
                return client.get("/").status == 200

        wait_until(is_let_in, PROMPT)


def test_connections_of_one_client_address() -> None:
    """Two are served, the third gets 429; another address is not affected, a trusted proxy not counted."""
    with (
        Backend() as backend,
        Balancer(
            [backend], limits={"connections_per_client": 2}, trusted_proxies=["127.0.0.9"]
        ) as balancer,
    ):
        first, second = (balancer.connect() for _ in range(2))
        # Parked ones count as well.
        assert [client.get("/").status for client in (first, second)] == [200, 200]
        time.sleep(1.3)
        mark = balancer.log_mark
        with balancer.connect() as third:
            assert refusal(third) == (429, "too_many_connections_of_client")
        assert balancer.access_line(since=mark, status=429)["client_ip"] == "127.0.0.1"
        with Client(balancer.address, source="127.0.0.2") as other:
            assert other.get("/").status == 200
        proxies = [Client(balancer.address, source="127.0.0.9") for _ in range(4)]
        for proxy in proxies:
            assert proxy.get("/").status == 200
            proxy.close()
        second.close()

        def is_let_in() -> bool:
            with balancer.connect() as client:
                return client.get("/").status == 200

        wait_until(is_let_in, PROMPT)
        # Those that were turned away, and those that left, are not counted for ever.
        for _ in range(5):
            wait_until(is_let_in, PROMPT)
        first.close()


def test_the_time_for_a_head_is_its_own() -> None:
    """``timeouts.head`` ends a head that drips, and a client that is silent, long before ``client``."""
    timeouts = {"head": seconds(0.5), "client": seconds(30)}
    with Backend(handlers.ok) as backend, Balancer([backend], timeouts=timeouts) as balancer:
        with balancer.connect() as client:
            started = time.monotonic()
            client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n")
            while not client.has_input() and time.monotonic() - started < seconds(4):
                client.send(b"X")
                time.sleep(0.05)
            response = client.read_response()
            assert (response.status, response.json()["reason"]) == (408, "header_timeout")
            assert client.is_closed()
            assert time.monotonic() - started < seconds(2.5)
        with balancer.connect() as client:
            assert client.is_closed(seconds(2.5))
        with balancer.connect() as client:
            # The time is for the head alone: a body may take longer.
            client.send_head("POST", "/", [("Content-Length", "2")])
            time.sleep(seconds(1))
            client.send(b"ok")
            assert client.read_response("POST").status == 200


@pytest.mark.parametrize("length", [100_000, 1 << 20], ids=["read", "spliced"])
def test_body_rate(length: int) -> None:
    """A body that drips is given up after its grace; a backend that reads slowly is no slow client."""
    with (
        Backend(handlers.echo) as backend,
        Balancer([backend], limits={"body_rate": 1000}) as balancer,
        balancer.connect() as client,
    ):
        mark, started = balancer.log_mark, time.monotonic()
        client.send_head("POST", "/drip", [("Content-Length", str(length))])
        while not client.has_input() and time.monotonic() - started < 15:
            client.send(b"x" * 5)
            time.sleep(0.05)
        response = client.read_response("POST")
        assert (response.status, response.json()["reason"]) == (408, "body_too_slow")
        assert client.is_closed()
        assert time.monotonic() - started >= 4.9
        assert balancer.access_line(since=mark, target="/drip")["reason"] == "body_too_slow"
        with balancer.connect() as fast:
            size = 3 << 20
            assert fast.request("POST", "/fast", body=b"x" * size).status == 200


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b""], ids=["head", "line"])
def test_many_that_drip_hold_nobody_up(start: bytes) -> None:
    """Others are served meanwhile, and at the deadline every one of them is answered 408 and gone."""
    with Backend() as backend, Balancer([backend], timeouts={"head": seconds(2)}) as balancer:
        (worker,) = balancer.worker_pids()
        assert balancer.get("/").status == 200
        before = processes.open_files(worker)
        dripping = [balancer.connect() for _ in range(200)]
        began = time.monotonic()
        try:
            for client in dripping:
                client.send(start)
            while time.monotonic() - began < seconds(1.5):
                for client in dripping:
                    client.send(b"A")
                asked = time.monotonic()
                assert balancer.get("/honest").status == 200
                assert time.monotonic() - asked < PROMPT
            for client in dripping:
                assert client.read_response().status == 408
            assert time.monotonic() - began < seconds(5)
        finally:
            for client in dripping:
                client.close()
        wait_until(lambda: processes.open_files(worker) <= before, seconds(5))


def test_handshakes_that_do_not_come(tmp_path: Path) -> None:
    """They count as connections of the worker, and are over when a head would be."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = {"certificate": str(tmp_path / "crt"), "key": str(tmp_path / "key")}

    def status_of_one_more() -> int:
        with balancer.connect() as plain, context.wrap_socket(plain.socket) as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return int(secure.recv(65536).split()[1])

    with (
        Backend() as backend,
        Balancer(
            [backend], tls=tls, limits={"connections": 2}, timeouts={"head": seconds(2)}
        ) as balancer,
    ):
        silent = [balancer.connect() for _ in range(2)]
        began = time.monotonic()
        wait_until(lambda: status_of_one_more() == 503, PROMPT)
        for client in silent:
            assert client.is_closed(seconds(5))
            client.close()
        assert time.monotonic() - began > seconds(1)
        wait_until(lambda: status_of_one_more() == 200, PROMPT)
