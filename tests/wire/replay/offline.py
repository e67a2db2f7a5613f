"""Plays a case through a worker's connection, the proxy and the transport, on streams in memory.

All of the product's code between two sockets runs, none of its sockets: a replay takes about 0.3 ms, so
each case can be cut at every place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Any

import gevent
from fakes.stream import END, ScriptedStream

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


class ReplayedBackend(ScriptedStream):
    """A backend's connection: answers each complete request with the case's bytes."""

    def __init__(self, case: Case, cut: Cut) -> None:
        super().__init__(has_events=False)
        self._case = case
        self._cut = cut
        self._answered = 0
        self._has_continued = False
        self._is_over = False

    def read(self, size: int = 65536) -> bytes:
        for _ in range(100_000):
            self._answer()
            if self.has_more:
                return super().read(size)
            if self._is_over:
                if self._case.settings.get("then") == "reset":
                    raise ConnectionResetError(104, "reset")
                return b""
            if "shutdown" in self.did or self.is_closed:
                return b""
            gevent.sleep(0)
        raise AssertionError(f"{self._case}: reads from a backend that has nothing to say")

    def peek(self) -> bytes | None:
        return None  # what comes early is looked at when it is read

    def _answer(self) -> None:
        requests, rest = messages.read_requests(self.output)
        head, found, _ = rest.partition(b"\r\n\r\n")
        is_early = bool(found) and "early" in self._case.settings
        if found and not is_early and b"Expect: 100-continue" in head and not self._has_continued:
            self._has_continued = True
            self.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(requests) + is_early > self._answered:
            self._answered += 1
            self._has_continued = False
            answer = self._case.response
            if answer is None:
                answer = OK_TO_HEAD if requests and requests[-1].method == b"HEAD" else OK
            for piece in self._cut(answer):
                self.say(piece)
            self._is_over = "then" in self._case.settings

    def arrivals(self) -> None:
        """What came behind the answer: the watcher of an idle connection would have seen it."""
        if (self.has_more or self._is_over) and not self.is_closed and self.on_event is not None:
            self.on_event()


class _Connections:
    """Stands in for a ConnectionCache."""

    def __init__(self, case: Case, cut: Cut) -> None:
        self.opened: list[ReplayedBackend] = []
        self.idle: list[Connection] = []
        self.heard_at = self.slowest = 0.0
        self.era = 0
        self._case, self._cut = case, cut

    def take(self) -> Connection | None:
        return self.idle.pop() if self.idle else None

    def open(self, within: float) -> Connection:
        stream = ReplayedBackend(self._case, self._cut)
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
        _CONFIG.limits,
        STANDARD,
        client_timeout=_TIMEOUTS.client,
        head_timeout=_TIMEOUTS.client,
        idle_timeout=_TIMEOUTS.keepalive,
        half_close=_TIMEOUTS.half_close,
        drain=DrainState(),
        parking=Parking(_TIMEOUTS.keepalive),
    )
    admission = Admission()
    client: Any = ScriptedStream([*cut_request(case.request), END], has_events=False)
    place = admission.enter()
    Http1Connection(context, place, client, "192.0.2.1", "http", monotonic(), None).run()
    assert client.is_closed
    assert not admission.count
    assert application.pool.cells[backend.in_flight] == 0, "in-flight count"
    for stream in connections.opened:
        stream.arrivals()
    return Transcript(
        client.output,
        "reset" in client.did,
        True,
        [stream.output for stream in connections.opened],
        [stream.is_closed for stream in connections.opened],
    )
