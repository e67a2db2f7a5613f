"""Plays a case through a worker's connection, the proxy and the transport, on streams in memory.

All of the product's code between two sockets runs, none of its sockets: a replay takes about 0.3 ms, so
each case can be cut at every place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gevent

from app import config as configuration
from app.wire.request import STANDARD
from app.worker.admission import Admission
from app.worker.application import Application, standalone_table
from app.worker.client.contract import ConnectionContext, DrainState
from app.worker.client.http1 import Http1Connection
from app.worker.parking import Parking
from app.worker.upstream.connections import Connection

from . import messages
from .corpus import Case
from .judge import OK, OK_TO_HEAD, Transcript

Cut = Callable[[bytes], list[bytes]]

# Nothing listens there: a connection that is not in memory is a mistake.
_CONFIG = configuration.parse(
    '{"servers": ["http://backend.example"], "retries": {"attempts": 1}, "logging": {"access": false}}'
)
_TIMEOUTS = _CONFIG.timeouts


@cache
def _application() -> Application:
    return Application(_CONFIG, standalone_table(_CONFIG), -1)


class Memory:
    """The face of ``app.worker.net.stream.Stream`` over a list of pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.written = b""
        self.is_closed = self.was_reset = self.is_shut = False
        self.on_event: Any = None
        self.raw = None
        self.has_events = False

    def read(self, size: int = 65536) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def write(self, data: bytes | memoryview) -> None:
        if self.is_closed or self.is_shut:
            raise BrokenPipeError
        self.written += bytes(data)

    post = write
    posted = b""

    def peek(self) -> bytes | None:
        return None

    def is_silent(self) -> bool:
        return True

    def watch(self) -> None:
        pass

    def unacknowledged(self, total: int) -> bool:
        return False

    def shutdown_write(self) -> None:
        pass

    def shutdown(self) -> None:
        self.is_shut = True

    def reset(self) -> None:
        if not self.is_closed:
            self.was_reset = True
        self.close()

    def close(self) -> None:
        self.is_closed = True


class MemoryBackend(Memory):
    """A backend's connection: answers each complete request with the case's bytes."""

    def __init__(self, case: Case, cut: Cut) -> None:
        super().__init__()
        self._case = case
        self._cut = cut
        self._answered = 0
        self._has_continued = False
        self._is_over = False

    def read(self, size: int = 65536) -> bytes:
        for _ in range(100_000):
            self._answer()
            if self.pieces:
                return super().read(size)
            if self._is_over:
                if self._case.settings.get("then") == "reset":
                    raise ConnectionResetError(104, "reset")
                return b""
            if self.is_shut or self.is_closed:
                return b""
            gevent.sleep(0)
        raise AssertionError(f"{self._case}: reads from a backend that has nothing to say")

    def _answer(self) -> None:
        requests, rest = messages.read_requests(self.written)
        head, found, _ = rest.partition(b"\r\n\r\n")
        is_early = bool(found) and "early" in self._case.settings
        if found and not is_early and b"Expect: 100-continue" in head and not self._has_continued:
            self._has_continued = True
            self.pieces.append(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(requests) + is_early > self._answered:
            self._answered += 1
            self._has_continued = False
            answer = self._case.response
            if answer is None:
                answer = OK_TO_HEAD if requests and requests[-1].method == b"HEAD" else OK
            self.pieces += self._cut(answer)
            self._is_over = "then" in self._case.settings

    def arrivals(self) -> None:
        """What came behind the answer: the watcher of an idle connection would have seen it."""
        if (self.pieces or self._is_over) and not self.is_closed and self.on_event is not None:
            self.on_event()


class _Connections:
    """Stands in for a ConnectionCache."""

    def __init__(self, case: Case, cut: Cut) -> None:
        self.opened: list[MemoryBackend] = []
        self.idle: list[Connection] = []
        self.heard_at = self.slowest = 0.0
        self._case, self._cut = case, cut

    def take(self) -> Connection | None:
        return self.idle.pop() if self.idle else None

    def open(self) -> Connection:
        stream = MemoryBackend(self._case, self._cut)
        self.opened.append(stream)
        return Connection(stream, self)  # type: ignore[arg-type]

    def give_back(self, connection: Connection) -> None:
        connection.stream.on_event = connection._died_idle
        self.idle.append(connection)


def replay(case: Case, cut_request: Cut, cut_response: Cut) -> Transcript:
    """Play it, both sides cut as told."""
    application = _application()
    backend = application.pool.backends[0]
    backend.connections = connections = _Connections(case, cut_response)
    context = ConnectionContext(
        application.proxy,
        _TIMEOUTS,
        _CONFIG.limits,
        STANDARD,
        _TIMEOUTS.client,
        DrainState(),
        Parking(_TIMEOUTS.keepalive),
    )
    admission = Admission()
    client: Any = Memory()
    client.pieces = cut_request(case.request)
    Http1Connection(context, admission.enter(), client, "192.0.2.1", "http").run()
    assert client.is_closed
    assert not admission.count
    assert application.pool.cells[backend.in_flight] == 0, "in-flight count"
    for stream in connections.opened:
        stream.arrivals()
    return Transcript(
        client.written,
        client.was_reset,
        True,
        [stream.written for stream in connections.opened],
        [stream.is_closed for stream in connections.opened],
    )
