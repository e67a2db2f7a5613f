"""Demo: real HTTP/1.1 servers to balance over, and the process that holds all of it together.

Owns what ``load_balancer.py demo`` shows. ``run`` is the demo process: it starts one child for each
backend and one for the balancer, says what to try, brings a killed backend back, and ends all of them
together. ``python -m app.tools.demo HOST PORT`` is one backend: threads and the standard library only, so
that what it shows owes nothing to the balancer. Standard output belongs to the balancer, whose every
line is JSON: everything here speaks on standard error. Never imported by the balancer itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any, TextIO
from urllib.parse import parse_qs, urlsplit

from app.config import Config, Server
from app.wire.authority import bracketed

REVIVE_S = 30.0  # long enough to see three failed checks of the shipped configuration, 5 s apart
TICK_S = 0.1  # how soon a signal or a death is noticed
MAX_SLOW_S = 300.0
MAX_EVENTS = 1000
EVENT_GAP_S = 0.5
PIECE = 64 * 1024
BODILESS = (204, 205, 304)  # RFC 9110 §6.4.1
PR_SET_PDEATHSIG = 1  # prctl(2)

# --- one backend ---------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers with what it saw, so that a client can tell which backend it was and what arrived."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 75  # an idle connection; longer than the balancer keeps one
    wbufsize = -1  # head and body leave together
    server: Backend

    def answer(self) -> None:
        """Every method comes here; the path decides."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        last = url.path.rpartition("/")[2]
        if url.path.endswith("/echo"):
            self._echo()
        elif url.path.endswith("/stream"):
            self._drain()
            self._stream(_number(query.get("count"), 10, MAX_EVENTS))
        elif url.path.endswith("/slow"):
            self._drain()
            time.sleep(_number(query.get("seconds"), 2, MAX_SLOW_S))
            self._report(200)
        elif url.path.rpartition("/")[0].endswith("/status") and last.isdecimal():
            self._drain()
            self._report(min(max(int(last), 200), 599))
        else:
            self._report(200, received=self._drain())

    # The names that http.server looks for; any other method gets its 501.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def _report(self, status: int, **more: Any) -> None:
        seen = {
            "backend": self.server.name,
            "method": self.command,
            "path": self.path,
            "client": "{}:{}".format(*self.client_address[:2]),
            **more,
            "headers": [f"{name}: {value}" for name, value in self.headers.items()],
        }
        body = json.dumps(seen, indent=2).encode() + b"\n"
        self.send_response(status)
        if status not in BODILESS:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in BODILESS and self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, count: float) -> None:
        """Server-sent events, each on the wire before the next one is made."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for number in range(1, int(count) + 1):
            event = json.dumps({"event": number, "backend": self.server.name})
            self._chunk(f"data: {event}\n\n".encode())
            self.wfile.flush()
            if number < count:
                time.sleep(EVENT_GAP_S)
        self._chunk(b"")

    def _echo(self) -> None:
        """The body comes back while it arrives, framed as it came."""
        length = self.headers.get("Content-Length")
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Content-Type", "text/plain"))
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        write = self._chunk if self._chunked else self.wfile.write
        for piece in self._pieces():
            write(piece)
            self.wfile.flush()
        if self._chunked:
            self._chunk(b"")

    def _drain(self) -> int:
        return sum(map(len, self._pieces()))

    def _pieces(self) -> Iterator[bytes]:
        self.wfile.flush()  # 100 Continue, which http.server wrote, or the head of an echo
        if not self._chunked:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(PIECE).split(b";")[0], 16):
            yield from self._exactly(size)
            self.rfile.readline(PIECE)
        while self.rfile.readline(PIECE) not in (b"\r\n", b"\n", b""):
            pass  # trailers

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read1(min(size, PIECE))
            if not piece:
                raise ConnectionError("the body ended early")
            size -= len(piece)
            yield piece

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    @property
    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").lower() == "chunked"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Silent: the balancer's access log says it all."""


