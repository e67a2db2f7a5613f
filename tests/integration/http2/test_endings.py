"""HTTP/2 in front: how streams and connections end, and what becomes of them when a worker goes."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
import time

import pytest
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    handlers,
    seconds,
    wait_until,
)
from harness.http2 import FIRST_WINDOW, LARGEST_WINDOW
from harness.secure import CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, connect
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
)

# -- endings -------------------------------------------------------------------------------------


def test_a_stream_reset_by_the_client_is_given_up(secure: tuple[Balancer, Backend]) -> None:
    """The backend's connection is closed, 499 is logged, the connection goes on."""
    balancer, backend = secure
    backend.handler = handlers.hang
    with connect(balancer) as client:
        number = client.request("/leave")
        backend.wait_for_request()
        client.send(RstStreamFrame(number, error_code=CANCEL))
        wait_until(lambda: not backend.open_connections(), PATIENT, "the backend is left alone")
        line = balancer.access_line(target="/leave")
        assert (line["status"], line["reason"]) == (499, "client_gone")
        backend.handler = handlers.ok
        assert client.get("/stay").status == 200


def test_a_request_given_up_in_the_same_breath_has_its_line(
    secure: tuple[Balancer, Backend],
) -> None:
    """One, with all that was asked, although it was never begun."""
    balancer, backend = secure
    since = balancer.log_mark
    with connect(balancer) as client:
        block = client.block(
            ("user-agent", "u"), path="/breath", authority="b.example", method="PUT"
        )
        head = HeadersFrame(1, block, flags=["END_HEADERS"]).serialize()
        client.send(head + RstStreamFrame(1, error_code=CANCEL).serialize())
        client._next = 3
        assert client.get("/next").status == 200
    balancer.access_line(target="/next")
    (line,) = balancer.access_lines(since, target="/breath")
    expected = {
        "method": "PUT",
        "host": "b.example",
        "target": "/breath",
        "protocol": "HTTP/2.0",
        "status": 499,
        "reason": "client_gone",
        "user_agent": "u",
    }
    assert {key: line[key] for key in expected} == expected
    assert len(backend.requests) == 1


@pytest.mark.parametrize("is_stream_s", [True, False], ids=["stream", "connection"])
def test_who_reads_slowly_is_waited_for(
    impatient: tuple[Balancer, Backend], is_stream_s: bool
) -> None:
    """``timeouts.client`` is silence: windows opened bit by bit, or a socket that is emptied bit by bit."""
    balancer, backend = impatient
    backend.handler = handlers.stream(64 << 20)
    width = 20_000 if is_stream_s else LARGEST_WINDOW
    with connect(balancer, settings={4: width}, is_greedy=False) as client:
        # As far as the kernel says so: with megabytes for its client it is silent for longer.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.open_window(0, LARGEST_WINDOW - FIRST_WINDOW)
        number = client.request("/slow")
        client.pump(lambda: client.replies[number].body)
        for _ in range(40):
            time.sleep(seconds(0.1))
            if is_stream_s:
                client.open_window(number, 4096)
            else:
                assert client.socket.recv(4096)
        assert not balancer.access_lines()
        line = balancer.log.wait_for(1, "access", timeout=PATIENT)[0]
        assert line["reason"] == "client_timeout", "and then it is silent"


def test_a_connection_that_ends_gives_up_all_streams(secure: tuple[Balancer, Backend]) -> None:
    """Each gets its line."""
    balancer, backend = secure
    backend.handler = handlers.hang
    since = balancer.log_mark
    with connect(balancer) as client:
        for _ in range(3):
            client.request("/gone")
        backend.wait_for_request(3)
    wait_until(
        lambda: len(balancer.access_lines(since, target="/gone", status=499)) == 3,
        PATIENT,
        "three lines",
    )
    wait_until(lambda: not backend.open_connections(), PATIENT, "the backend is left alone")


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_cut_never_looks_whole(secure: tuple[Balancer, Backend], cut: bytes) -> None:
    """The stream is reset, not ended; others go on."""
    balancer, backend = secure
    backend.handler = handlers.raw(cut)
    with connect(balancer) as client:
        reply = client.get("/cut")
        assert (reply.status, reply.reset, reply.has_ended) == (200, INTERNAL_ERROR, False)
        backend.handler = handlers.ok
        assert client.get("/whole").status == 200


