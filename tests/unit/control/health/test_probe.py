"""One check: what is sent, how the answer is read, and what each end of it is called."""

from __future__ import annotations

import io
import json
import socket
import ssl
import time
from itertools import product
from typing import Any

import pytest
import requests
from fakes.connections import Pieces
from replay import corpus

from app import config as configuration
from app.config import HealthCheck, Server
from app.connecting import happy_eyeballs
from app.connecting.happy_eyeballs import Endpoint
from app.control.health import checker as checkers
from app.control.health import probe as probes
from app.control.health.probe import ProbeRequest, ProbeSession, probe
from app.control.names import FixedPlace
from app.errors import BadResponse
from app.wire import lenient
from app.wire.response import MAX_HEAD_BYTES, Interims


class Connection(Pieces):
    """A server's connection, whatever it is asked."""

    def sendall(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class Answer(ProbeSession):
    """A session whose answer is given."""

    def __init__(self, answer: int | BaseException, body: str = "") -> None:
        super().__init__()
        self.answer = answer
        self.body = body

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if isinstance(self.answer, BaseException):
            raise self.answer
        response = requests.Response()
        response.status_code = self.answer
        response.raw = io.BytesIO(self.body.encode())
        return response


def request_for(server: str, **health_check: Any) -> ProbeRequest:
    document = {"servers": [server], "health_check": health_check}
    config = configuration.parse(json.dumps(document))
    assert isinstance(config.health_check, HealthCheck)
    assert isinstance(config.servers[0], Server)
    server_ = config.servers[0]
    return ProbeRequest(server_, FixedPlace(server_), config.health_check, None, "off", ())


@pytest.mark.parametrize(
    ("answer", "ok", "reason"),
    [
        (204, True, "ok"),
        (399, True, "ok"),
        (503, False, "status_503"),
        (ConnectionRefusedError(), False, "connection_refused"),
        (ConnectionResetError(), False, "reset"),
        (BrokenPipeError(), False, "reset"),
        (TimeoutError(), False, "timeout"),
        (OSError(113, "No route to host"), False, "unreachable"),
        (FileNotFoundError(2, "no socket"), False, "unreachable"),
        (OSError(24, "Too many open files"), None, "local_error"),
        (probes.socket.gaierror(-2, "unknown"), False, "dns_error"),
        (UnicodeError("label too long"), False, "dns_error"),
        (ssl.SSLCertVerificationError("self-signed"), False, "certificate_invalid"),
        (ssl.SSLError("handshake failure"), False, "tls_error"),
        (BadResponse("garbage"), False, "bad_response"),
    ],
)
def test_every_end_of_a_check_has_its_reason(
    answer: int | BaseException, ok: bool | None, reason: str
) -> None:
    outcome = probe(Answer(answer), request_for("http://127.0.0.1:1"))
    assert (outcome.ok, outcome.reason) == (ok, reason)


@pytest.mark.parametrize(("seconds", "asked", "ok"), [(1.9, 1, False), (30.0, 2, True)])
def test_a_check_in_which_we_slept_is_made_again(
    monkeypatch: pytest.MonkeyPatch, seconds: float, asked: int, ok: bool
) -> None:
    """Its timeout was over when we woke up; a server that is only slow is asked once."""
    request, session = request_for("http://127.0.0.1:1", timeout=1), Answer(200)
    clock = iter([0.0, seconds, seconds, seconds])
    monkeypatch.setattr(probes.time, "perf_counter", lambda: next(clock))
    answers = iter([TimeoutError(), 200])
    sent: list[object] = []

    def send(prepared: requests.PreparedRequest, **_: Any) -> requests.Response:
        sent.append(prepared)
        session.answer = next(answers)
        return Answer.send(session, prepared)

    monkeypatch.setattr(session, "send", send)
    assert (probe(session, request).ok, len(sent)) == (ok, asked)


def test_expected_status_is_the_configuration_s() -> None:
    request = request_for("http://127.0.0.1:1", expected_status="200,503")
    assert probe(Answer(503), request).ok
    assert not probe(Answer(204), request).ok


@pytest.mark.parametrize(
    ("check", "body", "reason"),
    [
        ({"body": "up"}, "we are up", "ok"),
        ({"body": "up"}, "we are down", "body_mismatch"),
        ({"body": "up", "expected_status": 201}, "up", "status_200"),
        ({"body_regex": "^(ok|ready)$"}, "ready", "ok"),
        ({"body_regex": "^(ok|ready)$"}, "not ready", "body_mismatch"),
        ({"body": "a", "body_regex": "b"}, "b", "body_mismatch"),
        ({"body": "a", "body_regex": "b"}, "ab", "ok"),
    ],
)
def test_text_and_expression_must_be_in_the_body(
    check: dict[str, Any], body: str, reason: str
) -> None:
    outcome = probe(Answer(200, body), request_for("http://127.0.0.1:1", **check))
    assert (outcome.ok, outcome.reason) == (reason == "ok", reason)


def test_an_expression_that_takes_for_ever_fails_the_check() -> None:
    """Exponential in the length of its text; nothing else runs in this process meanwhile."""
    request = request_for("http://127.0.0.1:1", body_regex="^(a+)+$")
    started = time.process_time()
    outcome = probe(Answer(200, "a" * 40 + "b"), request)
    assert (outcome.ok, outcome.reason) == (False, "regex_too_slow")
    assert time.process_time() - started < 1
    assert probe(Answer(200, "a" * 40), request).ok


def test_a_connect_is_enough_where_no_more_is_asked() -> None:
    """No request, no answer, no status."""
    sent: list[bytes] = []

    class Connection:
        sendall = sent.append

        def close(self) -> None:
            sent.append(b"closed")

    request = request_for("http://127.0.0.1:1", type="tcp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "_connect", lambda _: Connection())
        outcome = probe(ProbeSession(), request)
    assert (outcome.ok, outcome.reason, outcome.status) == (True, "ok", None)
    assert sent == [b"closed"]


def test_the_request_names_server_and_path_and_closes() -> None:
    request = request_for("http://127.0.0.1:1/app", path="/up?x=1")
    assert request.head == (
        b"GET /app/up?x=1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nUser-Agent: load-balancer-health-check\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    )


def test_the_method_is_the_configuration_s() -> None:
    request = request_for("http://127.0.0.1:1", method="HEAD")
    assert request.head.startswith(b"HEAD / HTTP/1.1\r\n")
    assert request.method == "HEAD"


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("http://example.org", b"example.org"),
        ("https://example.org", b"example.org"),
        ("https://example.org:80", b"example.org:80"),
        ("http://[::1]:8001", b"[::1]:8001"),
        ("unix:/run/app.sock", b"localhost"),
    ],
)
def test_host_is_the_server_s_authority(server: str, host: bytes) -> None:
    assert b"\r\nHost: " + host + b"\r\n" in request_for(server).head


def test_configured_host_and_headers_win() -> None:
    request = request_for("http://127.0.0.1:1", host="shop.test", headers={"accept": "text/plain"})
    assert b"\r\nHost: shop.test\r\n" in request.head
    assert b"\r\naccept: text/plain\r\n" in request.head
    assert b"*/*" not in request.head


def test_a_head_may_come_in_pieces_and_after_interim_responses() -> None:
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"
    request = request_for("http://127.0.0.1:1")
    for cut in range(1, len(head) - 4):
        read, rest = probes._read_head(Pieces(head[:cut], head[cut:]), request)
        assert (read.status, read.fields, rest) == (200, [(b"A", b"b")], b"body")


def test_a_head_that_never_ends_is_given_up_at_its_limit() -> None:
    endless = Pieces(b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 1000] * 100)
    with pytest.raises(BadResponse, match="too large"):
        probes._read_head(endless, request_for("http://127.0.0.1:1"))
    assert MAX_HEAD_BYTES < endless.read <= MAX_HEAD_BYTES + probes.READ_SIZE