class Backend(ThreadingHTTPServer):
    """One demo server; ``name`` is what its answers call it."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((str(address[0]), port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is daily bread; anything else is a mistake in this file."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _number(text: str | None, default: float, most: float) -> float:
    try:
        return min(max(float(text or default), 0), most)
    except ValueError:
        return default


# --- the demo process ----------------------------------------------------------------------------


def local_servers(config: Config) -> list[Server]:
    """The servers of a configuration that the demo can play: plain HTTP on this machine."""
    return [
        server
        for server in config.servers
        if server.scheme == "http"
        and (server.host in ("localhost", "::1") or server.host.startswith("127."))
    ]


class Player:
    """The child process that plays one backend, and when to start it again."""

    def __init__(self, server: Server, start: Callable[[Server], subprocess.Popen[bytes]]) -> None:
        self.server = server
        self._start = start
        self._due: float | None = None
        self.process = start(server)

    def revive(self, now: float) -> str:
        """Start it again ``REVIVE_S`` after its death was seen; what happened in words, or ""."""
        if self.process.poll() is None:
            return ""
        if self._due is None:
            self._due = now + REVIVE_S
            return f"backend {self.server.name} is gone; it will be back in {REVIVE_S:g} s"
        if now < self._due:
            return ""
        self._due = None
        self.process = self._start(self.server)
        return f"backend {self.server.name} is back (pid {self.process.pid})"

    def stop(self) -> None:
        """End it now: nobody but the balancer, which has ended, talks to it."""
        self.process.kill()
        self.process.wait()


def run(config: Config, balancer_command: Sequence[str], out: TextIO) -> int:
    """Start everything, stay until a signal or the balancer's end, stop everything; exit status."""
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    players = [Player(server, _play) for server in local_servers(config)]
    balancer = _child(balancer_command, signal.SIGTERM)
    try:
        if _wait_until_listening(config, balancer, signals):
            print(guide(config, balancer.pid, players), file=out, flush=True)
        while balancer.poll() is None and not signals:
            for player in players:
                if words := player.revive(time.monotonic()):
                    print(f"demo: {words}", file=out, flush=True)
            time.sleep(TICK_S)
        return _end(balancer, signals, out)
    finally:
        balancer.kill()
        for player in players:
            player.stop()


def guide(config: Config, balancer: int, players: Sequence[Player]) -> str:
    """What is running and what to try."""
    url = f"http://{_reachable(config)[0]}:{config.port}"
    first = players[0]
    backends = "\n".join(
        f"  backend        http://{player.server.name}  (pid {player.process.pid})"
        for player in players
    )
    tries = (
        (f"curl {url}/", "again and again: the backends take turns"),
        (f"curl -N {url}/stream", "server-sent events, each as it is sent"),
        (f"curl '{url}/slow?seconds=3'", "a slow answer, which holds up nobody else"),
        (f"curl -i {url}/status/503", "any status"),
        (f"curl -d 'some body' {url}/echo", "the body comes back"),
        (
            f"kill {first.process.pid}",
            f"a backend dies, others answer; it is back in {REVIVE_S:g} s",
        ),
        (f"kill -HUP {balancer}", "the configuration is read again, and no request is lost"),
    )
    width = max(len(command) for command, _ in tries)
    lines = "\n".join(f"  {command:<{width}}   {effect}" for command, effect in tries)
    return f"""
  load balancer  {url}  (pid {balancer}, {config.algorithm}, workers: {config.workers})
{backends}

Try in another terminal:
{lines}

The balancer's log follows, one JSON object a line. Ctrl-C stops everything.
"""


def _end(balancer: subprocess.Popen[bytes], signals: list[int], out: TextIO) -> int:
    """Pass the signal on and wait; a second one is impatience. The demo's exit status."""
    if not signals:
        print(f"demo: the balancer ended with status {balancer.returncode}", file=out, flush=True)
        return abs(balancer.returncode) or 1
    quick = signals[0] == signal.SIGINT
    balancer.send_signal(signal.SIGINT if quick else signal.SIGTERM)
    while balancer.poll() is None and len(signals) < 2 + quick:
        time.sleep(TICK_S)
    balancer.kill()
    return abs(balancer.wait())


def _wait_until_listening(
    config: Config, balancer: subprocess.Popen[bytes], signals: list[int]
) -> bool:
    """True once the balancer's port answers; False if it or the user ended the demo before."""
    while balancer.poll() is None and not signals:
        try:
            socket.create_connection((_reachable(config)[1], config.port), timeout=1).close()
            return True
        except OSError:
            time.sleep(TICK_S)
    return False


def _reachable(config: Config) -> tuple[str, str]:
    """The listening address as a client names it: in a URL, and for a socket."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return bracketed(host), host


def _play(server: Server) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app.tools.demo", server.host, str(server.port)]
    return _child(command, signal.SIGKILL)


def _child(command: Sequence[str], last_signal: int) -> subprocess.Popen[bytes]:
    """A child that gets ``last_signal`` when this process dies, even by SIGKILL (Linux only)."""
    before_exec = None
    if sys.platform == "linux":
        before_exec = partial(_tie_to, os.getpid(), ctypes.CDLL(None).prctl, last_signal)
    # No thread exists in the demo process, so running Python between fork and exec is safe.
    return subprocess.Popen(command, preexec_fn=before_exec)  # noqa: PLW1509, S603


def _tie_to(parent: int, prctl: Callable[[int, int], int], last_signal: int) -> None:
    prctl(PR_SET_PDEATHSIG, last_signal)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Be one backend until killed. Ctrl-C is for the demo process, which ends this one last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host, port = arguments
    Backend(host, int(port)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
