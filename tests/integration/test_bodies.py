"""Bodies: whole by checksum, streamed as they come, framed once, in flat memory."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from harness import (
    PATIENT,
    Backend,
    Balancer,
    Client,
    handlers,
    processes,
    seconds,
    streams,
    wait_until,
)
from harness.backend import Exchange, Handler
from harness.streams import KIB, MIB

BIG = 48 * MIB
GROWTH = 16 * 1024
"""KiB by which a worker may grow for a body many times that size (allocators keep some)."""


def upload(client: Client, size: int, is_chunked: bool) -> str:
    """PUT the stream of that size; the checksum that the backend saw."""
    if is_chunked:
        client.send_head("PUT", "/up", [("Transfer-Encoding", "chunked")])
        client.send_chunked(streams.blocks(size))
    else:
        client.send_head("PUT", "/up", [("Content-Length", str(size))])
        for block in streams.blocks(size):
            client.send(block)
    response = client.read_response("PUT")
    assert response.status == 200
    return response.text


def download(client: Client) -> str:
    """GET; the checksum of what came."""
    digest = hashlib.sha256()
    client.send_head("GET", "/down")
    assert client.read_response(sink=digest.update).status == 200
    return digest.hexdigest()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_big_upload(balancer: Balancer, backend: Backend, is_chunked: bool) -> None:
    """Tens of MiB up arrive whole, and the worker does not hold them."""
    backend.handler = handlers.echo
    (worker,) = balancer.worker_pids()
    with balancer.connect() as client:
        assert upload(client, 4 * MIB, is_chunked) == streams.checksum(4 * MIB)
        before = processes.memory_kib(worker, "VmHWM")
        assert upload(client, BIG, is_chunked) == streams.checksum(BIG)

    assert processes.memory_kib(worker, "VmHWM") - before < GROWTH


@pytest.mark.parametrize(
    "make",
    [handlers.stream, handlers.stream_chunked, handlers.stream_until_close],
    ids=["length", "chunked", "until-close"],
)
def test_big_download(balancer: Balancer, backend: Backend, make: object) -> None:
    """Tens of MiB down arrive whole, and the worker does not hold them."""
    assert callable(make)
    (worker,) = balancer.worker_pids()
    backend.handler = make(4 * MIB)
    with balancer.connect() as client:
        assert download(client) == streams.checksum(4 * MIB)
    before = processes.memory_kib(worker, "VmHWM")
    backend.handler = make(BIG)
    with balancer.connect() as client:
        assert download(client) == streams.checksum(BIG)

    assert processes.memory_kib(worker, "VmHWM") - before < GROWTH
    balancer.wait_for_access(target="/down", where=lambda line: line["bytes_out"] >= BIG)


def test_slow_reader_is_not_buffered_for(balancer: Balancer, backend: Backend) -> None:
    """A client that does not read stops the backend's sending; later it still gets every byte."""
    sent: list[int] = []

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for block in streams.blocks(BIG):
            exchange.send(block)
            sent.append(len(block))

    def has_stalled() -> bool:
        before = len(sent)
        return before > 0 and not threading.Event().wait(seconds(0.3)) and len(sent) == before

    backend.handler = handler
    (worker,) = balancer.worker_pids()
    before = processes.memory_kib(worker, "VmHWM")
    with balancer.connect(receive_buffer=64 * KIB) as client:
        client.send_head("GET", "/slow")
        wait_until(has_stalled, PATIENT)
        assert sum(sent) < BIG // 2
        assert processes.memory_kib(worker, "VmHWM") - before < GROWTH
        digest = hashlib.sha256()
        client.read_response(sink=digest.update)

    assert digest.hexdigest() == streams.checksum(BIG)