def test_an_answer_before_the_end_of_the_request(secure: tuple[Balancer, Backend]) -> None:
    """It stands; the rest of the body is declined without an error (RFC 9113 §8.1)."""
    balancer, backend = secure
    backend.handler = handlers.refuse_early
    with connect(balancer) as client:
        number = client.request("/early", body=None, method="POST")
        client.send_body(number, b"x" * 1000, is_end=False)
        reply = client.answer(number)
        assert (reply.status, reply.body) == (413, b"too large")
        client.pump(lambda: reply.reset is not None)
        assert reply.reset == NO_ERROR
        client.send(DataFrame(number, b"y" * 1000))
        backend.handler = handlers.ok
        assert client.get("/next").status == 200


def test_a_body_over_the_limit(secure: tuple[Balancer, Backend]) -> None:
    """By its length before a byte of it, without one as it comes."""
    balancer, backend = secure
    backend.handler = handlers.echo
    with connect(balancer) as client:
        number = client.request("/long", ("content-length", str(9 << 20)), body=None, method="POST")
        assert client.answer(number).status == 413
        number = client.request("/longer", body=None, method="POST")
        reply = client.replies[number]
        piece = b"x" * 8192
        while not reply.is_over:
            if reply.window < len(piece) or client.window < len(piece):
                client.read(1)
            else:
                client.send_body(number, piece, is_end=False)
        assert reply.status == 413
        assert client.get("/next").status == 200


@pytest.mark.parametrize(
    ("announced", "pieces", "ending"),
    [
        (32, [], "head"),
        (32, [b"x" * 10], "data"),
        (32, [b"x" * 10], "trailers"),
        (32, [], "trailers"),
        (32, [b"x" * 31], "trailers"),
        (3, [b"xx", b"xx"], "data"),
        (3, [b"xxxx"], "trailers"),
    ],
)
@pytest.mark.parametrize("is_early", [True, False], ids=["answered early", "answered late"])
def test_a_body_of_another_length_is_nobody_s_next_request(
    secure: tuple[Balancer, Backend],
    announced: int,
    pieces: list[bytes],
    ending: str,
    is_early: bool,
) -> None:
    """To a backend that answers early, what is missing of a body is the start of the next request.

    The stream is reset, the connection's others are served, and the backend sees what access lines have.
    """
    balancer, backend = secure
    since = balancer.log_mark
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    gate = threading.Event()

    def answer_early(exchange: Exchange) -> None:
        gate.wait(PATIENT)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        exchange.read_body()

    backend.handler = answer_early
    if is_early:
        gate.set()
    with connect(balancer) as client:
        length = ("content-length", str(announced))
        body = b"" if ending == "head" else None
        number = client.request("/attack", length, body=body, method="POST")
        for at, piece in enumerate(pieces, 1):
            is_end = ending == "data" and at == len(pieces)
            client.send_body(number, piece, is_end)
        if ending == "trailers":
            client.end(number, [("x-sum", "7")])
        reply = client.replies[number]
        client.pump(lambda: reply.reset is not None)
        if reply.reset != NO_ERROR or not is_early:  # it was answered before the rest had come
            assert (reply.reset, reply.has_ended) == (PROTOCOL_ERROR, False)
        gate.set()
        backend.handler = handlers.ok
        for _ in range(3):
            other = client.request("/next", body=smuggled, method="POST")
            assert client.answer(other).status == 200
    seen = [request.target for request in backend.requests if request.is_complete]
    assert seen == ["/next"] * 3
    reasons = wait_until(
        lambda: [
            line["reason"]
            for line in balancer.access_lines(since)
            if line["target"] == "/attack" or line["reason"] == "malformed_request"
        ]
    )
    assert reasons == ["malformed_request"] or (is_early and reasons == [None])


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_bodies_over_gunicorn_s_own_http2(files: dict[str, str], command: tuple[str, ...]) -> None:
    """Where its flags ask for that: whole, with a length or without one; none where there is none."""
    flags = ("--certfile", files["certificate"], "--keyfile", files["key"])
    flags += ("--http-protocols", "h2,h1")
    with (
        Backend(handlers.echo) as backend,
        Balancer([backend], command=(*command[:-1], *flags, command[-1])) as balancer,
    ):
        balancer.may_raise = True  # gunicorn's own, of a handshake that nobody goes on with
        with connect(balancer) as client:
            for body in (b"", b"hello", b"x" * 70_000):
                for fields in ([], [("content-length", str(len(body)))]):
                    number = client.request("/", *fields, body=body, method="POST")
                    reply = client.answer(number)
                    assert (reply.status, bytes(reply.body)) == (
                        200,
                        hashlib.sha256(body).hexdigest().encode(),
                    )
            number = client.request("/short", ("content-length", "32"), method="POST")
            assert client.answer(number).status == 400
    whole = [request for request in backend.requests if request.is_complete]
    codings = [request.get("transfer-encoding") for request in whole]
    assert codings == [None, None, "chunked", None, "chunked", None]


