"""The checker: what it does with results. No greenlet runs and no socket is opened here."""

from __future__ import annotations

import io
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from app import config as configuration
from app.config import Config, HealthCheck, Server
from app.control.health import probe as probes
from app.control.health import probe_body as bodies
from app.control.health.checker import BUMP_SECONDS, START_PACE_SECONDS, Checker, Watch
from app.control.health.intervals import FAST_CHECKS_PER_SECOND
from app.control.health.probe import BadHead, Outcome, ProbeRequest, ProbeSession, probe
from app.control.health.slow_start import SlowStart
from app.shared import publication
from app.shared.layout import CHECKED, EJECTED, EJECTION, EPOCH, IDENTITY, STATE, TRUSTED, UNCHECKED
from app.shared.table import Table, identity_of
from app.telemetry import log

OK = Outcome(True, "ok", 200, 1.5)
FAILED = Outcome(False, "connection_refused")
EXCUSED = Outcome(None, "local_error", detail="no descriptors")


class Later:
    """Takes the place of gevent.spawn_later: remembers what would run, and when."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.killed = 0

    def __call__(self, seconds: float, function: Callable[..., None], *arguments: Any) -> Later:
        self.calls.append((seconds, function, arguments))
        return self

    def kill(self, block: bool) -> None:
        self.killed += 1

    def watches(self) -> dict[str, Watch]:
        return {call[2][0].server.url: call[2][0] for call in self.calls if call[2]}

    def delays(self) -> list[float]:
        return [seconds for seconds, _, arguments in self.calls if arguments]


class House:
    """A checker with everything around it that a test looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = Table.create(rows=16, slots=2, blob_bytes=10_000)
        self.events: list[dict[str, Any]] = []
        self.later = Later()
        self.checker = self.successor()

        def event(logger: str, level: str, message: str, **fields: Any) -> None:
            self.events.append({"logger": logger, "level": level, "message": message, **fields})

        monkeypatch.setattr(log, "event", event)

    def successor(self) -> Checker:
        """The checker of a new control process, as after the death of the former."""
        self.later = Later()
        slow_start = self.slow_start = SlowStart(self.table)
        return Checker(self.table, slow_start, lambda server, config: lambda: OK, self.later)

    def adopt(self, *ports: int, **health_check: Any) -> int:
        config = configure(*ports, **health_check)
        identities = [identity_of(server.url) for server in config.servers]
        sequence = publication.propose(self.table, configuration.to_json(config), identities)
        self.checker.adopt(sequence, config)
        publication.publish(self.table, sequence)
        return sequence

    def watch(self, port: int) -> Watch:
        return self.later.watches()[url(port)]

    def healthy(self, port: int) -> bool:
        return self.table.is_healthy(self.table.row_index()[identity_of(url(port))])


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def configure(*ports: int, **health_check: Any) -> Config:
    document = {"servers": [url(port) for port in ports], "health_check": health_check or {}}
    if health_check.get("off"):
        document["health_check"] = False
    return configuration.parse(json.dumps(document))


def test_acknowledges_once_every_new_server_has_a_verdict(house: House) -> None:
    sequence = house.adopt(1, 2)
    house.checker.record(house.watch(1), OK)
    assert house.table.cells[CHECKED] < sequence
    house.checker.record(house.watch(2), FAILED)
    assert house.table.cells[CHECKED] == sequence
    assert (house.healthy(1), house.healthy(2)) == (True, False)