def test_slow_backend_holds_up_the_upload(balancer: Balancer, backend: Backend) -> None:
    """A backend that does not read stops the client's sending; the worker holds little."""
    gate = threading.Event()

    def handler(exchange: Exchange) -> None:
        gate.wait(PATIENT)
        handlers.echo(exchange)

    backend.handler = handler
    (worker,) = balancer.worker_pids()
    before = processes.memory_kib(worker, "VmHWM")
    with balancer.connect() as client:
        client.send_head("PUT", "/up", [("Content-Length", str(BIG))])
        sent = threading.Event()
        sizes: list[int] = []

        def send() -> None:
            for block in streams.blocks(BIG):
                client.send(block)
                sizes.append(len(block))
            sent.set()

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        backend.wait_for_request()
        assert not sent.wait(seconds(0.7))
        assert processes.memory_kib(worker, "VmHWM") - before < GROWTH
        gate.set()
        thread.join(PATIENT)
        assert client.read_response("PUT").text == streams.checksum(BIG)


SIZES = [0, 1, 8191, 8192, 8193, 65535, 65536, 65537, 300_001]


def test_every_size_comes_whole(balancer: Balancer, backend: Backend) -> None:
    """Sizes around the usual buffers, both framings, both ways, on one connection."""
    with balancer.connect() as client:
        for size in SIZES:
            for is_chunked in (False, True):
                backend.handler = handlers.echo
                assert upload(client, size, is_chunked) == streams.checksum(size)
            for make in (handlers.stream, handlers.stream_chunked):
                backend.handler = make(size)
                assert download(client) == streams.checksum(size)


def test_body_that_comes_with_its_head_and_body_that_comes_in_bits(
    balancer: Balancer, backend: Backend
) -> None:
    """Head and body in one packet, or byte by byte: the backend sees the same."""
    backend.handler = handlers.echo
    whole = hashlib.sha256(b"hello world").hexdigest()
    head = b"POST /bits HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"
    chunks = b"POST /bits HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks += b"5;note=x\r\nhello\r\n6\r\n world\r\n0\r\nX-Checksum: x\r\n\r\n"
    with balancer.connect() as client:
        for data in (head + b"hello world", chunks):
            client.send(data)
            assert client.read_response("POST").text == whole
            for position in range(len(data)):
                client.send(data[position : position + 1])
            assert client.read_response("POST").text == whole


def test_framing_is_said_once(balancer: Balancer, backend: Backend) -> None:
    """What reaches a backend has a length or chunks, never both, and neither without a body."""
    backend.handler = handlers.echo
    with balancer.connect() as client:
        client.get("/none")
        client.request("DELETE", "/none")
        client.request("POST", "/empty", body=b"")
        client.request("POST", "/length", body=b"abc")
        client.send_head("POST", "/chunked", [("Transfer-Encoding", "chunked")])
        client.send_chunked([b"abc"])
        client.read_response("POST")
    framing = [
        (request.target, request.get("content-length"), request.get("transfer-encoding"))
        for request in backend.requests
    ]

    assert framing[:4] == [
        ("/none", None, None),
        ("/none", None, None),
        ("/empty", "0", None),
        ("/length", "3", None),
    ]
    assert framing[4] in [("/chunked", None, "chunked"), ("/chunked", "3", None)]


