"""HTTP/2 in front: streams side by side, windows both ways, endings, and what attackers try."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    handlers,
    processes,
    seconds,
    streams,
    wait_until,
)
from harness.http2 import LARGEST_WINDOW, Http2Client
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x6, 0x7, 0x8, 0xB
MAX_STREAMS = 100

AUTHORITY = trustme.CA()


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The ``tls`` of config.json."""
    folder = tmp_path_factory.mktemp("http2")
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key")
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(folder / "crt", append=True)
    return {"certificate": str(folder / "crt"), "key": str(folder / "key")}


def context() -> ssl.SSLContext:
    """A client's context."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(made)
    return made


def connect(
    balancer: Balancer, settings: dict[int, int] | None = None, is_greedy: bool = True
) -> Http2Client:
    """A client that has shaken hands."""
    client = Http2Client(balancer.address, context(), settings, is_greedy)
    assert client.socket.selected_alpn_protocol() == "h2"
    return client


@pytest.fixture(name="running", scope="module")
def _running(files: dict[str, str]) -> Iterator[tuple[Balancer, Backend]]:
    timeouts = {"client": seconds(10), "read": seconds(10)}
    with (
        Backend() as backend,
        Balancer([backend], tls=files, timeouts=timeouts, limits={"body": 8 << 20}) as balancer,
    ):
        yield balancer, backend


@pytest.fixture(name="secure")
def _secure(running: tuple[Balancer, Backend]) -> tuple[Balancer, Backend]:
    """One worker in front of one backend; shared by most tests."""
    balancer, backend = running
    backend.handler = handlers.ok
    backend.clear()
    return balancer, backend


@pytest.fixture(name="impatient")
def _impatient(files: dict[str, str]) -> Iterator[tuple[Balancer, Backend]]:
    """The same with short timeouts."""
    timeouts = {"client": seconds(1), "keepalive": seconds(1), "read": seconds(10)}
    with Backend() as backend, Balancer([backend], tls=files, timeouts=timeouts) as balancer:
        yield balancer, backend


# -- messages ------------------------------------------------------------------------------------


def test_alpn_decides(secure: tuple[Balancer, Backend], files: dict[str, str]) -> None:
    """h2 for who offers it; HTTP/1.1 for who does not, where it is switched off, and under -k gevent."""
    balancer, backend = secure
    with connect(balancer) as client:
        assert client.get("/h2").status == 200

    def agreed(address: tuple[str, int], *offered: str) -> str | None:
        made = context()
        if offered:
            made.set_alpn_protocols(list(offered))
        with (
            socket.create_connection(address, PATIENT) as plain,
            made.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"GET /h1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200 ")
            return tls.selected_alpn_protocol()

    assert agreed(balancer.address, "http/1.1") == "http/1.1"
    assert agreed(balancer.address) is None
    with Balancer([backend], tls={**files, "http2": False}) as without:
        assert agreed(without.address, "h2", "http/1.1") == "http/1.1"
    with Balancer([backend], tls=files, command=STOCK_WORKER) as stock:
        assert agreed(stock.address, "h2", "http/1.1") == "http/1.1"


def test_what_the_backend_is_told(secure: tuple[Balancer, Backend]) -> None:
    """An HTTP/1.1 request with the authority as Host; the log has the version as nginx writes it."""
    balancer, backend = secure
    with connect(balancer) as client:
        reply = client.get(
            "/told?a=%20b", ("cookie", "a=1"), ("cookie", "b=2"), ("x-forwarded-for", "9.9.9.9")
        )
        request = backend.wait_for_request()
        assert reply.status == 200
        assert all(name == name.lower() for name, _ in reply.headers)
        assert reply.get("date")
        assert (request.method, request.target, request.version) == (
            "GET",
            "/told?a=%20b",
            "HTTP/1.1",
        )
        assert request.get("Host") == client.authority
        assert request.get("Cookie") == "a=1; b=2"
        assert str(request.get("Via")).startswith("2.0 load-balancer-")
        assert request.get("X-Forwarded-For") == "127.0.0.1"
        assert request.get("X-Forwarded-Proto") == "https"
        assert request.get("X-Forwarded-Host") == client.authority
    line = balancer.access_line(target="/told?a=%20b")
    assert (line["protocol"], line["status"], line["host"]) == ("HTTP/2.0", 200, client.authority)
    assert line["bytes_out"] == len(reply.body)


@pytest.mark.parametrize(
    ("answer", "status", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n", 304, "9"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, None),
    ],
)
def test_answers_without_a_body(
    secure: tuple[Balancer, Backend], answer: bytes, status: int, length: str | None
) -> None:
    """They end the stream; the length is passed on where it may stand."""
    balancer, backend = secure
    backend.handler = handlers.raw(answer, keep=True)
    with connect(balancer) as client:
        reply = client.get("/none")
        assert (reply.status, reply.get("content-length")) == (status, length)
        assert reply.has_ended
        assert not reply.body
        assert reply.get("transfer-encoding") is None


def test_head_has_no_body(secure: tuple[Balancer, Backend]) -> None:
    """From the backend, and of our own."""
    balancer, backend = secure
    backend.handler = handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", keep=True)
    with connect(balancer) as client:
        reply = client.get("/head", method="HEAD")
        assert (reply.status, reply.get("content-length"), reply.body) == (200, "5", b"")
        reply = client.get("/#", method="HEAD")
        assert (reply.status, reply.body, reply.has_ended) == (400, b"", True)


def test_hop_by_hop_fields_stay_behind(secure: tuple[Balancer, Backend]) -> None:
    """What belongs to the backend's connection has no place in HTTP/2 (RFC 9113 §8.2.2)."""
    balancer, backend = secure
    backend.handler = handlers.raw(
        b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\n"
        b"X-Private: 1\r\nUpgrade: h2c\r\nProxy-Connection: close\r\nX-Public: 2\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nhi",
        keep=True,
    )
    with connect(balancer) as client:
        reply = client.get("/hops")
        names = sorted(name for name, _ in reply.headers)
        assert names == ["content-length", "date", "set-cookie", "set-cookie", "x-public"]


