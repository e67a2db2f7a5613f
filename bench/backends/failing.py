"""One backend process of the scenario bench: a small HTTP/1.1 server that can be told to misbehave.

Run by path with ``python -IS failing.py INDEX:PORT[,INDEX:PORT…] CONTROL EXECUTED``. The orders are a JSON
object in the file CONTROL, read at the start and at SIGUSR1:

    slow     every answer takes this many times SERVICE_SECONDS
    errors   this share of the answers is a 500
    cut      this share is reset by RST in the middle of the body
    warm_up  after the start, answers are COLD times slower at first, sinking over this many answers, and
             only WORKERS of them are worked on at once (caches, pools and compilers are cold)

The check path is answered at once and always 200: the faults are of the kind that checks do not see.
SIGTERM ends it as a well-behaved server ends: what has been accepted or has arrived is answered with
``Connection: close``, then it exits. Every request is noted in the file EXECUTED when it is acted
upon, so that the bench can tell what was executed twice, and every check that was passed, with its moment
on the monotonic clock. One thread, one epoll, no dependencies: it has to start in milliseconds.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import sys
from time import monotonic

TYPE_CHECKING = False  # importing typing for it would double the time it takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SERVICE_SECONDS = 0.004
COLD = 50.0
WORKERS = 4
BODY_BYTES = 512
CHECK_PATH = b"/health"
CUT_AFTER_SECONDS = 0.002
BACKLOG = 1024
REASONS = {200: b"OK", 500: b"Internal Server Error"}


class Client:
    """One connection; ``data`` is what has arrived and is not yet answered."""

    __slots__ = ("busy", "data", "index", "sock")

    def __init__(self, sock: socket.socket, index: int) -> None:
        self.sock = sock
        self.index = index
        self.data = b""
        self.busy = False


class Backend:
    """The process: its listeners, clients and timers, and the orders that it has been given."""

    def __init__(self, addresses: list[tuple[int, int]], control: str, executed: str) -> None:
        self.control = control
        self.log = os.open(executed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.epoll = select.epoll()
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        self.clients: dict[int, Client] = {}
        self.timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.number = 0
        self.served = 0
        self.running = 0
        self.queue: list[tuple[Client, bytes]] = []
        self.random = random.Random(os.getpid())
        self.ending = False
        self.orders: dict[str, float] = {}
        for index, port in addresses:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
            self.listeners[listener.fileno()] = (listener, index)
            self.epoll.register(listener.fileno(), select.EPOLLIN)

    def obey(self, *_: object) -> None:
        """Read the orders anew."""
        try:
            with open(self.control) as file:
                self.orders = json.load(file)
        except FileNotFoundError:
            self.orders = {}

    def end(self, *_: object) -> None:
        """Answer what has come, then leave ``run``."""
        self.ending = True

    def run(self) -> None:
        """Serve until SIGTERM has been obeyed."""
        self.obey()
        signal.signal(signal.SIGUSR1, self.obey)
        signal.signal(signal.SIGTERM, self.end)
        while True:
            if self.ending and self._ended():
                return
            wait = self.timers[0][0] - monotonic() if self.timers else 0.2
            for fd, _ in self.epoll.poll(max(0.0, min(wait, 0.2))):
                if fd in self.listeners:
                    self._accept(*self.listeners[fd])
                elif fd in self.clients:
                    self._read(self.clients[fd])
            now = monotonic()
            while self.timers and self.timers[0][0] <= now:
                _, _, act, arguments = heapq.heappop(self.timers)
                act(*arguments)

    def _ended(self) -> bool:
        """Take what has already come, close what is idle; whether nothing is left to answer."""
        for fd, (listener, index) in self.listeners.items():
            self._accept(listener, index)
            self.epoll.unregister(fd)
            listener.close()
        self.listeners = {}
        for client in list(self.clients.values()):
            if not client.busy:
                self._read(client)
                if client.sock.fileno() >= 0 and not client.busy:
                    self._close(client)
        return not self.clients

    def _accept(self, listener: socket.socket, index: int) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.clients[sock.fileno()] = client = Client(sock, index)
            self.epoll.register(sock.fileno(), select.EPOLLIN)
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            piece = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._close(client)
            return
        client.data += piece
        if not client.busy:
            self._take(client)

    def _take(self, client: Client) -> None:
        """Act upon the next request if it is here whole."""
        head, gap, rest = client.data.partition(b"\r\n\r\n")
        if not gap:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"transfer-encoding":
                raise SystemExit("a chunked request: the load has none")
        if len(rest) < length:
            return
        client.data = rest[length:]
        client.busy = True
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if target == CHECK_PATH:
            os.write(self.log, b"C %d %.6f\n" % (client.index, monotonic()))
            self._answer(client, 200, b"well\n")
            return
        number = target.rpartition(b"/")[2]
        os.write(self.log, b"%b %b\n" % (method[:1], number))
        if "warm_up" in self.orders and self.running >= WORKERS:
            self.queue.append((client, number))
        else:
            self._work(client, number)

    def _work(self, client: Client, number: bytes) -> None:
        self.running += 1
        orders, seconds = self.orders, SERVICE_SECONDS * self.orders.get("slow", 1)
        if "warm_up" in orders:
            left = max(0.0, 1 - self.served / orders["warm_up"])
            seconds *= 1 + (COLD - 1) * left
        self._later(seconds, self._done, client, number)

    def _done(self, client: Client, number: bytes) -> None:
        self.running -= 1
        self.served += 1
        if self.queue:
            self._work(*self.queue.pop(0))
        if client.sock.fileno() < 0:
            return
        body = (b"%b served by %d\n" % (number, client.index)).ljust(BODY_BYTES, b".")
        if self.random.random() < self.orders.get("cut", 0.0):
            head = self._head(200, client.index, len(body), True)
            self._send(client, head + body[: BODY_BYTES // 2])
            self._later(CUT_AFTER_SECONDS, self._reset, client)
            return
        failed = self.random.random() < self.orders.get("errors", 0.0)
        self._answer(client, 500 if failed else 200, body)

    def _answer(self, client: Client, status: int, body: bytes) -> None:
        if not self._send(client, self._head(status, client.index, len(body), self.ending) + body):
            return
        client.busy = False
        if self.ending and not client.data:
            self._close(client)
        elif client.data:
            self._take(client)

    def _head(self, status: int, index: int, length: int, last: bool) -> bytes:
        return (
            b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nX-Server: %d\r\nContent-Length: %d\r\n%b\r\n"
            % (status, REASONS[status], index, length, b"Connection: close\r\n" if last else b"")
        )

    def _send(self, client: Client, data: bytes) -> bool:
        # Answers are smaller than any socket buffer, so one send takes them whole.
        try:
            return client.sock.send(data) == len(data)
        except OSError:
            self._close(client)
            return False

    def _reset(self, client: Client) -> None:
        if client.sock.fileno() >= 0:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(client)

    def _close(self, client: Client) -> None:
        if client.sock.fileno() >= 0:
            del self.clients[client.sock.fileno()]
            client.sock.close()

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        self.number += 1
        heapq.heappush(self.timers, (monotonic() + seconds, self.number, act, arguments))


if __name__ == "__main__":
    pairs = [pair.split(":") for pair in sys.argv[1].split(",")]
    addresses = [(int(index), int(port)) for index, port in pairs]
    Backend(addresses, sys.argv[2], sys.argv[3]).run()
