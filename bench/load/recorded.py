"""Open loop, recorded: requests on schedule, whatever the answers, each timed from when it was DUE.

``rate × seconds`` requests, one in ten a POST with a small body; moments and methods come from one seed.
Like a real client it keeps connections alive: the one that has been idle longest is used next, another is
opened when none is idle, and one that the proxy closes is forgotten. It retries nothing.
Answers are checked to the last byte, and that they answer this request and no other.

Runs in a process of its own, with START on the monotonic clock:
``python -m bench.load.recorded PORT RATE SECONDS START OUTPUT``; writes one JSON object of columns.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
from collections import deque
from pathlib import Path
from time import perf_counter, sleep

from bench.load import schedule

POST_SHARE = 0.1
WARM_CONNECTIONS = 32
"""Opened before the start: enough that every worker of a proxy has some."""
MOST_IDLE = 512
TIMEOUT_SECONDS = 10.0
"""A client that has waited this long gives up; twice what any candidate's timeouts add up to."""
POST_BODY = b'{"order": 1, "note": "a small body, as a form or an API call sends"}'


def command(port: int, rate: float, seconds: float, start: float, output: Path) -> tuple[str, ...]:
    """How it is run, from the project's root."""
    words = (str(port), str(rate), str(seconds), repr(start), str(output))
    return (sys.executable, "-m", "bench.load.recorded", *words)


def requests(rate: float, seconds: float) -> tuple[list[float], list[bool]]:
    """When each is due, from 0 on, and whether it is a POST."""
    numbers = schedule.source()
    dues = schedule.arrivals(numbers, rate, seconds)
    return dues, [numbers.random() < POST_SHARE for _ in dues]


class Exchange:
    """One connection and the request it carries, -1 when idle."""

    __slots__ = ("data", "number", "request", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.number = -1
        self.data = b""
        self.request = b""


class Client:
    """All connections, and the columns that are filled in as requests end."""

    def __init__(self, port: int, dues: list[float], posts: list[bool]) -> None:
        self.port = port
        self.dues = dues
        self.posts = posts
        self.epoll = select.epoll()
        self.by_fd: dict[int, Exchange] = {}
        self.idle: deque[Exchange] = deque()
        self.waiting: deque[tuple[float, Exchange, int]] = deque()
        self.opened = 0
        count = len(dues)
        self.sent_at = [0.0] * count
        self.done_at = [0.0] * count
        self.outcome = [""] * count
        self.server = [-1] * count
        self.left = count

    def run(self, start: float) -> None:
        """To the last answer; ``start`` is the moment from which dues count."""
        for _ in range(WARM_CONNECTIONS):
            self.idle.append(self._open())
        sleep(max(0.0, start - perf_counter() - 0.01))
        self.start = start
        dues, count, following = self.dues, len(self.dues), 0
        while self.left:
            now = perf_counter() - start
            while following < count and dues[following] <= now:
                self._send(following)
                following += 1
            self._give_up(now)
            until = dues[following] if following < count else now + 0.05
            pause = min(until, now + 0.05) - (perf_counter() - start)
            for fd, events in schedule.wait(self.epoll, pause):
                exchange = self.by_fd.get(fd)
                if exchange is not None:
                    self._event(exchange, events)

    def _open(self) -> Exchange:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(("127.0.0.1", self.port))
        self.opened += 1
        exchange = Exchange(sock)
        self.by_fd[sock.fileno()] = exchange
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        return exchange

    def _send(self, number: int) -> None:
        exchange = self.idle.popleft() if self.idle else self._open()
        post = self.posts[number]
        request = (
            f"{'POST' if post else 'GET'} /r/{number} HTTP/1.1\r\nHost: bench\r\n"
            "User-Agent: bench\r\nAccept: */*\r\n"
        ).encode()
        if post:
            request += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(POST_BODY)
        exchange.request = request + b"\r\n" + (POST_BODY if post else b"")
        exchange.number = number
        exchange.data = b""
        self.sent_at[number] = now = perf_counter() - self.start
        self.waiting.append((now, exchange, number))
        self._push(exchange)

    def _push(self, exchange: Exchange) -> None:
        try:
            exchange.sock.send(exchange.request)
            exchange.request = b""
        except BlockingIOError:  # still connecting
            self.epoll.modify(exchange.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except ConnectionRefusedError:
            self._fail(exchange, "refused")
        except OSError:
            self._fail(exchange, "closed")

    def _event(self, exchange: Exchange, events: int) -> None:
        if exchange.request and events & select.EPOLLOUT:
            self.epoll.modify(exchange.sock.fileno(), select.EPOLLIN)
            self._push(exchange)
            if not events & select.EPOLLIN:
                return
        try:
            piece = exchange.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._fail(exchange, "refused")
            return
        except OSError:
            piece = b""
        if not piece:
            self._fail(exchange, "cut" if exchange.data else "closed")
            return
        exchange.data += piece
        if exchange.number < 0:
            self._fail(exchange, "closed")
            return
        self._read(exchange)

    def _read(self, exchange: Exchange) -> None:
        head, gap, body = exchange.data.partition(b"\r\n\r\n")
        if not gap:
            return
        fields = {}
        lines = head.split(b"\r\n")
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        if b"content-length" in fields:
            if len(body) < int(fields[b"content-length"]):
                return
        elif b"transfer-encoding" in fields and not body.endswith(b"0\r\n\r\n"):
            return
        number, status = exchange.number, int(lines[0].split(b" ")[1])
        outcome = ""
        if status != 200:
            outcome = str(status)
        elif not body.startswith(b"%d served by " % number):
            outcome = "wrong answer"
        self.server[number] = int(fields.get(b"x-server", b"-1"))
        self._done(number, outcome)
        exchange.number = -1
        if fields.get(b"connection", b"").lower() == b"close" or len(self.idle) >= MOST_IDLE:
            self._close(exchange)
        else:
            self.idle.append(exchange)

    def _fail(self, exchange: Exchange, outcome: str) -> None:
        number, exchange.number = exchange.number, -1
        if number < 0 and exchange in self.idle:
            self.idle.remove(exchange)
        self._close(exchange)
        if number >= 0:
            self._done(number, outcome)

    def _done(self, number: int, outcome: str) -> None:
        self.done_at[number] = perf_counter() - self.start
        self.outcome[number] = outcome
        self.left -= 1

    def _close(self, exchange: Exchange) -> None:
        del self.by_fd[exchange.sock.fileno()]
        exchange.sock.close()

    def _give_up(self, now: float) -> None:
        while self.waiting:
            since, exchange, number = self.waiting[0]
            if exchange.number == number:
                if now - since < TIMEOUT_SECONDS:
                    return
                self._fail(exchange, "timeout")
            self.waiting.popleft()


def main(port: int, rate: float, seconds: float, start: float, output: Path) -> None:
    """Send them, write the columns."""
    schedule.sleep_precisely()
    try:  # what it spends is little, and what others do must not make it late
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pass
    dues, posts = requests(rate, seconds)
    client = Client(port, dues, posts)
    gc.disable()
    client.run(start)
    columns = {
        "due": [round(due, 6) for due in dues],
        "sent": [round(moment, 6) for moment in client.sent_at],
        "done": [round(moment, 6) for moment in client.done_at],
        "post": [int(post) for post in posts],
        "outcome": client.outcome,
        "server": client.server,
        "connections": client.opened,
    }
    output.write_text(json.dumps(columns))


if __name__ == "__main__":
    _port, _rate, _seconds, _start, _output = sys.argv[1:]
    main(int(_port), float(_rate), float(_seconds), float(_start), Path(_output))