def test_interim_answers_and_trailers(secure: tuple[Balancer, Backend]) -> None:
    """103 comes before the answer, trailers behind it, both ways."""
    balancer, backend = secure

    def answer(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
        )

    backend.handler = answer
    with connect(balancer) as client:
        number = client.request("/trailers", body=None, method="POST")
        client.send_body(number, b"abc", is_end=False)
        client.end(number, [("x-checked", "yes")])
        reply = client.answer(number)
        assert reply.interim == [(103, [("link", "</a>")])]
        assert (reply.status, reply.body, reply.trailers) == (200, b"hi", [("x-sum", "7")])
        assert reply.get("trailer") == "X-Sum"
        request = backend.requests[0]
        assert request.get("Transfer-Encoding") == "chunked"
        assert (request.length, request.is_complete) == (3, True)


def test_100_continue(secure: tuple[Balancer, Backend]) -> None:
    """The client is asked for its body once the backend has asked us."""
    balancer, backend = secure

    def asking(exchange: Exchange) -> None:
        assert exchange.request.get("Expect") == "100-continue"
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        handlers.echo(exchange)

    backend.handler = asking
    with connect(balancer) as client:
        number = client.request("/ask", ("expect", "100-continue"), body=None, method="POST")
        client.pump(lambda: client.replies[number].interim)
        assert client.replies[number].interim == [(100, [])]
        client.send_body(number, b"abc")
        assert client.answer(number).body.decode() == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("fields", "pseudo"),
    [
        ([("transfer-encoding", "chunked")], {}),
        ([("connection", "close")], {}),
        ([("x", "a\r\nHost: evil")], {}),
        ([("x: y\r\nz", "a")], {}),
        ([("x", "a\x00b")], {}),
        ([("Upper", "a")], {}),
        ([(":path", "/late")], {}),
        ([(":protocol", "websocket")], {}),
        ([], {"path": None}),
        ([], {"path": "/ HTTP/1.1\r\nx: y"}),
        ([], {"method": "GET /"}),
    ],
)
def test_a_malformed_request_ends_its_stream_only(
    secure: tuple[Balancer, Backend],
    fields: list[tuple[str, str]],
    pseudo: dict[str, str | None],
) -> None:
    """Nothing of it reaches a backend; the next stream of the connection is served."""
    balancer, backend = secure
    since = balancer.log_mark
    with connect(balancer) as client:
        path = pseudo.pop("path", "/bad") if "path" in pseudo else "/bad"
        number = client.request(path, *fields, **pseudo)  # type: ignore[arg-type]
        assert client.answer(number).reset == PROTOCOL_ERROR
        assert client.get("/good").status == 200
    assert [request.target for request in backend.requests] == ["/good"]
    wait_until(
        lambda: balancer.access_lines(since, status=400, reason="malformed_request"),
        PATIENT,
        "its line",
    )


