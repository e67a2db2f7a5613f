"""Which of a server's addresses takes a connection: one after the other, none waited for (RFC 8305).

Owns the order of addresses (§4) and the race for a connection (§5). Runs in workers and in the control
process, in a greenlet, so that requests and health checks reach a server in the same way. Sends no byte on
any connection, and must never know names, or what will be said.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import gevent
from gevent import monkey
from greenlet import getcurrent

from app.shared.addresses import Address

Endpoint = tuple[int, Any]  # an address family, and what connect() takes in it

# RFC 8305 §5, recommended: how long an address has for itself before the next one is tried beside it.
DELAY_SECONDS = 0.25
# The interpreter's own: the patched one would look even numbers up.
RawSocket: type[socket.socket] = monkey.get_original("socket", "socket")


def endpoint_of(address: Address, port: int) -> Endpoint:
    """Where to connect to for a port at an address."""
    if len(address.packed) == 4:
        return socket.AF_INET, (socket.inet_ntop(socket.AF_INET, address.packed), port)
    host = socket.inet_ntop(socket.AF_INET6, address.packed)
    return socket.AF_INET6, (host, port, 0, address.scope)


def literal(scheme: str, host: str, port: int) -> Endpoint:
    """Where to connect to for a server that is no name."""
    if scheme == "unix":
        return socket.AF_UNIX, host
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """The families in turn, beginning with that of the first (§4): one that leads nowhere costs one delay."""
    first: list[Address] = []
    other: list[Address] = []
    for address in dict.fromkeys(addresses):
        is_like_first = not first or len(address.packed) == len(first[0].packed)
        (first if is_like_first else other).append(address)
    pairs = zip_longest(first, other)
    return [address for pair in pairs for address in pair if address is not None]


def connect(endpoints: Sequence[Endpoint], seconds: float) -> tuple[socket.socket, Endpoint]:
    """A connection to the first of ``endpoints`` that takes one, and which that is.

    Each has DELAY_SECONDS before the next is tried as well, less where all are to have had their turn within
    ``seconds``; one that refuses, none. The caller ends the whole by raising here. The others are closed:
    nothing was sent on them. Raises OSError: why the last one failed.
    """
    race = _Race(endpoints, min(DELAY_SECONDS, seconds / max(1, len(endpoints))))
    try:
        return race.run()
    finally:
        race.end()


class _Attempt:
    """A connect that is under way."""

    __slots__ = ("endpoint", "raw", "watcher")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.raw = RawSocket(endpoint[0], socket.SOCK_STREAM)
        self.watcher: Any = None

    def begin(self) -> int:
        """Connect without waiting: 0, EINPROGRESS or why it failed."""
        self.raw.setblocking(False)
        if self.endpoint[0] != socket.AF_UNIX:
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.raw.connect_ex(self.endpoint[1])

    def call(self, function: Callable[..., Any], loop: Any) -> None:
        """Have ``function`` called with this attempt once it has come to something."""
        self.watcher = loop.io(self.raw.fileno(), 2)  # libev's EV_WRITE
        self.watcher.start(function, self)

    def stop(self) -> None:
        """Do not call any more."""
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.close()
            self.watcher = None


class _Race:
    """The attempts for one connection. ``run`` once, then ``end``."""

    __slots__ = ("_delay", "_failure", "_left", "_loop", "_running", "_switch")

    def __init__(self, endpoints: Sequence[Endpoint], delay: float) -> None:
        self._left = list(reversed(endpoints))
        self._delay = delay
        self._running: list[_Attempt] = []
        self._failure = OSError("no address to connect to")
        self._loop: Any = gevent.get_hub().loop
        self._switch = getcurrent().switch

    def run(self) -> tuple[socket.socket, Endpoint]:
        """The winner's socket, which is the caller's then."""
        while True:
            winner = self._begin_next()
            if winner is None and not self._running:
                raise self._failure
            while winner is None and self._running:
                attempt = self._wait()
                if attempt is None:
                    break  # its time alone is over: the next one as well
                attempt.stop()
                status = attempt.raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not status:
                    winner = attempt
                    break
                self._give_up(attempt, status)
                if self._left:
                    break
            if winner is not None:
                self._running.remove(winner)
                return winner.raw, winner.endpoint

    def end(self) -> None:
        """Close what is still under way."""
        for attempt in self._running:
            attempt.stop()
            attempt.raw.close()
        self._running.clear()

    def _begin_next(self) -> _Attempt | None:
        """Begin with the next address that does not fail at once; the attempt, if it succeeds at once."""
        while self._left:
            try:
                attempt = _Attempt(self._left.pop())
            except OSError as error:  # no such family here, or no descriptor
                self._failure = error
                continue
            self._running.append(attempt)
            status = attempt.begin()
            if not status:
                return attempt
            if status == errno.EINPROGRESS:
                attempt.call(self._switch, self._loop)
                return None
            self._give_up(attempt, status)
        return None

    def _wait(self) -> _Attempt | None:
        """The next attempt that has come to something; None when it is time to begin another one."""
        timer: Any = None
        if self._left:
            timer = self._loop.timer(self._delay)
            timer.start(self._switch, None)
        try:
            done: _Attempt | None = gevent.get_hub().switch()
            return done
        finally:
            if timer is not None:
                timer.stop()
                timer.close()

    def _give_up(self, attempt: _Attempt, status: int) -> None:
        self._running.remove(attempt)
        attempt.raw.close()
        self._failure = OSError(status, os.strerror(status))
