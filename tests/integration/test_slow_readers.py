"""Clients that do not take their answers, or go in the middle of them: they cost nobody else anything."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    Truncated,
    handlers,
    seconds,
    wait_until,
)

AUTHORITY = trustme.CA()
# Together more than any socket's buffers hold.
ANSWER = b"a" * 8000
MANY = 2500


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ``tls`` of config.json."""
    folder: Path = tmp_path_factory.mktemp("tls")
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key")
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(folder / "crt", append=True)
    return {"certificate": str(folder / "crt"), "key": str(folder / "key"), "http2": False}


@pytest.fixture(name="tls", params=[False, True], ids=["plain", "tls"])
def _tls(request: pytest.FixtureRequest, files: dict[str, Any]) -> dict[str, Any]:
    """Settings: without TLS in front, and with it."""
    return {"tls": files} if request.param else {}


@pytest.fixture(name="backend")
def _backend() -> Iterator[Backend]:
    with Backend(handlers.answer(200, ANSWER)) as backend:
        yield backend


def connect(balancer: Balancer) -> Client:
    """A client with small buffers, over TLS where the balancer speaks it."""
    client = Client(balancer.address, receive_buffer=4096)
    if "tls" in balancer.config:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(context)
        client.socket = context.wrap_socket(
            client.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )
    return client