@pytest.mark.parametrize(
    ("fields", "pseudo", "status"),
    [
        ([("host", "other")], {}, 400),
        ([], {"authority": None}, 400),
        ([], {"method": "TRACE"}, 405),
        ([], {"method": "CONNECT", "scheme": None}, 405),
        ([("expect", "magic")], {}, 417),
        ([("x", "a" * 9000)], {}, 431),
        ([("x", "a")] * 120, {}, 431),
    ],
)
def test_a_refused_request_gets_its_status(
    secure: tuple[Balancer, Backend],
    fields: list[tuple[str, str]],
    pseudo: dict[str, str | None],
    status: int,
) -> None:
    """The one that HTTP/1.1 would give; the connection goes on."""
    balancer, backend = secure
    with connect(balancer) as client:
        reply = client.get("/refused", *fields, **pseudo)
        assert (reply.status, reply.has_ended) == (status, True)
        assert reply.get("content-type") == "application/json"
        assert client.get("/good").status == 200
    assert [request.target for request in backend.requests] == ["/good"]


# -- side by side --------------------------------------------------------------------------------


def test_a_slow_stream_delays_no_other(secure: tuple[Balancer, Backend]) -> None:
    """While one waits for its backend, fifty others of the connection come and go."""
    balancer, backend = secure
    gate = threading.Event()

    def slow(exchange: Exchange) -> None:
        if exchange.request.target == "/slow":
            gate.wait(PATIENT)
        handlers.ok(exchange)

    backend.handler = slow
    with connect(balancer) as client:
        first = client.request("/slow")
        quick = [client.request("/quick") for _ in range(50)]
        for number in quick:
            assert client.answer(number).status == 200
        assert not client.replies[first].is_over
        gate.set()
        assert client.answer(first).status == 200


def test_as_many_streams_as_announced(secure: tuple[Balancer, Backend]) -> None:
    """All of them at once at the backend; one more is refused so that it may be sent again."""
    balancer, backend = secure
    gate = threading.Event()
    backend.handler = handlers.gated(gate)
    with connect(balancer) as client:
        numbers = [client.request(f"/{count}") for count in range(MAX_STREAMS)]
        backend.wait_for_request(MAX_STREAMS)
        client.pump(lambda: client.settings)
        assert client.settings[3] == MAX_STREAMS
        assert client.answer(client.request("/more")).reset == REFUSED_STREAM
        gate.set()
        assert {client.answer(number).status for number in numbers} == {200}
        assert client.get("/again").status == 200
    assert len(backend.requests) == MAX_STREAMS + 1


def test_large_bodies_both_ways(secure: tuple[Balancer, Backend]) -> None:
    """Byte for byte, several at once, in bounded memory."""
    balancer, backend = secure
    size = 12 * streams.MIB + 7
    (worker,) = balancer.worker_pids()
    with connect(balancer, settings={4: 1 << 20}) as client:
        backend.handler = handlers.stream(size)
        client.answer(client.request("/warm"))
        before = processes.memory_kib(worker)
        numbers = [client.request("/down") for _ in range(4)]
        for number in numbers:
            reply = client.answer(number)
            assert hashlib.sha256(reply.body).hexdigest() == streams.checksum(size)
        assert processes.memory_kib(worker) - before < 8 * 1024
        backend.handler = handlers.echo
        size = 5 * streams.MIB + 1
        body = b"".join(streams.blocks(size))
        for fields in ([("content-length", str(size))], []):
            number = client.request("/up", *fields, body=body, method="POST")
            assert client.answer(number).body.decode() == streams.checksum(size)


# -- windows -------------------------------------------------------------------------------------