def test_garbage_and_an_early_end_are_told_apart() -> None:
    request = request_for("http://127.0.0.1:1")
    with pytest.raises(BadResponse):
        probes._read_head(Pieces(b"SSH-2.0-OpenSSH\r\n"), request)
    with pytest.raises(ConnectionResetError):
        probes._read_head(Pieces(b"HTTP/1.1 200 OK\r\n"), request)


# What a server answers, by the case that it stands in among the wire cases; and what those lack.
ANSWERS = {str(case): case.response for case in corpus.load() if case.response is not None}
ANSWERS |= {
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
    "more interim answers than one waits for": b"HTTP/1.1 103 \r\n\r\n" * 40
    + b"HTTP/1.1 200 OK\r\n\r\n",
    "a large head": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
    "a head that is too large": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
}


FORGIVEN = ([], ["bare_lf"], ["obs_fold"], ["bare_lf", "obs_fold"])


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_requests_and_checks_read_a_head_alike(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused of an answer to a request is refused of one to a check, and forgiven alike."""
    for method, mended, parts in product(("GET", "HEAD"), FORGIVEN, (1, 100)):
        document = {
            "servers": ["http://127.0.0.1:1"],
            "health_check": {"method": method},
            "mend_responses": mended,
        }
        config = configuration.parse(json.dumps(document))
        step = max(7, len(answer) // parts)
        pieces = [answer[at : at + step] for at in range(0, len(answer), step)]
        monkeypatch.setattr(probes, "_connect", lambda _, pieces=pieces: Connection(*pieces))
        outcome = checkers.checks(FixedPlace)(config.servers[0], config)()
        expected = asked(pieces, method.encode(), lenient.reader(mended))
        assert (outcome.status or outcome.reason) == expected, (method, mended)


def asked(pieces: list[bytes], method: bytes, read_head: lenient.ReadHead) -> int | str:
    """What a request makes of an answer (app.worker.upstream): its status, or why there is none."""
    data = b""
    seen, interims = 0, Interims(0.0)
    try:
        for piece in pieces:
            data += piece
            head = read_head(data, method, seen)
            while head is not None:
                if head.status >= 200 or head.status == 101:
                    return head.status
                interims.count(head, 0.0)
                data = data[head.consumed :]
                head = read_head(data, method, 0)
            seen = len(data)
    except BadResponse:
        return "bad_response"
    return "reset"


class Place:
    """Where a server is, and what was told of it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def endpoints(self) -> list[Endpoint]:
        return [HERE]

    def passed(self, endpoint: Endpoint) -> None:
        self.told.append(("passed", endpoint))

    def failed(self, endpoint: Endpoint | None) -> None:
        self.told.append(("failed", endpoint))


HERE = (socket.AF_INET, ("192.0.2.1", 80))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", [("passed", HERE)]),
        (b"HTTP/1.1 500 No\r\n\r\n", [("failed", HERE)]),
        (b"SSH", [("failed", HERE)]),
        (ConnectionRefusedError(), [("failed", None)]),
        (OSError(24, "Too many open files"), []),
    ],
)
def test_the_place_is_told_what_came_of_it_there(
    answer: bytes | OSError, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was reached, none where nothing was, nothing where the fault is ours."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect(endpoints: list[Endpoint], seconds: float) -> tuple[socket.socket, Endpoint]:
        if isinstance(answer, OSError):
            raise answer
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        return ours, endpoints[0]

    monkeypatch.setattr(happy_eyeballs, "connect", connect)
    request = request_for("http://app:80")
    request.place = place = Place()
    with ours, theirs:
        probe(ProbeSession(), request)
    assert place.told == told
