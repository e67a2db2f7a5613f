"""Backends that hang, refuse, reset, drip or speak garbage: right status, reason, in bounded time."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import trustme
from harness import (
    GUNICORN,
    PROMPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    NoAnswer,
    Truncated,
    handlers,
    health_check,
    seconds,
    wait_until,
)

LIMITS = {
    "connect": seconds(0.5),
    "read": seconds(0.5),
    "client": seconds(5),
    "total": seconds(1.5),
}
BOUND = seconds(2.5)
"""Within this every failure is answered: the total limit, and a second for a busy machine."""


@pytest.fixture(scope="module", name="impatient_backend")
def _impatient_backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="module", name="impatient")
def _impatient(impatient_backend: Backend) -> Iterator[Balancer]:
    """In front of one backend, with limits of half a second."""
    with Balancer([impatient_backend], timeouts=LIMITS) as balancer:
        yield balancer


def check_refusal(balancer: Balancer, target: str, status: int, reason: str) -> None:
    """One GET is answered in time with this status and reason, in the body and in the log."""
    mark, started = balancer.log_mark, time.monotonic()
    response = balancer.get(target, [("Accept", "application/json")])

    assert time.monotonic() - started < BOUND
    assert response.status == status
    assert response.json()["reason"] == reason
    line = balancer.access_line(since=mark, target=target)
    assert (line["status"], line["reason"]) == (status, reason)
    assert line["request_id"] == response.json()["request_id"]


def test_hung_backend(impatient: Balancer, impatient_backend: Backend) -> None:
    """A backend that takes the request and says nothing: 504, and its connection is closed."""
    impatient_backend.handler = handlers.hang
    impatient_backend.clear()
    check_refusal(impatient, "/hung", 504, "response_timeout")

    request = impatient_backend.wait_for_request()
    assert request.connection.closed_by_peer.wait(seconds(2))


def test_hung_behind_an_interim_answer(impatient: Balancer, impatient_backend: Backend) -> None:
    """An interim answer ends no waiting: 504 when the final one does not come."""

    def hint(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        handlers.hang(exchange)

    impatient_backend.handler = hint
    with impatient.connect() as client:
        client.send_head("GET", "/hinted")
        assert client.read_head().status == 103
        started = time.monotonic()
        assert client.read_response().status == 504
        assert time.monotonic() - started < BOUND
    assert impatient.access_line(target="/hinted")["reason"] == "response_timeout"


def test_dripping_head(impatient: Balancer, impatient_backend: Backend) -> None:
    """A head that comes byte by byte never trips the limit between bytes; the total limit ends it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    impatient_backend.handler = handlers.drip(head, seconds(0.2))
    check_refusal(impatient, "/dripping-head", 504, "response_timeout")


