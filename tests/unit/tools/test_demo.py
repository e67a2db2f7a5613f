from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from app import config
from app.tools import demo


class Wire:
    """A connection that is two byte strings: what the client sends, what it gets."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.sent = io.BytesIO()
        self.sent.close = lambda: None  # type: ignore[method-assign]

    def makefile(self, mode: str, size: int) -> io.BufferedIOBase:
        return io.BufferedReader(io.BytesIO(self._request)) if "r" in mode else self.sent

    def settimeout(self, seconds: float) -> None:
        pass

    def setsockopt(self, *option: int) -> None:
        pass


class Named:
    name = "127.0.0.1:8001"


def converse(*lines: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of what one demo backend answers."""
    wire = Wire("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
    demo.Handler(wire, ("127.0.0.1", 5), Named())  # type: ignore[arg-type]
    head, _, rest = wire.sent.getvalue().partition(b"\r\n\r\n")
    return head, rest


def settings(*urls: str, **more: Any) -> config.Config:
    return config.parse(json.dumps({"servers": list(urls), **more}))


def test_the_answer_tells_what_arrived() -> None:
    """Which backend, and headers in order with their repetitions."""
    head, body = converse(
        "PUT /a?b=c HTTP/1.1", "X-A: 1", "X-A: 2", "Content-Length: 3", body=b"abc"
    )
    seen = json.loads(body)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (seen["backend"], seen["method"], seen["path"]) == ("127.0.0.1:8001", "PUT", "/a?b=c")
    assert seen["headers"][:2] == ["X-A: 1", "X-A: 2"]
    assert seen["received"] == 3


@pytest.mark.parametrize("status", [200, 301, 404, 503])
def test_any_status_can_be_asked_for(status: int) -> None:
    """The path ends in the status."""
    assert converse(f"GET /x/status/{status} HTTP/1.1")[0].startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("request_line", ["GET /status/204 HTTP/1.1", "HEAD / HTTP/1.1"])
def test_no_body_where_none_belongs(request_line: str) -> None:
    """A body after 204 or HEAD would be read as the next response."""
    assert converse(request_line)[1] == b""


def test_echo_keeps_the_framing() -> None:
    """A chunked body comes back chunked, one with a length with that length."""
    chunked = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
    head, body = converse("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=chunked)
    assert b"Content-Length" not in head
    assert body == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    head, body = converse("POST /echo HTTP/1.1", "Content-Length: 5", body=b"abcde")
    assert b"Content-Length: 5" in head
    assert body == b"abcde"


def test_events_come_one_chunk_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as asked for, then the end of the body."""
    monkeypatch.setattr(demo, "EVENT_GAP_S", 0)
    head, body = converse("GET /stream?count=2 HTTP/1.1")
    assert b"text/event-stream" in head
    assert body.count(b"data: ") == 2
    assert body.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "number"), [(None, 2), ("", 2), ("x", 2), ("3.5", 3.5), ("-1", 0), ("999", 10)]
)
def test_numbers_in_queries_have_bounds(text: str | None, number: float) -> None:
    """Nonsense is the default, and nobody can ask for an hour."""
    assert demo._number(text, 2, 10) == number


def test_the_demo_plays_only_plain_servers_of_this_machine() -> None:
    """Anything else belongs to somebody."""
    played = demo.local_servers(
        settings(
            "http://127.0.0.1:1",
            "http://localhost:2",
            "http://[::1]:3",
            "http://127.9.9.9:4",
            "https://127.0.0.1:5",
            "http://example.org:6",
            "unix:/run/app.sock",
        )
    )
    assert [server.port for server in played] == [1, 2, 3, 4]


class Process:
    """What a child looks like to the one that holds it."""

    def __init__(self, pid: int = 0) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.got: list[int] = []

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.got.append(number)
        self.returncode = 0

    def kill(self) -> None:
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)

    def wait(self) -> int | None:
        return self.returncode


def test_a_killed_backend_comes_back_once() -> None:
    """Said when it goes and when it returns, silent in between, started once."""
    made: list[Process] = []

    def start(_: config.Server) -> Any:
        made.append(Process(pid=len(made) + 1))
        return made[-1]

    player = demo.Player(settings("http://127.0.0.1:1").servers[0], start)
    assert player.revive(100) == ""
    made[0].returncode = -9
    assert "is gone" in player.revive(100)
    assert player.revive(100 + demo.REVIVE_S - 1) == ""
    assert "is back (pid 2)" in player.revive(100 + demo.REVIVE_S)
    assert player.revive(200) == ""
    assert len(made) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_balancer_is_asked_to_drain(number: int) -> None:
    """TERM, and a terminal that closes, let requests in flight finish."""
    balancer: Any = Process()
    assert demo._end(balancer, [number], io.StringIO()) == 0
    assert balancer.got == [signal.SIGTERM]


def test_the_demo_fails_with_its_balancer() -> None:
    """A refused configuration is 78 here as well."""
    balancer: Any = Process()
    balancer.returncode = 78
    said = io.StringIO()
    assert demo._end(balancer, [], said) == 78
    assert "status 78" in said.getvalue()


def test_the_guide_names_what_is_running() -> None:
    """Addresses as a client can use them, and the pids that the commands need."""
    at = settings("http://127.0.0.1:8001", host="0.0.0.0", port=8080)
    backend: Any = Process(pid=42)
    text = demo.guide(at, 41, [demo.Player(at.servers[0], lambda _: backend)])
    assert "http://127.0.0.1:8080/stream" in text
    assert "0.0.0.0" not in text
    assert "kill 42 " in text
    assert "kill -HUP 41 " in text


def test_the_backends_need_nothing_installed() -> None:
    """What a backend shows must owe nothing to the packages of the balancer."""
    script = (
        "import sys, app.tools.demo; print([m for m in ('gevent', 'requests') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "[]\n"