def test_slow_bodies_get_408(impatient: tuple[Balancer, Backend]) -> None:
    """As in HTTP/1.1; other streams of the connection are not touched."""
    balancer, backend = impatient
    backend.handler = handlers.echo
    with connect(balancer) as client:
        number = client.request("/slow", body=None, method="POST")
        client.send_body(number, b"x", is_end=False)
        reply = client.answer(number, seconds(4))
        assert reply.status == 408
        assert client.get("/next").status == 200


def test_who_has_nothing_to_ask_is_sent_away(impatient: tuple[Balancer, Backend]) -> None:
    """After the keep-alive timeout, in order; pings do not put it off."""
    balancer, _ = impatient
    with connect(balancer) as client:
        assert client.get("/").status == 200
        started = time.monotonic()
        while not client.is_closed and time.monotonic() - started < seconds(4):
            client.send(PingFrame(0, b"12345678"))
            client.pump_for(0.1)
            if client.went_away:
                break
        assert client.until_closed() == NO_ERROR
        assert time.monotonic() - started < seconds(3)
        assert client.pongs


@pytest.mark.parametrize("is_block", [True, False], ids=["block", "frame"])
def test_who_does_not_finish_what_was_begun_is_cut_off(
    files: dict[str, str], is_block: bool
) -> None:
    """A header block or a frame: a byte now and then does not put it off (slowloris)."""
    with (
        Backend() as backend,
        Balancer([backend], tls=files, timeouts={"head": seconds(1)}) as balancer,
        connect(balancer) as client,
    ):
        assert client.get("/").status == 200
        block = client.block()
        started = time.monotonic()
        if is_block:
            client.send(HeadersFrame(3, block[:3]).serialize())
        else:
            client.send(b"\x00\x10\x00\x01\x04\x00\x00\x00\x03")
        while not client.went_away and time.monotonic() - started < seconds(4):
            client.read(0.2)
            if not is_block and not client.went_away:
                client.send(b"\x00")
        assert client.until_closed() == PROTOCOL_ERROR
        assert balancer.wait_for_access(1, reason="header_timeout")[0]["status"] == 408


# -- leaving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_streams_are_finished_when_a_worker_goes(
    files: dict[str, str], number: signal.Signals
) -> None:
    """The client is told to open no more, what goes on is answered, then the connection ends."""
    gate = threading.Event()
    with (
        Backend(handlers.gated(gate)) as backend,
        Balancer([backend], tls=files) as balancer,
        connect(balancer) as client,
    ):
        first = client.request("/first")
        backend.wait_for_request()
        balancer.signal(number)
        client.pump(lambda: client.went_away)
        assert (client.went_away[0].last_stream_id, client.went_away[0].error_code) == (
            LARGEST_WINDOW,
            NO_ERROR,
        )
        late = client.request("/on-its-way")  # it crossed the frame above
        backend.wait_for_request(2)
        gate.set()
        assert client.answer(first).status == 200
        assert client.answer(late).status == 200
        assert client.until_closed() == NO_ERROR
        assert client.went_away[-1].last_stream_id == late


