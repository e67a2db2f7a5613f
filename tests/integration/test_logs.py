"""The log as a machine reads it: one JSON object a line, typed, unforgeable, never in the way.

That every line of every run is valid is checked by the harness whenever a balancer stops; here are the
values, and the cases that try to break it.
"""

from __future__ import annotations

import json
import signal

import pytest
from harness import PATIENT, Backend, Balancer, handlers, wait_until
from harness.logs import ACCESS_FIELDS


def test_fields_of_an_access_line(balancer: Balancer, backend: Backend) -> None:
    """Every field has its value and type."""
    backend.handler = handlers.answer(201, b"created!")
    mark = balancer.log_mark
    with balancer.connect() as client:
        fields = [("Host", "shop.example"), ("User-Agent", "test/1")]
        client.request("POST", "/things?a=1", fields, b"12345")
    line = balancer.access_line(since=mark)

    assert line.keys() >= ACCESS_FIELDS
    exact = {
        "client_ip": "127.0.0.1",
        "method": "POST",
        "host": "shop.example",
        "target": "/things?a=1",
        "protocol": "HTTP/1.1",
        "status": 201,
        "backend": backend.address,
        "reason": None,
        "user_agent": "test/1",
    }
    assert {name: line[name] for name in exact} == exact
    (attempt,) = line["attempts"]
    assert attempt["server"] == backend.address
    assert attempt["status"] == 201
    assert attempt["reason"] is None
    assert attempt["first_byte_ms"] == line["first_byte_ms"]
    assert isinstance(line["request_id"], str)
    assert type(line["bytes_in"]) is int
    assert line["bytes_in"] >= 5
    assert type(line["bytes_out"]) is int
    assert line["bytes_out"] >= 8
    assert 0 <= line["first_byte_ms"] <= line["duration_ms"] < 10_000
    assert line["connect_ms"] is None or line["connect_ms"] >= 0


def test_missing_values_are_null(balancer: Balancer, backend: Backend) -> None:
    """No User-Agent, no reason: null."""
    mark = balancer.log_mark
    balancer.get("/bare")
    line = balancer.access_line(since=mark)

    assert line["user_agent"] is None
    assert line["reason"] is None


def test_request_ids_are_unique(balancer: Balancer, backend: Backend) -> None:
    """Each request has an id of its own."""
    mark = balancer.log_mark
    with balancer.connect() as client:
        for _ in range(100):
            client.get("/ids")
    lines = balancer.wait_for_access(100, since=mark)

    assert len({line["request_id"] for line in lines}) == 100


def test_refused_requests_are_logged(balancer: Balancer) -> None:
    """A request that cannot even be read has a line too, with null for what is not known."""
    mark = balancer.log_mark
    with balancer.connect() as client:
        client.send(b"hello\r\n\r\n")
        assert client.read_response().status == 400
    line = balancer.access_line(since=mark)

    assert line["status"] == 400
    assert line["reason"]
    assert line["backend"] is None
    assert line["request_id"]


EVIL = [
    '"}\\n{"logger":"health","backend":"x"',
    '", "status": 200, "x": "',
    "tab\there",
    "\\u000a\\n\\",
    "caf\xe9 \xff\xfe",
    "\x1b[31mred",
    "\x7f\x80\x9f",
    "\u00e2\u0080\u00a8 line separator",
    "a" * 6000,
]


@pytest.mark.parametrize("value", EVIL, ids=range(len(EVIL)))
def test_no_client_can_break_a_line(balancer: Balancer, backend: Backend, value: str) -> None:
    """Quotes, control characters, foreign bytes and lengths in target and headers stay inside."""
    mark = balancer.log_mark
    target = "/" + "".join(f"%{byte:02x}" for byte in value[:200].encode("latin-1"))
    loud = "/" + "".join(c for c in value[:200] if c.isprintable() and c not in " #" and c < "\x7f")
    fields = [("User-Agent", value), ("X-Other", "a")]
    statuses = []
    for each in (target, loud):
        with balancer.connect() as client:
            statuses.append(client.get(each, fields).status)
    with balancer.connect() as client:
        statuses.append(client.get("/host", [("Host", value.replace(" ", ""))]).status)
    assert set(statuses) <= {200, 400}
    lines = balancer.wait_for_access(3, since=mark)

    assert len(lines) == 3
    assert [line["logger"] for line in balancer.log.lines[mark:]] == ["access"] * 3
    assert [line["status"] for line in lines] == statuses
    for raw in balancer.log.raw[-3:]:
        assert len(raw) < 4096
        assert all(byte >= 0x20 for byte in raw)
        assert json.loads(raw.decode())["backend"] in (backend.address, None)
    if statuses[0] == 200:
        assert lines[0]["target"] == target or lines[0]["target"].endswith("…")


def test_access_lines_can_be_switched_off() -> None:
    """``logging.access: false``: no access lines, everything else as before."""
    off = {"level": "info", "access": False}
    with Backend() as backend, Balancer([backend], logging=off) as balancer:
        assert balancer.get("/").status == 200
    assert not balancer.access_lines()
    assert balancer.log.lines


def test_lines_of_the_last_requests_are_not_lost() -> None:
    """What was answered just before SIGTERM is in the log when the process has ended."""
    with Backend() as backend, Balancer([backend], workers=2) as balancer:
        for _ in range(40):
            assert balancer.get("/last").status == 200
    assert len(balancer.access_lines(target="/last")) == 40


def test_stalled_stdout_never_blocks_a_request() -> None:
    """Nobody reads the log: requests go on, lines are dropped, and later the number is logged."""
    count, padding = 1200, "x" * 3000
    with Backend() as backend, Balancer([backend]) as balancer:
        balancer.log.pause()
        with balancer.connect() as client:
            for number in range(count):
                response = client.get(f"/stalled/{number}", [("User-Agent", padding)])
                assert response.status == 200
        balancer.log.resume()
        # Reports come when it flows again: at once or with the next line.
        balancer.get("/flows")
        dropped = balancer.log.wait_for(where=lambda line: "dropped" in line, timeout=PATIENT)
        wait_until(lambda: balancer.access_lines(target="/flows"), PATIENT)
        kept = [line for line in balancer.access_lines() if "/stalled/" in line["target"]]

        assert len(dropped) == 1
        assert dropped[0]["dropped"] > 0
        assert len(kept) + dropped[0]["dropped"] == count
        numbers = [int(line["target"].rsplit("/", 1)[1]) for line in kept]
        assert numbers == sorted(numbers)


def test_stalled_stdout_does_not_stop_the_stop() -> None:
    """SIGTERM ends a balancer whose log nobody reads."""
    with Backend() as backend, Balancer([backend]) as balancer:
        balancer.log.pause()
        with balancer.connect() as client:
            for _ in range(600):
                client.get("/stalled", [("User-Agent", "x" * 3000)])
        balancer.signal(signal.SIGTERM)
        assert balancer.wait_for_exit() == 0
        wait_until(lambda: not balancer.pids(), PATIENT)