def test_no_more_than_the_client_has_room_for(secure: tuple[Balancer, Backend]) -> None:
    """Neither on a stream nor on the connection; another stream goes on, and the backend is held back."""
    balancer, backend = secure
    size = 30 * streams.MIB
    sent = 0

    def counting(exchange: Exchange) -> None:
        nonlocal sent
        if exchange.request.target != "/large":
            handlers.ok(exchange)
            return
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for block in streams.blocks(size):
            exchange.send(block)
            sent += len(block)

    backend.handler = counting
    with connect(balancer, settings={4: 1000}, is_greedy=False) as client:
        large = client.request("/large")
        reply = client.replies[large]
        client.pump(lambda: len(reply.body) == 1000)
        assert client.get("/small").status == 200
        client.pump_for(0.3)
        assert len(reply.body) == 1000
        assert sent < 12 * streams.MIB, "what fits in sockets' buffers"
        client.open_window(large, LARGEST_WINDOW - 1000)
        used = sum(len(other.body) for other in client.replies.values()) - 1000
        client.pump(lambda: len(reply.body) == 65535 - used)
        client.pump_for(0.3)
        assert len(reply.body) == 65535 - used, "the connection's window"
        client.open_window(0, LARGEST_WINDOW - 65535)
        client.answer(large)
        assert hashlib.sha256(reply.body).hexdigest() == streams.checksum(size)


def test_settings_open_the_windows_of_all_streams(secure: tuple[Balancer, Backend]) -> None:
    """From zero, and below it (RFC 9113 §6.9.2)."""
    balancer, backend = secure
    backend.handler = handlers.answer(200, b"x" * 3000)
    with connect(balancer, settings={4: 0}, is_greedy=False) as client:
        numbers = [client.request("/wait") for _ in range(3)]
        client.pump(lambda: all(client.replies[number].status for number in numbers))
        assert not any(client.replies[number].body for number in numbers)
        client.send(SettingsFrame(0, settings={4: 1000}))
        client.pump(lambda: all(len(client.replies[number].body) == 1000 for number in numbers))
        client.send(SettingsFrame(0, settings={4: 500}))
        client.open_window(numbers[0], 400)
        client.pump_for(0.2)
        assert len(client.replies[numbers[0]].body) == 1000
        client.send(SettingsFrame(0, settings={4: 3000}))
        assert [len(client.answer(number).body) for number in numbers] == [3000] * 3


def test_a_body_that_waits_for_its_backend_delays_no_other(
    secure: tuple[Balancer, Backend],
) -> None:
    """A backend that reads nothing shuts its stream's window, not the connection's."""
    balancer, backend = secure
    gate = threading.Event()

    def stuck(exchange: Exchange) -> None:
        if exchange.request.target == "/stuck":
            gate.wait(PATIENT)
        handlers.echo(exchange)

    backend.handler = stuck
    size = 7 * streams.MIB
    body = b"".join(streams.blocks(size))
    with connect(balancer) as client:
        first = client.request("/stuck", body=None, method="POST")
        at, reply = 0, client.replies[first]
        while at < size:
            room = min(client.window, reply.window, size - at)
            if room > 0:
                client.send_body(first, body[at : at + room], is_end=False)
                at += room
            elif not client.read(0.5):
                break  # shut, or a busy machine: what follows holds either way
        other = client.request("/other", body=body[:300_000], method="POST")
        assert client.answer(other).body.decode() == hashlib.sha256(body[:300_000]).hexdigest()
        assert not reply.is_over
        gate.set()
        client.send_body(first, body[at:], is_end=False)
        client.end(first)
        assert client.answer(first).body.decode() == streams.checksum(size)


def test_a_client_that_opens_no_window_is_given_up(impatient: tuple[Balancer, Backend]) -> None:
    """After the client timeout: the stream is reset, and the backend's connection is free."""
    balancer, backend = impatient
    backend.handler = handlers.stream(20 * streams.MIB)
    with connect(balancer, settings={4: 0}) as client:
        number = client.request("/stall")
        assert client.answer(number, seconds(4)).reset == INTERNAL_ERROR
        wait_until(lambda: not backend.open_connections(), PATIENT, "the backend is left alone")
        assert balancer.access_line(target="/stall")["reason"] == "client_timeout"
        assert client.get("/next", method="HEAD").status == 200


def test_window_tricks_end_the_connection(secure: tuple[Balancer, Backend]) -> None:
    """Windows over 2^31-1, by an update or by settings; an increment of nothing."""
    balancer, _ = secure
    for frame, code in (
        (WindowUpdateFrame(0, window_increment=LARGEST_WINDOW), FLOW_CONTROL_ERROR),
        (b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4), PROTOCOL_ERROR),
        (SettingsFrame(0, settings={4: 2**31}), FLOW_CONTROL_ERROR),
    ):
        with connect(balancer) as client:
            client.send(frame)
            assert client.until_closed() == code


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