def test_who_becomes_healthy_starts_slowly(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones and those that come back; not who was healthy all along, and before workers see it."""
    begun: list[tuple[int, bool]] = []

    def begin(row: int) -> None:
        begun.append((row, house.table.is_healthy(row)))

    monkeypatch.setattr(house.slow_start, "begin", begin)
    house.adopt(1, 2, unhealthy_threshold=1, healthy_threshold=1)
    watch = house.watch(1)
    for outcome in (OK, OK, FAILED, OK):
        house.checker.record(watch, outcome)
    house.checker.record(house.watch(2), FAILED)
    assert begun == [(watch.row, False)] * 2
    house.adopt(1, 2, off=True)
    assert begun[2:] == [(house.watch(2).row, False)]


def test_without_servers_there_is_nothing_to_wait_for(house: House) -> None:
    assert house.adopt() == house.table.cells[CHECKED]


def test_without_health_checks_every_server_is_healthy_and_none_is_watched(house: House) -> None:
    sequence = house.adopt(1, 2, off=True)
    assert (house.healthy(1), house.healthy(2)) == (True, True)
    assert house.table.cells[CHECKED] == sequence
    assert house.later.watches() == {}


def test_logs_a_change_once_and_with_all_its_fields(house: House) -> None:
    house.adopt(1, unhealthy_threshold=2)
    for outcome in (OK, OK, FAILED, FAILED, FAILED, FAILED):
        house.checker.record(house.watch(1), outcome)
    up, down = house.events
    assert up["message"] == "backend is healthy"
    assert down == {
        "logger": "health",
        "level": "warning",
        "message": "backend is unhealthy",
        "backend": "127.0.0.1:1",
        "reason": "connection_refused",
        "healthy": False,
        "status": None,
        "consecutive": 2,
        "duration_ms": 0.0,
    }


def test_while_nobody_is_healthy_one_pass_is_enough(house: House) -> None:
    """A server that may be well is better than none; with another in service the threshold holds."""
    house.adopt(1, 2, healthy_threshold=3, unhealthy_threshold=1)
    for port in (1, 2):
        house.checker.record(house.watch(port), FAILED)
    house.checker.record(house.watch(1), OK)
    assert house.healthy(1)
    house.checker.record(house.watch(2), OK)
    assert not house.healthy(2)


def test_a_successor_knows_that_somebody_is_healthy(house: House) -> None:
    """The threshold of others holds after the death of the former too."""
    house.adopt(1, 2, healthy_threshold=2)
    house.checker.record(house.watch(1), OK)
    house.checker.record(house.watch(2), FAILED)
    house.checker = house.successor()
    house.adopt(1, 2, healthy_threshold=2)
    house.checker.record(house.watch(2), OK)
    assert not house.healthy(2)


def test_the_next_check_comes_soon_while_in_doubt(house: House) -> None:
    """Between thresholds and while set aside; of an unhealthy server at first, then less and less."""
    house.adopt(1, 2, interval=8, fast_interval=1, unhealthy_threshold=2)
    one, two = house.watch(1), house.watch(2)

    def next_after(watch: Watch, outcome: Outcome) -> float:
        house.checker.record(watch, outcome)
        return house.checker.pause(watch)

    house.checker.record(two, OK)
    assert next_after(one, OK) == 8
    house.table.cells[house.table.server(one.row) + EJECTION] = EJECTED
    assert next_after(one, OK) == 1
    house.table.cells[house.table.server(one.row) + EJECTION] = TRUSTED
    assert [next_after(one, FAILED) for _ in range(6)] == [1, 1, 2, 4, 8, 8]
    assert next_after(one, OK) == 1
    assert next_after(one, OK) == 8


def test_while_nobody_is_healthy_all_are_checked_soon(house: House) -> None:
    """Each may be the first that is back."""
    house.adopt(1, 2, interval=8, fast_interval=1, unhealthy_threshold=1)
    one, two = house.watch(1), house.watch(2)
    house.checker.record(two, OK)
    for _ in range(5):
        house.checker.record(one, FAILED)
    assert house.checker.pause(one) == 8
    house.checker.record(two, FAILED)
    assert house.checker.pause(one) == 1


def test_many_in_doubt_are_not_checked_more_often_than_we_can(house: House) -> None:
    """A fleet that is down must not keep this process busy."""
    house.adopt(*range(1, 11), interval=60, fast_interval=0.01)
    for port in range(1, 11):
        house.checker.record(house.watch(port), FAILED)
        house.checker.pause(house.watch(port))
    assert house.checker.pause(house.watch(1)) == 10 / FAST_CHECKS_PER_SECOND
    house.adopt(1, interval=60, fast_interval=0.01)
    assert house.checker.pause(house.watch(1)) == 0.01


def test_a_check_that_is_wanted_now_does_not_wait(house: House) -> None:
    """An ejection asks for it; a row that nobody watches is no error."""
    house.adopt(1)
    house.checker.hasten(house.watch(1).row)
    assert house.watch(1).soon.is_set()
    house.checker.hasten(15)


def test_only_an_answer_tells_whether_a_server_hangs(house: House) -> None:
    """The kernel of a process that hangs takes connections."""
    house.adopt(1)
    row = house.watch(1).row
    assert house.checker.question(row) is not None
    assert house.checker.question(row + 1) is None
    house.adopt(1, type="tcp")
    assert house.checker.question(row) is None


def test_bumps_the_epoch_after_a_change_and_only_then(house: House) -> None:
    house.adopt(1)
    before = house.table.cells[EPOCH]
    house.checker.record(house.watch(1), OK)
    changed = house.table.cells[EPOCH]
    house.checker.record(house.watch(1), OK)
    assert changed != before
    assert house.table.cells[EPOCH] == changed


def test_many_changes_at_once_are_two_bumps_the_last_of_them_after_all(house: House) -> None:
    house.adopt(1, 2, 3)
    house.checker.record(house.watch(1), OK)
    first = house.table.cells[EPOCH]
    house.checker.record(house.watch(2), OK)
    house.checker.record(house.watch(3), OK)
    assert house.table.cells[EPOCH] == first
    (seconds, bump, _) = house.later.calls[-1]
    assert seconds == BUMP_SECONDS
    bump()
    assert house.table.cells[EPOCH] != first


def test_a_successor_neither_forgets_verdicts_nor_logs_them_again(house: House) -> None:
    house.adopt(1, 2)
    house.checker.record(house.watch(1), OK)
    house.checker.record(house.watch(2), FAILED)
    house.events.clear()
    house.checker = house.successor()
    sequence = house.adopt(1, 2)
    assert house.table.cells[CHECKED] == sequence
    house.checker.record(house.watch(1), FAILED)
    house.checker.record(house.watch(2), OK)
    assert house.events == []
    assert (house.healthy(1), house.healthy(2)) == (True, False)


def test_a_streak_goes_on_in_the_successor(house: House) -> None:
    house.adopt(1)
    for outcome in (OK, FAILED, FAILED):
        house.checker.record(house.watch(1), outcome)
    house.checker = house.successor()
    house.adopt(1)
    house.checker.record(house.watch(1), FAILED)
    assert not house.healthy(1)


def test_new_servers_are_checked_at_once_and_known_ones_within_an_interval(house: House) -> None:
    house.adopt(1, 2, interval=60)
    assert house.later.delays() == [0, START_PACE_SECONDS]
    for port in (1, 2):
        house.checker.record(house.watch(port), OK)
    house.checker = house.successor()
    house.adopt(1, 2, 3, interval=60)
    *known, new = house.later.delays()
    assert new == 0
    assert known[0] != known[1]
    assert all(0 <= delay <= 60 for delay in known)


def test_a_reload_leaves_the_watches_of_servers_that_stay_alone(house: House) -> None:
    house.adopt(1, 2)
    kept = house.watch(2)
    house.adopt(2, 3)
    assert house.watch(2) is kept
    assert house.later.killed == 1
    assert len(house.later.delays()) == 3


def test_a_reload_with_another_health_check_starts_every_watch_anew(house: House) -> None:
    house.adopt(1)
    house.checker.record(house.watch(1), OK)
    house.adopt(1, timeout=1)
    assert house.later.killed == 1
    assert house.watch(1).health_check.timeout == 1
    assert house.healthy(1)


def test_a_result_for_a_row_that_another_server_has_now_is_dropped(house: House) -> None:
    house.adopt(1)
    watch = house.watch(1)
    at = house.table.server(watch.row)
    house.table.cells[at + IDENTITY] = 99
    house.checker.record(watch, OK)
    assert house.table.cells[at + STATE] == UNCHECKED


def test_a_check_that_could_not_be_made_keeps_the_verdict_and_is_logged_once(house: House) -> None:
    sequence = house.adopt(1, unhealthy_threshold=1)
    for outcome in (EXCUSED, EXCUSED, OK, EXCUSED, EXCUSED):
        house.checker.record(house.watch(1), outcome)
    assert house.healthy(1)
    assert house.table.cells[CHECKED] == sequence
    messages = [event["message"] for event in house.events]
    assert messages == [
        "backend could not be checked",
        "backend is healthy",
        "backend could not be checked",
    ]


# -- one check -------------------------------------------------------------------------------------


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
    return ProbeRequest(config.servers[0], config.health_check)


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
        (BadHead("garbage"), False, "bad_response"),
    ],
)
def test_every_end_of_a_check_has_its_reason(
    answer: int | BaseException, ok: bool | None, reason: str
) -> None:
    outcome = probe(Answer(answer), request_for("http://127.0.0.1:1"))
    assert (outcome.ok, outcome.reason) == (ok, reason)


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


@pytest.mark.parametrize(
    ("head", "pieces", "expected"),
    [
        ({"Content-Length": "5"}, [b"he", b"llo", b"more"], "hello"),
        ({"content-length": "0"}, [b""], ""),
        ({"Transfer-Encoding": "chunked"}, [b"3\r\nabc\r", b"\n1\r\nd\r\n0\r\n\r\n"], "abcd"),
        ({}, [b"till ", b"the ", b"end"], "till the end"),
        ({}, [b"\xff"], "\ufffd"),
        ({"Content-Length": "1000000"}, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
        ({}, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
    ],
    ids=["length", "none", "chunked", "until closed", "not UTF-8", "long", "endless"],
)
def test_a_body_is_read_to_its_end_or_the_bound(
    head: dict[str, str], pieces: list[bytes], expected: str
) -> None:
    first, *rest = pieces
    assert bodies.read_body(Pieces(*rest), head, first) == expected


@pytest.mark.parametrize(
    ("head", "data", "error"),
    [
        ({"Content-Length": "5"}, b"hel", ConnectionResetError),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhel", ConnectionResetError),
        ({"Transfer-Encoding": "chunked"}, b"nonsense\r\n", bodies.BadBody),
        ({"Content-Length": "five"}, b"", bodies.BadBody),
    ],
)
def test_a_body_that_is_cut_or_unreadable_does_not_pass(
    head: dict[str, str], data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bodies.read_body(Pieces(), head, data)


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


class Pieces:
    """A connection that delivers these pieces, and then its end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.read = 0

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        self.read += len(piece)
        return piece


def test_a_head_may_come_in_pieces_and_after_interim_responses() -> None:
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"
    for cut in range(1, len(head) - 4):
        assert probes._read_head(Pieces(head[:cut], head[cut:])) == (200, {"A": "b"}, b"body")


def test_a_head_that_never_ends_is_given_up_at_its_limit() -> None:
    endless = Pieces(b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 1000] * 100)
    with pytest.raises(BadHead, match="too large"):
        probes._read_head(endless)
    assert endless.read == probes.HEAD_LIMIT


def test_garbage_and_an_early_end_are_told_apart() -> None:
    with pytest.raises(BadHead):
        probes._read_head(Pieces(b"SSH-2.0-OpenSSH\r\n"))
    with pytest.raises(ConnectionResetError):
        probes._read_head(Pieces(b"HTTP/1.1 200 OK\r\n"))


def test_a_server_in_maintenance_is_not_checked_and_begins_anew_afterwards(house: House) -> None:
    """Nobody knows what was done to it: its first check decides, not what was known before."""
    house.adopt(1)
    house.checker.record(house.watch(1), OK)
    entry = {"url": url(1), "state": "maint"}
    config = configuration.parse(json.dumps({"servers": [entry]}))
    sequence = publication.propose(
        house.table, configuration.to_json(config), [identity_of(url(1))]
    )
    house.checker.adopt(sequence, config)
    publication.publish(house.table, sequence)
    assert house.later.killed == 1
    assert not house.healthy(1)
    assert house.table.cells[CHECKED] == sequence
    sequence = house.adopt(1)
    assert house.table.cells[CHECKED] < sequence
    house.checker.record(house.watch(1), OK)
    assert house.healthy(1)
