"""HTTP/2 in front: what a request and its answer become, streams side by side, windows both ways."""

from __future__ import annotations

import hashlib
import socket
import threading

import pytest
from harness import (
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
from harness.http2 import LARGEST_WINDOW
from harness.secure import (
    FLOW_CONTROL_ERROR,
    INTERNAL_ERROR,
    MAX_STREAMS,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    connect,
    context,
)
from hyperframe.frame import (
    SettingsFrame,
    WindowUpdateFrame,
)

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
        assert str(request.get("CDN-Loop")).startswith("load-balancer-")
        assert request.get("Via") is None
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
        theirs = ["content-length", "date", "set-cookie", "set-cookie", "x-public"]
        assert names == sorted([*theirs, "x-request-id"])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_body_that_there_is_not_has_a_length(
    secure: tuple[Balancer, Backend], method: str
) -> None:
    """HTTP/2 needs none; servers of HTTP/1.1 answer 411 without."""
    balancer, backend = secure
    backend.handler = handlers.ok
    with connect(balancer) as client:
        assert client.answer(client.request("/empty", method=method)).status == 200
    asked = backend.requests[-1]
    assert (asked.get_all("Content-Length"), asked.get_all("Transfer-Encoding")) == (["0"], [])


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


@pytest.mark.parametrize(("setting", "named"), [("none", []), ("ours", ["ours"])])
def test_the_server_field_of_an_interim_answer(
    files: dict[str, str], setting: str, named: list[str]
) -> None:
    """As configured, over HTTP/2 and HTTP/1.1 alike, in place of the backend's."""
    hints = b"HTTP/1.1 103 Early Hints\r\nServer: secret/1.2\r\n\r\n"
    answer = hints + b"HTTP/1.1 200 OK\r\nServer: secret/1.2\r\nContent-Length: 0\r\n\r\n"
    with (
        Backend(handlers.raw(answer)) as backend,
        Balancer([backend], tls=files, server_header=setting) as balancer,
    ):
        with connect(balancer) as client:
            reply = client.get("/")
            assert reply.interim == [(103, [("server", name) for name in named])]
            assert [value for name, value in reply.headers if name == "server"] == named
        with (
            socket.create_connection(balancer.address, PATIENT) as plain,
            context().wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            seen = b"".join(iter(lambda: tls.recv(1000), b""))
            assert seen.startswith(b"HTTP/1.1 103 ")
            assert seen.count(b"Server: ") == 2 * len(named)
            assert b"secret" not in seen


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