# -- attacks -------------------------------------------------------------------------------------


def rapid_reset(client: Http2Client) -> Iterator[bytes]:
    """Requests that are given up at once (CVE-2023-44487).

    No more of them than frames are allowed at once: read in one piece they would be a flood of frames.
    """
    for number in range(1, 1001, 2):
        frame = HeadersFrame(number, client.block(), flags=["END_HEADERS", "END_STREAM"])
        yield frame.serialize() + RstStreamFrame(number, error_code=CANCEL).serialize()


def patient_reset(client: Http2Client) -> Iterator[bytes]:
    """The same one by one, each when it has reached a backend: never many at once."""
    for number in range(1, 601, 2):
        block = client.block(path="/hang")
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
        time.sleep(0.002)
        yield RstStreamFrame(number, error_code=CANCEL).serialize()


def made_resets(client: Http2Client) -> Iterator[bytes]:
    """Requests that we are made to reset ourselves (CVE-2025-8671)."""
    for number in range(1, 4001, 2):
        block = client.block(("connection", "x"))
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()


def more_streams(client: Http2Client) -> Iterator[bytes]:
    """Far more streams than allowed, whatever the answer."""
    for number in range(1, 4001, 2):
        block = client.block(path="/hang")
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()


def continuations(client: Http2Client) -> Iterator[bytes]:
    """A header block without an end (CVE-2024-27316)."""
    yield HeadersFrame(1, client.block()).serialize()
    for _ in range(4000):
        yield ContinuationFrame(1, b"").serialize()


def large_continuations(client: Http2Client) -> Iterator[bytes]:
    """The same, filled."""
    yield HeadersFrame(1, client.block()).serialize()
    for _ in range(4000):
        yield ContinuationFrame(1, b"\x00\x01x\x7f\xff\x7e" + b"y" * 16000).serialize()


def hpack_bomb(client: Http2Client) -> Iterator[bytes]:
    """A field of 4 KB, named again and again at one byte each (CVE-2016-6581)."""
    entry = b"\x40\x01x\x7f\xc0\x1e" + b"y" * 3999
    block = client.block() + entry + b"\xbe" * 16000
    yield HeadersFrame(1, block[:16384], flags=["END_STREAM"]).serialize()
    yield ContinuationFrame(1, block[16384:], flags=["END_HEADERS"]).serialize()


def repeated(frame: bytes, count: int = 5000) -> Callable[[Http2Client], Iterator[bytes]]:
    """The same frame again and again."""

    def flood(client: Http2Client) -> Iterator[bytes]:
        for _ in range(0, count, 50):
            yield frame * min(count, 50)

    return flood


def empty_data(client: Http2Client) -> Iterator[bytes]:
    """A body of nothing that never ends (CVE-2019-9518)."""
    yield HeadersFrame(
        1, client.block(path="/hang", method="POST"), flags=["END_HEADERS"]
    ).serialize()
    yield from repeated(DataFrame(1, b"").serialize())(client)


def padding_only(client: Http2Client) -> Iterator[bytes]:
    """The same, padded."""
    yield HeadersFrame(
        1, client.block(path="/hang", method="POST"), flags=["END_HEADERS"]
    ).serialize()
    for _ in range(200):
        yield DataFrame(1, b"", flags=["PADDED"], pad_length=20).serialize() * 25