def reset(client: Client) -> None:
    """Go without a word."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def pipeline(client: Client, count: int = MANY) -> threading.Thread:
    """Send so many requests, in a thread, for the balancer stops reading them; nothing is read."""

    def send() -> None:
        try:
            client.send(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"p" * 200) * count)
        except OSError:
            pass

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def settled(balancer: Balancer) -> int:
    """How many requests have been answered once no more are."""
    seen = [-1, -2]

    def is_still() -> bool:
        seen.append(len(balancer.access_lines()))
        return 0 < seen[-1] == seen[-2] == seen[-3]

    wait_until(is_still, PATIENT, "no more answers", poll=0.2)
    return seen[-1]


def is_told_of_all(balancer: Balancer, backend: Backend) -> bool:
    """Whether each request that reached the backend has a line, and each line another request."""
    lines = balancer.access_lines()
    forwarded = [line for line in lines if line["backend"] is not None]
    is_unique = len({line["request_id"] for line in lines}) == len(lines)
    return is_unique and len(forwarded) == len(backend.requests)


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_who_never_reads_keeps_no_place_at_a_server(
    tls: dict[str, Any], backend: Backend, command: tuple[str, ...]
) -> None:
    """As many such clients as the server has places; whoever comes next is served at once."""
    server = {"url": backend.url, "max_connections": 2}
    with (
        Balancer([server], command=command, queue={"timeout": 1}, **tls) as balancer,
        ExitStack() as stack,
    ):
        readers = [stack.enter_context(connect(balancer)) for _ in range(3)]
        threads = [pipeline(client) for client in readers]
        answered = settled(balancer)
        assert answered < 3 * MANY
        for _ in range(3):
            with connect(balancer) as client:
                assert client.get("/").status == 200
        for client in readers:
            reset(client)
        for thread in threads:
            thread.join(PATIENT)
        wait_until(lambda: is_told_of_all(balancer, backend), PATIENT, "one line for each request")
        with connect(balancer) as client:
            assert client.get("/").status == 200


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
@pytest.mark.parametrize(
    "body", [handlers.stream, handlers.stream_chunked], ids=["length", "chunks"]
)
def test_who_reads_slowly_is_waited_for(
    tls: dict[str, Any],
    backend: Backend,
    command: tuple[str, ...],
    body: Callable[[int], Callable[[Exchange], None]],
) -> None:
    """``timeouts.client`` is silence: 40 KiB a second are taken long before a buffer has room again."""
    backend.handler = body(64 << 20)
    with (
        Balancer([backend], command=command, timeouts={"client": seconds(1)}, **tls) as balancer,
        connect(balancer) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(40):
            time.sleep(seconds(0.1))
            assert client.socket.recv(4096)
        assert not balancer.access_lines()
        line = balancer.log.wait_for(1, "access", timeout=PATIENT)[0]
        assert line["reason"] == "client_timeout", "and then it is silent"


def test_who_never_reads_is_given_up(tls: dict[str, Any], backend: Backend) -> None:
    """After ``timeouts.client``; the request that was not begun for it has its line too."""
    with (
        Balancer([backend], timeouts={"client": seconds(1)}, **tls) as balancer,
        connect(balancer) as client,
    ):
        pipeline(client)
        line = balancer.log.wait_for(1, "access", timeout=PATIENT, reason="client_timeout")[0]
        assert (line["status"], line["method"]) == (499, "GET")
        wait_until(lambda: is_told_of_all(balancer, backend), PATIENT, "one line for each request")


def test_who_reads_late_misses_nothing(tls: dict[str, Any], backend: Backend) -> None:
    """Every answer comes, in order and whole."""

    def number(exchange: Exchange) -> None:
        exchange.reply(body=exchange.request.target.encode() + ANSWER)

    backend.handler = number
    with Balancer([backend], **tls) as balancer, connect(balancer) as client:

        def send() -> None:
            for index in range(MANY):
                client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % index)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        settled(balancer)
        for index in range(MANY):
            assert client.read_response().body == b"/%d" % index + ANSWER
        thread.join(PATIENT)


def test_a_worker_that_goes_cuts_no_answer_that_is_taken_late(
    tls: dict[str, Any], backend: Backend
) -> None:
    """Those that were given are whole; the last one says that it is."""
    with (
        Balancer([backend], graceful_timeout=PATIENT, **tls) as balancer,
        connect(balancer) as client,
    ):
        pipeline(client)
        answered = settled(balancer)
        old = balancer.worker_pids()
        balancer.signal(signal.SIGTERM)
        balancer.log.wait_for(1, where=lambda line: "Handling signal: term" in line["message"])
        count = 0
        while True:
            response = client.read_response()
            assert response.body == ANSWER
            count += 1
            if response.will_close:
                break
        assert count >= answered
        assert balancer.wait_for_exit() == 0
        assert old


def test_who_goes_is_no_longer_counted(tls: dict[str, Any], backend: Backend) -> None:
    """An answer that was on its way when the client aborted leaves nothing behind, or nobody could come."""
    with Balancer([backend], limits={"connections_per_client": 4}, **tls) as balancer:
        for _ in range(40):
            gate = threading.Event()
            backend.handler = handlers.gated(gate, handlers.answer(200, ANSWER))
            backend.clear()
            client = connect(balancer)
            client.send_head("GET", "/gone")
            wait_until(lambda: backend.requests)
            gate.set()
            reset(client)
        backend.handler = handlers.ok
        wait_until(lambda: len(balancer.access_lines(target="/gone")) == 40, PATIENT)
        with connect(balancer) as client:
            assert client.get("/").status == 200


def test_what_is_parked_is_swept_whoever_takes_nothing(
    tls: dict[str, Any], backend: Backend
) -> None:
    """Idle connections end in time, also behind one whose client has not taken its last answers."""
    timeouts = {"keepalive": seconds(2), "client": seconds(4)}
    with Balancer([backend], timeouts=timeouts, **tls) as balancer, ExitStack() as stack:
        for count in range(300, 620, 20):  # some of them fill the buffers just so
            pipeline(stack.enter_context(connect(balancer)), count)
        settled(balancer)
        idle = stack.enter_context(connect(balancer))
        assert idle.get("/").status == 200
        if "tls" in balancer.config:
            assert idle.socket.recv(1) == b""  # close_notify
        else:
            assert idle.is_closed(PATIENT)


def test_who_asks_while_its_last_answer_is_on_its_way_is_answered(
    tls: dict[str, Any], backend: Backend
) -> None:
    """A request that comes after a second in which the client took nothing is seen, inside TLS too."""

    def ask(client: Client, count: int) -> int:
        """One by one, reading nothing; the first that is not begun, as the one before it has not left."""
        backend.clear()
        for number in range(1, count + 1):
            client.send(request)
            try:
                wait_until(lambda number=number: len(backend.requests) >= number, seconds(0.6))
            except AssertionError:
                return number
        return 0

    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    backend.handler = handlers.answer(200, b"a" * 15000)
    with Balancer([backend], **tls) as balancer:
        with connect(balancer) as client:
            number = ask(client, MANY) - 1
        assert number > 0
        with connect(balancer) as client:
            ask(client, number)
            time.sleep(1.6)  # longer than a connection is idle before it is parked
            client.send(request)
            time.sleep(0.4)
            for _ in range(number + 1):
                assert client.read_response().status == 200


def test_who_is_cut_is_no_longer_counted(tls: dict[str, Any], backend: Backend) -> None:
    """At once, also with a request behind the one whose answer could not be finished."""
    backend.handler = handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
    with Balancer([backend], limits={"connections_per_client": 1}, **tls) as balancer:
        with connect(balancer) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
            with pytest.raises((Truncated, OSError)):
                client.read_response()
        cut_at = time.monotonic()
        backend.handler = handlers.ok

        def is_served() -> bool:
            with connect(balancer) as client:
                return bool(client.get("/").status == 200)

        wait_until(is_served, PATIENT)
        assert time.monotonic() - cut_at < 1.5  # LINGER_SECONDS is 2