def test_what_does_not_finish_in_time_is_answered_503(files: dict[str, str]) -> None:
    """Before the master kills the worker."""
    with (
        Backend(handlers.hang) as backend,
        Balancer([backend], tls=files, graceful_timeout=seconds(3)) as balancer,
        connect(balancer) as client,
    ):
        number = client.request("/never")
        backend.wait_for_request()
        balancer.signal(signal.SIGTERM)
        reply = client.answer(number)
        assert (reply.status, reply.has_ended) == (503, True)
        assert balancer.access_line(target="/never")["reason"] == "shutting_down"
        client.until_closed()


def test_a_clients_connections_are_counted(files: dict[str, str]) -> None:
    """While they last, and no longer."""
    with (
        Backend() as backend,
        Balancer([backend], tls=files, limits={"connections_per_client": 1}) as balancer,
    ):
        with connect(balancer) as client:
            assert client.get("/one").status == 200
            with connect(balancer) as another:
                assert another.until_closed() == REFUSED_STREAM

        def is_served() -> bool:
            with connect(balancer) as client:
                number = client.request("/again")
                client.pump(lambda: client.is_closed or client.replies[number].is_over)
                return client.replies[number].status == 200

        wait_until(is_served, PATIENT, "the place is free again", poll=0.1)


def test_a_connection_makes_as_many_requests_as_allowed(files: dict[str, str]) -> None:
    """The client is told with the last of them; one more is refused, and what goes on is finished."""
    gate = threading.Event()
    with (
        Backend(handlers.gated(gate)) as backend,
        Balancer([backend], tls=files, limits={"requests_per_connection": 2}) as balancer,
        connect(balancer) as client,
    ):
        numbers = [client.request(f"/{count}") for count in range(3)]
        assert client.answer(numbers[2]).reset == REFUSED_STREAM
        gate.set()
        assert [client.answer(number).status for number in numbers[:2]] == [200, 200]
        assert client.until_closed() == NO_ERROR
        assert {frame.last_stream_id for frame in client.went_away} == {numbers[1]}


def test_a_body_below_the_rate(files: dict[str, str]) -> None:
    """As in HTTP/1.1: 408, by the time in which the client is waited for."""
    with (
        Backend(handlers.echo) as backend,
        Balancer([backend], tls=files, limits={"body_rate": 1 << 20}) as balancer,
        connect(balancer) as client,
    ):
        number = client.request("/drip", body=None, method="POST")
        reply = client.replies[number]
        started = time.monotonic()
        while not reply.is_over and time.monotonic() - started < seconds(12):
            client.send_body(number, b"x", is_end=False)
            client.pump_for(0.2)
        assert reply.status == 408
        assert balancer.access_line(target="/drip")["reason"] == "body_too_slow"


def test_a_client_that_says_goodbye_is_served_to_the_end(
    secure: tuple[Balancer, Backend],
) -> None:
    """Its GOAWAY is about pushes, which there are none of."""
    balancer, backend = secure
    gate = threading.Event()
    backend.handler = handlers.gated(gate)
    with connect(balancer) as client:
        number = client.request("/bye")
        backend.wait_for_request()
        client.send(GoAwayFrame(0, error_code=NO_ERROR))
        client.send(PingFrame(0, b"12345678"))
        client.pump(lambda: client.pongs)
        gate.set()
        assert client.answer(number).status == 200


def test_more_connections_than_allowed(files: dict[str, str]) -> None:
    """They are told so at once, in a way that lets the client try elsewhere."""
    with (
        Backend() as backend,
        Balancer([backend], tls=files, limits={"connections": 1}) as balancer,
        connect(balancer) as client,
    ):
        assert client.get("/one").status == 200
        with connect(balancer) as another:
            assert another.until_closed() == REFUSED_STREAM
        assert client.get("/one").status == 200
        lines = balancer.wait_for_access(1, reason="too_many_connections")
        assert lines[0]["status"] == 503