ATTACKS = [
    (rapid_reset, ENHANCE_YOUR_CALM, "reset_flood"),
    (patient_reset, ENHANCE_YOUR_CALM, "reset_flood"),
    (made_resets, ENHANCE_YOUR_CALM, "reset_flood"),
    (more_streams, ENHANCE_YOUR_CALM, "reset_flood"),
    (continuations, ENHANCE_YOUR_CALM, "header_block_too_large"),
    (large_continuations, ENHANCE_YOUR_CALM, "header_block_too_large"),
    (hpack_bomb, ENHANCE_YOUR_CALM, "bad_http2"),
    (repeated(SettingsFrame(0).serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(PingFrame(0, b"12345678").serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(PriorityFrame(1, stream_weight=1).serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(b"\x00\x00\x00\x63\x00\x00\x00\x00\x00"), ENHANCE_YOUR_CALM, "frame_flood"),
    (
        repeated(WindowUpdateFrame(0, window_increment=1).serialize()),
        ENHANCE_YOUR_CALM,
        "frame_flood",
    ),
    (empty_data, ENHANCE_YOUR_CALM, "frame_flood"),
    (padding_only, ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", 1), FRAME_SIZE_ERROR, "frame_too_large"),
    (repeated(ContinuationFrame(1, b"").serialize(), 1), PROTOCOL_ERROR, "bad_http2"),
    (repeated(DataFrame(1, b"x").serialize()), PROTOCOL_ERROR, "bad_http2"),
]


@pytest.mark.parametrize(
    ("attack", "code", "reason"), ATTACKS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_attacks_end_their_own_connection(
    secure: tuple[Balancer, Backend],
    attack: Callable[[Http2Client], Iterator[bytes]],
    code: int,
    reason: str,
) -> None:
    """With the fitting code and a line in the log, before they cost much; others are served meanwhile."""
    balancer, backend = secure

    def hanging(exchange: Exchange) -> None:
        (handlers.hang if exchange.request.target == "/hang" else handlers.ok)(exchange)

    backend.handler = hanging
    (worker,) = balancer.worker_pids()
    since = balancer.log_mark
    with connect(balancer) as honest:
        assert honest.get("/before").status == 200
        before = processes.memory_kib(worker)
        with connect(balancer, is_greedy=False) as attacker:
            try:
                for piece in attack(attacker):
                    attacker.send(piece)
            except OSError:
                pass  # cut off while it went on
            else:
                assert attacker.until_closed() == code
            attacker.pump_for(0)
            assert honest.get("/meanwhile").status == 200
        wait_until(lambda: balancer.access_lines(since, reason=reason), PATIENT, "its line")
        assert honest.get("/after").status == 200
        assert processes.memory_kib(worker) - before < 16 * 1024
    assert balancer.worker_pids() == {worker}


def test_who_makes_us_talk_and_does_not_listen_is_cut_off(
    impatient: tuple[Balancer, Backend],
) -> None:
    """Answers to a client that reads nothing fill a bounded buffer; after the client timeout it is gone."""
    balancer, backend = impatient
    backend.handler = handlers.answer(200, b"", ("X-Fill", "y" * 7000))
    (worker,) = balancer.worker_pids()
    with connect(balancer, settings={1: 0}) as client:
        before = processes.memory_kib(worker)
        client.socket.settimeout(0.5)
        sent = 0
        try:
            for number in range(1, 8001, 2):
                block = client.block()
                client.send(HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]))
                sent += 1
                time.sleep(0.0005)
        except OSError:
            pass
        assert processes.memory_kib(worker) - before < 24 * 1024
        wait_until(lambda: not backend_is_busy(balancer), PATIENT, "it is given up")


def backend_is_busy(balancer: Balancer) -> bool:
    """Whether a request still goes on: each that ends has its line."""
    return not balancer.access_lines(status=499)


def test_the_table_for_answers_stays_small(secure: tuple[Balancer, Backend]) -> None:
    """A client may allow gigabytes for it; ours are 4 KiB, and what it decodes is right."""
    balancer, backend = secure
    count = 0

    def varied(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        exchange.reply(200, b"", [(f"X-{count}", "v" * 500)])

    backend.handler = varied
    (_worker,) = balancer.worker_pids()
    with connect(balancer, settings={1: 2**32 - 1}) as client:
        client._decoder.max_allowed_table_size = 2**32 - 1
        for _ in range(30):
            reply = client.get("/")
            assert reply.get(f"x-{count}") == "v" * 500
        assert client._decoder.header_table_size == 4096


def test_rubbish_ends_its_connection(secure: tuple[Balancer, Backend]) -> None:
    """HTTP/1.1 where HTTP/2 was agreed upon, and bytes of no kind."""
    balancer, _ = secure
    dice = random.Random(4)
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", dice.randbytes(5000)):
        made = context()
        made.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(balancer.address, PATIENT) as plain,
            made.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(data)
            try:
                while tls.recv(1000):
                    pass
            except OSError:
                pass
    with connect(balancer) as client:
        assert client.get("/after").status == 200