def test_dripping_body_is_cut_at_the_total_limit(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """A body that comes byte by byte is passed on as it comes, and cut when the time is over."""
    mark, started = impatient.log_mark, time.monotonic()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        handlers.drip(b"x" * 100, seconds(0.2))(exchange)

    impatient_backend.handler = handler
    with pytest.raises(Truncated):
        impatient.get("/dripping-body")

    assert time.monotonic() - started < BOUND
    line = impatient.access_line(since=mark, target="/dripping-body")
    assert line["status"] == 200
    assert line["reason"]


def test_an_answer_that_is_not_taken_is_cut_at_the_total_limit(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """The server is fast, the client takes nothing: it is waited for no longer than for a server."""
    mark, started = impatient.log_mark, time.monotonic()
    impatient_backend.handler = handlers.stream(50_000_000)
    with Client(impatient.address, receive_buffer=4096) as client:
        client.send_head("GET", "/not-taken")
        line = impatient.access_line(since=mark, target="/not-taken")
        assert time.monotonic() - started < BOUND
    assert (line["status"], line["reason"]) == (200, "client_timeout")


def test_an_answer_that_is_taken_slowly_is_cut_at_the_total_limit(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """A client that takes a little all the time has no longer than one that takes nothing."""
    mark, started = impatient.log_mark, time.monotonic()
    impatient_backend.handler = handlers.stream(200_000_000)
    with Client(impatient.address) as client:
        client.send_head("GET", "/taken-slowly")
        with suppress(ConnectionResetError):
            while client.read_some(40_000) and time.monotonic() - started < BOUND:
                time.sleep(0.01)
        line = impatient.access_line(since=mark, target="/taken-slowly")
    assert (line["status"], line["reason"]) == (200, "client_timeout")


def test_backend_silent_inside_the_body(impatient: Balancer, impatient_backend: Backend) -> None:
    """Half a body and then nothing: the client's connection is cut after the read limit."""
    mark = impatient.log_mark

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        exchange.wait_for_peer()

    impatient_backend.handler = handler
    with pytest.raises(Truncated):
        impatient.get("/silent-body")

    assert impatient.access_line(since=mark, target="/silent-body")["reason"]


def test_resetting_backend(impatient: Balancer, impatient_backend: Backend) -> None:
    """A fresh connection that is reset after the request: 502."""
    impatient_backend.hang_up()
    impatient_backend.handler = handlers.reset
    check_refusal(impatient, "/reset", 502, "reset_before_head")


def test_closing_backend(impatient: Balancer, impatient_backend: Backend) -> None:
    """A fresh connection that is closed after the request, unanswered: 502."""
    impatient_backend.hang_up()
    impatient_backend.handler = handlers.close
    check_refusal(impatient, "/close", 502, "reset_before_head")


GARBAGE = {
    "no-http": b"220 mail.example ESMTP\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "no-status": b"HTTP/1.1 \r\nContent-Length: 0\r\n\r\n",
    "letters-as-status": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "unknown-version": b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "negative-length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "length-in-words": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nab",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: zip\r\n\r\nab",
    "chunked-not-last": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "nul-in-value": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "no-colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
    "endless-head": b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 2_000_000,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_speaking_backend(
    impatient: Balancer, impatient_backend: Backend, data: bytes, request: pytest.FixtureRequest
) -> None:
    """A response that cannot be read in exactly one way: 502, and nothing of it reaches the client."""
    impatient_backend.hang_up()
    impatient_backend.handler = handlers.raw(data)
    check_refusal(impatient, f"/garbage/{request.node.callspec.id}", 502, "bad_response")


def test_garbage_in_chunks_cuts_the_connection(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """A chunk size that is no number, after the head has gone out: cut, never a good ending."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    impatient_backend.handler, steps = handlers.by_steps(
        head + b"3\r\nabc\r\n", b"xyz\r\nabc\r\n0\r\n\r\n"
    )
    with impatient.connect() as client:
        client.send_head("GET", "/garbage-chunk")
        steps[0].set()
        assert client.read_head().status == 200
        assert client.read_chunk() == b"abc"
        steps[1].set()
        with pytest.raises(Truncated):
            client.read_chunk()


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_what_came_of_a_cut_answer_reaches_its_client(
    impatient: Balancer, impatient_backend: Backend, framing: str
) -> None:
    """Although it is still on its way when the server has gone: an end follows it, not a reset."""
    body = b"x" * 24_000
    sent = b"%x\r\n%b\r\n" % (len(body), body) if "chunked" in framing else body
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\nX-A: 1\r\n\r\n".encode()
    impatient_backend.handler = handlers.raw(head + sent)
    target = f"/cut/{framing[:7]}"
    with socket.socket() as client:
        # The client's kernel takes a few KB, the rest waits in ours.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(BOUND)
        client.connect((impatient.host, impatient.port))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
        assert impatient.access_line(target=target)["reason"] == "truncated"
        received = b""
        while piece := client.recv(4096):
            received += piece
    assert received.partition(b"\r\n\r\n")[2] == sent


def test_garbage_after_a_response_is_not_the_next_answer(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """Bytes past the end of a response are dropped with their connection, not served to the next one."""
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    impatient_backend.handler = handlers.raw(good + b"ok" + good + b"no", keep=True)
    assert [impatient.get("/overrun").body for _ in range(4)] == [b"ok"] * 4


def test_bytes_that_were_there_before_the_request_are_not_its_answer(
    impatient: Balancer, impatient_backend: Backend
) -> None:
    """What a backend says on an idle connection answers nobody, even if the worker was too busy to see it.

    The worker is stopped while both arrive, so that it finds them together when it goes on.
    """
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    speak, said = threading.Event(), threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(good + b"ok")
        if exchange.request.target == "/second":  # its connection serves the next round: silent
            return
        speak.wait(PROMPT)
        exchange.send(good + b"no")
        said.set()

    impatient_backend.handler = handler
    (worker,) = impatient.worker_pids()
    for _ in range(5):
        speak.clear()
        said.clear()
        with impatient.connect() as client:
            assert client.get("/first").body == b"ok"
            impatient.signal(signal.SIGSTOP, worker)
            try:
                speak.set()
                assert said.wait(PROMPT)
                client.send_head("GET", "/second")
            finally:
                impatient.signal(signal.SIGCONT, worker)
            assert client.read_response().body == b"ok"


def test_refusing_backend() -> None:
    """Nobody listens: 502, nothing was sent."""
    with Backend() as backend:
        backend.down()
        with Balancer([backend], timeouts=LIMITS) as balancer:
            check_refusal(balancer, "/refused", 502, "connection_refused")


def test_refusing_servers_cost_one_attempt_each() -> None:
    """Another server is tried when a connection cannot be made, whatever the method; body included."""
    with Backend() as refusing, Backend(handlers.echo) as good:
        refusing.down()
        with Balancer([refusing, good], timeouts=LIMITS) as balancer, balancer.connect() as client:
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH") * 2:
                body = None if method == "GET" else b"precious"
                assert client.request(method, f"/{method}", body=body).status == 200
            lines = balancer.wait_for_access(10)

            # In turn with one other server every request may meet the refusing one first.
            assert max(len(line["attempts"]) for line in lines) == 2
            assert {line["backend"] for line in lines} == {good.address}
            assert all(request.is_complete for request in good.requests)
            assert len(good.requests) == 10


def test_attempts_are_bounded() -> None:
    """Of servers that break off, as many are asked as ``retries.attempts`` says, each once."""
    breaking = [Backend(handlers.reset) for _ in range(4)]
    with ExitStack() as stack:
        for backend in breaking:
            stack.enter_context(backend)
        balancer = stack.enter_context(Balancer(breaking, timeouts=LIMITS, retries={"attempts": 3}))
        check_refusal(balancer, "/nobody", 502, "reset_before_head")
        tried = [each["server"] for each in balancer.access_line(target="/nobody")["attempts"]]

    assert len(tried) == len(set(tried)) == 3
    assert sum(len(backend.requests) for backend in breaking) == 3


def _one(balancer: Balancer, method: str) -> int:
    with balancer.connect() as client:
        return client.request(method, "/x").status


def test_servers_that_refuse_are_passed_over() -> None:
    """Two of three are dead at once: the third gets every request, whatever the method."""
    dead = [Backend(), Backend()]
    for backend in dead:
        backend.down()
    with Backend() as good, Balancer([*dead, good], timeouts=LIMITS) as balancer:
        statuses = [_one(balancer, method) for method in ("GET", "POST") * 6]
    for backend in dead:
        backend.stop()

    assert set(statuses) == {200}
    assert len(good.requests) == len(statuses)


def test_connection_that_is_never_made() -> None:
    """A full accept queue leaves a connection half open: 504 after the connect limit."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        # The queue takes one or two; after that the kernel drops what asks for a connection.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        limits = {**LIMITS, "total": 0}
        with Balancer([f"http://127.0.0.1:{address[1]}"], timeouts=limits) as balancer:
            check_refusal(balancer, "/never", 504, "connect_timeout")
        for filler in fillers:
            filler.close()


def test_what_was_sent_is_not_sent_again() -> None:
    """A POST that a backend has seen is not tried elsewhere when its fresh connection is reset."""
    with Backend(handlers.reset) as resetting, Backend() as good:
        with Balancer([resetting, good]) as balancer, balancer.connect() as client:
            statuses = [client.request("POST", "/once", body=b"pay").status for _ in range(6)]

        assert sorted(statuses) == [200] * 3 + [502] * 3
        assert len(resetting.requests) == len(good.requests) == 3


def test_backend_that_dies_inside_the_body(balancer: Balancer, backend: Backend) -> None:
    """A body that ends early, by length or by chunk, cuts the client's connection and is logged."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"
    for name, data in (("length", whole), ("chunks", chunks)):
        mark = balancer.log_mark
        backend.handler = handlers.raw(data)
        with balancer.connect() as client:
            with pytest.raises(Truncated) as caught:
                client.get(f"/dies/{name}")
            assert not isinstance(caught.value, NoAnswer)
            assert client.is_closed()
        line = balancer.access_line(since=mark, target=f"/dies/{name}")
        assert line["reason"]


def test_all_servers_down() -> None:
    """503 with Retry-After, as JSON or as text, whichever the client accepts."""
    with Backend() as first, Backend() as second:
        first.down()
        second.down()
        with Balancer([first, second], health_check=health_check()) as balancer:
            as_json = balancer.get("/", [("Accept", "application/json")])
            as_text = balancer.get("/", [("Accept", "text/plain")])
            as_html = balancer.get("/", [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")])

            assert (as_json.status, as_text.status, as_html.status) == (503, 503, 503)
            for response in (as_json, as_text, as_html):
                assert int(response.get("Retry-After") or "") > 0
            assert (as_json.get("Content-Type") or "").startswith("application/json")
            assert as_json.json()["reason"] == "none_healthy"
            assert (as_text.get("Content-Type") or "").startswith("text/plain")
            assert "none_healthy" in as_text.text
            ids = [line["request_id"] for line in balancer.wait_for_access(3)]
            assert as_json.json()["request_id"] == ids[0]
            assert ids[1] in as_text.text
            assert all(line["backend"] is None for line in balancer.access_lines())


def test_who_finds_all_servers_down_may_come_back_with_the_next_fast_check() -> None:
    """Not an interval later, nor as many as ``healthy_threshold`` asks for: then one pass is enough."""
    check = health_check(60, fast_interval=0.5, healthy_threshold=3)
    with Backend() as backend:
        backend.down()
        with Balancer([backend], health_check=check) as balancer:
            after = [int(balancer.get().get("Retry-After") or "") for _ in range(20)]
    assert set(after) <= {1, 2, 3}


def test_no_servers_at_all() -> None:
    """An empty list is a valid start: every request gets 503, and a body that fits its head."""
    with Balancer([]) as balancer:
        assert balancer.get("/").status == 503
        with balancer.connect() as client:
            assert client.request("POST", "/", body=b"x" * 1000).status == 503
        with balancer.connect() as client:
            response = client.request("HEAD", "/")
        assert (response.status, response.body) == (503, b"")
        assert response.get("Retry-After")


def test_errors_show_no_internals(balancer: Balancer, backend: Backend) -> None:
    """What the client is told names no server, no address and no module."""
    backend.handler = handlers.raw(b"garbage\r\n\r\n")
    text = balancer.get("/secret").text
    for internal in (str(backend.port), "127.0.0.1", "Traceback", "app.", "gevent", "gunicorn"):
        assert internal not in text


def test_a_failing_server_does_not_hold_up_others() -> None:
    """With one of two servers hanging, requests to the other are answered meanwhile.

    They are POSTs, because what has been sent is tried again elsewhere if it is a GET.
    """
    with (
        Backend(handlers.hang) as hung,
        Backend() as good,
        Balancer([hung, good], timeouts={"read": seconds(3)}) as balancer,
    ):
        results: list[int] = []
        started = time.monotonic()

        def post() -> None:
            with balancer.connect() as client:
                results.append(client.request("POST", "/", body=b"once").status)

        threads = [threading.Thread(target=post) for _ in range(20)]
        for thread in threads:
            thread.start()
        wait_until(lambda: results.count(200) == 10, seconds(2.5))
        assert time.monotonic() - started < seconds(2.5)
        for thread in threads:
            thread.join()
        assert results.count(504) == 10


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_a_head_is_mended_where_the_configuration_forgives(command: tuple[str, ...]) -> None:
    """Bare LF and folds of an old server arrive as proper fields; another fault is still refused."""
    old = (
        b"HTTP/1.1 103 Early Hints\nLink: </a>\n\n"
        b"HTTP/1.1 200 OK\nX-Long: one,\n  two\nContent-Length: 2\n\nok"
    )
    with (
        Backend(handlers.raw(old, keep=True)) as backend,
        Balancer([backend], command=command, mend_responses=["bare_lf", "obs_fold"]) as balancer,
    ):
        for target in ("/one", "/two"):
            response = balancer.get(target)
            assert (response.status, response.body) == (200, b"ok")
            assert response.get("X-Long") == "one, two"
        assert backend.requests[0].connection is backend.requests[1].connection
        backend.handler = handlers.raw(old.replace(b"X-Long: ", b"X-Long : "), keep=True)
        check_refusal(balancer, "/bad", 502, "bad_response")


def test_certificate_that_cannot_be_verified() -> None:
    """An https:// server with a certificate that nobody we know has signed is refused, unasked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(seconds(20))

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                try:
                    with context.wrap_socket(sock, server_side=True) as secure:
                        secure.recv(65536)
                        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                except (ssl.SSLError, OSError):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with Balancer([url], timeouts=LIMITS, retries={"attempts": 1}) as balancer:
            check_refusal(balancer, "/unverified", 502, "certificate_invalid")
        thread.join(seconds(5))
