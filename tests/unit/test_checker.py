"""The checker: what it does with results. No greenlet runs and no socket is opened here."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import requests

from app import config as configuration
from app import log
from app.config import Config, HealthCheck, Server
from app.health import probe as probes
from app.health.checker import BUMP_SECONDS, START_PACE_SECONDS, Checker, Watch
from app.health.probe import BadHead, Outcome, ProbeRequest, ProbeSession, probe
from app.table import CHECKED, EPOCH, IDENTITY, STATE, UNCHECKED, Table, identity_of

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
        return Checker(self.table, lambda server, config: lambda: OK, self.later)

    def adopt(self, *ports: int, **health_check: Any) -> int:
        config = configure(*ports, **health_check)
        identities = [identity_of(server.url) for server in config.servers]
        sequence = self.table.propose(configuration.to_json(config), identities)
        self.checker.adopt(sequence, config)
        self.table.publish(sequence)
        return sequence

    def watch(self, port: int) -> Watch:
        return self.later.watches()[url(port)]

    def healthy(self, port: int) -> bool:
        return self.table.is_healthy(self.table.find_row(identity_of(url(port))))


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def configure(*ports: int, **health_check: Any) -> Config:
    document = {"servers": [url(port) for port in ports], "health_check": health_check or {}}
    if health_check.get("off"):
        document["health_check"] = False
    return configuration.from_json(json.dumps(document).encode())


def test_acknowledges_once_every_new_server_has_a_verdict(house: House) -> None:
    sequence = house.adopt(1, 2)
    house.checker.record(house.watch(1), OK)
    assert house.table.cells[CHECKED] < sequence
    house.checker.record(house.watch(2), FAILED)
    assert house.table.cells[CHECKED] == sequence
    assert (house.healthy(1), house.healthy(2)) == (True, False)


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

    def __init__(self, answer: int | BaseException) -> None:
        super().__init__()
        self.answer = answer

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if isinstance(self.answer, BaseException):
            raise self.answer
        response = requests.Response()
        response.status_code = self.answer
        return response


def request_for(server: str, **health_check: Any) -> ProbeRequest:
    document = {"servers": [server], "health_check": health_check}
    config = configuration.from_json(json.dumps(document).encode())
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


def test_the_request_names_server_and_path_and_closes() -> None:
    request = request_for("http://127.0.0.1:1/app", path="/up?x=1")
    assert request.head == (
        b"GET /app/up?x=1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nUser-Agent: load-balancer-health-check\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    )


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
        assert probes._read_head(Pieces(head[:cut], head[cut:])) == (200, {"A": "b"})


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
    config = configuration.from_json(json.dumps({"servers": [entry]}).encode())
    sequence = house.table.propose(configuration.to_json(config), [identity_of(url(1))])
    house.checker.adopt(sequence, config)
    house.table.publish(sequence)
    assert house.later.killed == 1
    assert not house.healthy(1)
    assert house.table.cells[CHECKED] == sequence
    sequence = house.adopt(1)
    assert house.table.cells[CHECKED] < sequence
    house.checker.record(house.watch(1), OK)
    assert house.healthy(1)