def test_server_sent_events_arrive_as_they_are_sent(balancer: Balancer, backend: Backend) -> None:
    """Each event is read by the client before the backend sends the next one, in any framing."""
    events = [b"data: %d\n\n" % number for number in range(5)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    for is_chunked in (True, False):
        wire = [b"%x\r\n%b\r\n" % (len(e), e) if is_chunked else e for e in events]
        framing = (
            b"Transfer-Encoding: chunked\r\n\r\n" if is_chunked else b"Connection: close\r\n\r\n"
        )
        last = b"0\r\n\r\n" if is_chunked else b""
        backend.handler, steps = handlers.by_steps(head + framing, *wire, last)
        with balancer.connect() as client:
            client.send_head("GET", "/events")
            steps[0].set()
            response = client.read_head()
            is_framed = bool(response.get("transfer-encoding"))
            for step, event in zip(steps[1:], events, strict=False):
                started = time.monotonic()
                step.set()
                got = client.read_chunk() if is_framed else client.read_some()
                assert got == event
                assert time.monotonic() - started < seconds(2)
            steps[-1].set()
            assert (client.read_chunk() if is_framed else client.read_some()) == b""


def test_fast_download_that_pauses_is_not_held_back(balancer: Balancer, backend: Backend) -> None:
    """A little that comes after a lot reaches the client before the rest is sent."""
    sizes = (24 * MIB, 100 * KIB, 8 * MIB)
    handler, steps = handlers.by_steps(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(sizes),
        *(bytes(size) for size in sizes),
    )
    backend.handler = handler
    with balancer.connect() as client:
        client.send_head("GET", "/paused")
        steps[0].set()
        client.read_head()
        for step, size in zip(steps[1:], sizes, strict=True):
            step.set()
            got = 0
            while got < size:
                piece = client.read_some(MIB)
                assert piece, f"cut after {got} of {size}"
                got += len(piece)


def test_request_body_is_streamed(balancer: Balancer, backend: Backend) -> None:
    """The first piece of an upload reaches the backend before the client has sent the last one."""
    first = threading.Event()

    def handler(exchange: Exchange) -> None:
        next(exchange.body())
        first.set()
        handlers.echo(exchange)

    backend.handler = handler
    with balancer.connect() as client:
        client.send_head("POST", "/live", [("Transfer-Encoding", "chunked")])
        client.send(b"5\r\nhello\r\n")
        assert first.wait(seconds(2))
        client.send(b"0\r\n\r\n")
        assert client.read_response("POST").status == 200


def test_redirects_keep_their_bodies(balancer: Balancer, backend: Backend) -> None:
    """A 3xx is passed on with Location and body, and not followed."""
    with balancer.connect() as client:
        for status in (301, 302, 303, 307, 308):
            body = b"moved %d" % status
            backend.handler = handlers.answer(
                status, body, ("Location", "/elsewhere?a=%41"), phrase="Moved"
            )
            response = client.get(f"/redirect/{status}")
            assert (response.status, response.body) == (status, body)
            assert response.get("Location") == "/elsewhere?a=%41"
            backend.handler = handlers.raw(
                b"HTTP/1.1 %d Moved\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"4\r\nbody\r\n0\r\n\r\n" % status,
                keep=True,
            )
            assert client.get(f"/redirect/{status}").body == b"body"

    assert {request.target.split("/")[1] for request in backend.requests} == {"redirect"}


BODYLESS: dict[str, tuple[str, Handler, int]] = {
    "head": ("HEAD", handlers.answer(200, b"never sent", ("X-A", "1")), 200),
    "head-chunked": (
        "HEAD",
        handlers.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        200,
    ),
    "204": ("GET", handlers.raw(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", True), 204),
    "304": (
        "GET",
        handlers.raw(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 9\r\n\r\n', True),
        304,
    ),
}


@pytest.mark.parametrize(("method", "handler", "status"), BODYLESS.values(), ids=BODYLESS.keys())
def test_responses_without_body(
    balancer: Balancer, backend: Backend, method: str, handler: Handler, status: int
) -> None:
    """HEAD, 204 and 304 end with their heads; both connections stay usable."""
    with balancer.connect() as client:
        for _ in range(3):
            backend.handler = handler
            response = client.request(method, "/bodyless")
            assert (response.status, response.body) == (status, b"")
            backend.handler = handlers.ok
            assert client.get("/after").text == backend.name
    if status == 200:
        assert response.get("Content-Length") != "0"


def test_length_of_a_head_response_is_kept(balancer: Balancer, backend: Backend) -> None:
    """HEAD says how long the body would be."""
    backend.handler = handlers.answer(200, b"twelve bytes")
    with balancer.connect() as client:
        assert client.request("HEAD", "/").get("Content-Length") == "12"


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_responses_are_not_final(
    balancer: Balancer, backend: Backend, interim: bytes
) -> None:
    """1xx before the final response: the client gets the final one, and the connection stays good."""
    early = b"HTTP/1.1 " + interim + b"\r\nLink: </style.css>; rel=preload\r\n\r\n"
    backend.handler = handlers.raw(
        early * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal", keep=True
    )
    with balancer.connect() as client:
        for _ in range(3):
            response = client.get("/interim")
            assert (response.status, response.body) == (200, b"final")


def test_expect_100_continue(balancer: Balancer, backend: Backend) -> None:
    """A client that waits for 100 before it sends its body gets it, and then the answer."""
    backend.handler = handlers.echo
    with balancer.connect() as client:
        client.send_head("PUT", "/", [("Content-Length", "3"), ("Expect", "100-continue")])
        assert client.read_head().status == 100
        client.send(b"abc")
        assert client.read_response("PUT").text == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("asks", [True, False])
def test_a_backend_that_hangs_after_an_expectation(asks: bool) -> None:
    """It is given up after ``timeouts.read`` like any other, whether it asked for the body or not."""

    def hang(exchange: Exchange) -> None:
        if asks:
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.read_body()
        exchange.wait_for_peer()

    with (
        Backend(hang) as backend,
        Balancer([backend], timeouts={"read": seconds(1)}, retries={"attempts": 1}) as own,
        own.connect() as client,
    ):
        client.send_head("PUT", "/", [("Content-Length", "3"), ("Expect", "100-continue")])
        assert client.read_head().status == 100
        client.send(b"abc")
        assert client.read_response("PUT").status == 504


def test_early_refusal_of_an_upload(balancer: Balancer, backend: Backend) -> None:
    """A backend that answers 413 before it has read the body: the client gets that 413."""
    backend.handler = handlers.refuse_early
    with balancer.connect() as client:
        client.send_head("PUT", "/", [("Content-Length", str(4 * MIB))])
        thread = threading.Thread(target=_send_until_cut, args=(client, 4 * MIB), daemon=True)
        thread.start()
        response = client.read_response("PUT")
        assert (response.status, response.body) == (413, b"too large")
    thread.join(PATIENT)
    assert balancer.get("/after").status == 413


def _send_until_cut(client: Client, size: int) -> None:
    try:
        for block in streams.blocks(size):
            client.send(block)
    except OSError:
        pass


def test_http_1_0_client(balancer: Balancer, backend: Backend) -> None:
    """A client of HTTP/1.0 gets no chunks, a whole body, and the end of the connection."""
    for make in (handlers.stream, handlers.stream_chunked, handlers.stream_until_close):
        backend.handler = make(100_000)
        with balancer.connect() as client:
            client.send_head("GET", "/old", version="HTTP/1.0")
            digest = hashlib.sha256()
            response = client.read_response(sink=digest.update)
            assert not response.get_all("Transfer-Encoding")
            assert digest.hexdigest() == streams.checksum(100_000)
            assert client.is_closed()


def test_http_1_0_backend(balancer: Balancer, backend: Backend) -> None:
    """A backend of HTTP/1.0 that ends bodies by closing: whole, and the client's connection stays."""
    backend.handler = handlers.raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold style")
    with balancer.connect() as client:
        for _ in range(3):
            response = client.get("/old")
            assert response.body == b"old style"
            assert not response.will_close


def test_limit_on_request_bodies() -> None:
    """``limits.body``: over it is 413, by length before anything is sent, by chunks as it is passed."""
    with Backend(handlers.echo) as backend, Balancer([backend], limits={"body": 1000}) as balancer:
        with balancer.connect() as client:
            assert client.request("POST", "/fits", body=b"x" * 1000).status == 200
        with balancer.connect() as client:
            client.send_head("POST", "/long", [("Content-Length", "1001")])
            response = client.read_response("POST")
            assert response.status == 413
        with balancer.connect() as client:
            client.send_head("POST", "/chunks", [("Transfer-Encoding", "chunked")])
            _send_until_cut_in_chunks(client)
            assert client.read_response("POST").status == 413
        for target in ("/long", "/chunks"):
            line = balancer.access_line(target=target)
            assert line["status"] == 413
            assert line["reason"]

        assert "/long" not in [request.target for request in backend.requests]
        assert not any(
            request.is_complete for request in backend.requests if request.target == "/chunks"
        )


def _send_until_cut_in_chunks(client: Client) -> None:
    try:
        client.send_chunked([b"x" * 600, b"y" * 600])
    except OSError:
        pass
