"""What a worker tells of the servers that keep it waiting, and which waits it ends."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.world import World

from app.config import Server
from app.errors import Stalled
from app.shared.layout import (
    ANSWERED_MS,
    EJECTION,
    HEARD_MS,
    LOOKED_MS,
    OLDEST_MS,
    STALLED,
    STATE,
    SUSPECTS,
    UNANSWERED,
    UNHEALTHY,
    USUAL_MS,
)
from app.worker import stalls
from app.worker.balance.pool import Pool
from app.worker.stalls import KNOWN_ANSWERS, LATE_SECONDS, StallWatch
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.send_proxy import ProxyHeaderConnections


class Deadline:
    """Takes the place of a deadline and of its greenlet."""

    def __init__(self, request: UpstreamRequest) -> None:
        self.request: UpstreamRequest | None = request
        self.thrown: Exception | None = None
        self.greenlet = self

    def throw(self, error: Exception) -> None:
        self.thrown, self.request = error, None


class WatchBench(World):
    """A StallWatch over a pool of three backends; what waits in the worker a test says."""

    def __init__(self, send_proxy: str = "off") -> None:
        super().__init__()
        config = self.publish(1, 2, 3, send_proxy=send_proxy)
        self.kind = ConnectionCache if send_proxy == "off" else ProxyHeaderConnections
        self.pool = Pool(self.table, 1, self.connect, print)
        self.deadlines: list[Deadline] = []
        self.movable: list[UpstreamRequest] = []
        assert config.outlier_detection is not None
        self.watch = StallWatch(
            self.pool, self, config.outlier_detection, lambda request: request in self.movable
        )
        self.now = 1_000.0
        self.look(0.1)

    def connect(self, server: Server) -> tuple[ConnectionCache, None]:
        return self.kind(server.scheme, server.host, server.port, 0), None

    def unanswered(self) -> list[Deadline]:
        return [one for one in self.deadlines if one.request is not None]

    def throw(self, deadline: Deadline, error: Exception) -> None:
        deadline.throw(error)

    def cache(self, number: int = 0) -> ConnectionCache:
        connections: ConnectionCache = self.pool.backends[number].connections
        return connections

    def wait(self, number: int = 0, may_move: bool = True) -> Deadline:
        """A request that was sent just now, with send_proxy over connections of its client alone."""
        connections: Any = self.cache(number)
        if isinstance(connections, ProxyHeaderConnections):
            connections = connections.lane(b"PROXY UNKNOWN\r\n")
        unused: Any = None
        request = UpstreamRequest(b"GET", b"", b"", connections, unused, 3.0, 60.0)
        request.sent_at = self.now
        if may_move:
            self.movable.append(request)
        self.deadlines.append(Deadline(request))
        return self.deadlines[-1]

    def answers(self, seconds: float, count: int = 1, number: int = 0) -> None:
        backend = self.pool.backends[number]
        self.pool.cells[backend.requests] += count
        self.cache(number).heard_at = self.now
        self.cache(number).slowest = seconds

    def look(self, seconds: float = 0.1, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.watch.look(self.now)

    def cell(self, cell: int, number: int = 0) -> int:
        """One that this worker writes about a backend."""
        cells, at = self.counters(number + 1, 1)
        return cells[at + cell]

    def stall(self, number: int = 0) -> None:
        self.write(number + 1, EJECTION, STALLED)


def test_a_worker_tells_what_is_usual_once_it_knows() -> None:
    """The slowest of late, and only after enough answers."""
    bench = WatchBench()
    bench.answers(0.02, KNOWN_ANSWERS - 1)
    bench.look()
    assert bench.cell(USUAL_MS) == 0
    bench.answers(0.004)
    bench.look()
    assert bench.cell(USUAL_MS) == 20
    assert bench.cell(HEARD_MS) == pytest.approx(bench.now * 1000 - 100, abs=1)
    assert bench.pool.cells[ANSWERED_MS] == bench.cell(HEARD_MS)
    bench.look(60.0)
    bench.answers(0.004)
    bench.look()
    assert bench.cell(USUAL_MS) == 8  # 20 ms, forgotten to a third


def test_a_worker_tells_for_whom_it_waits_too_long() -> None:
    """And takes it back when they have gone."""
    bench = WatchBench()
    bench.answers(0.004, KNOWN_ANSWERS)
    waiting = [bench.wait(), bench.wait()]
    bench.look()
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (0, 0)
    bench.look()
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (2, 1)
    assert bench.cell(OLDEST_MS) == pytest.approx(bench.now * 1000 - 200, abs=1)
    assert bench.pool.cells[LOOKED_MS] == int(bench.now * 1000)
    for deadline in waiting:
        deadline.request = None
    bench.look()
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (0, 0)


def test_who_was_overtaken_by_an_answer_proves_nothing() -> None:
    """Long polls wait beside requests that are answered: only what came later counts."""
    bench = WatchBench()
    bench.answers(0.004, KNOWN_ANSWERS)
    for _ in range(5):
        bench.wait()
    bench.look(times=2)
    assert bench.cell(UNANSWERED) == 5
    bench.answers(0.004)
    bench.look(times=9)
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (0, 0)
    bench.wait()
    bench.look(times=2)
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (1, 1)
    bench.stall()
    bench.look()
    assert all(isinstance(one.thrown, Stalled) for one in bench.deadlines)


@pytest.mark.parametrize("send_proxy", ["off", "v1", "v2"])
def test_whoever_the_connection_belongs_to(send_proxy: str) -> None:
    """With send_proxy a request has its client's connections, not all of the backend's."""
    bench = WatchBench(send_proxy)
    bench.answers(0.004, KNOWN_ANSWERS)
    waiting = bench.wait()
    bench.look(times=100)
    assert (bench.cell(UNANSWERED), bench.pool.cells[SUSPECTS]) == (1, 1)
    bench.stall()
    bench.look()
    assert isinstance(waiting.thrown, Stalled)


def test_what_is_usual_is_not_suspicious() -> None:
    """Half a second where half a second is what it takes."""
    bench = WatchBench()
    bench.answers(0.5, KNOWN_ANSWERS)
    bench.wait()
    bench.look(times=9)
    assert bench.pool.cells[SUSPECTS] == 0
    bench.look(times=2)
    assert bench.pool.cells[SUSPECTS] == 1


def test_a_worker_that_was_held_up_begins_anew() -> None:
    """Answers may lie in its sockets unread."""
    bench = WatchBench()
    bench.answers(0.004, KNOWN_ANSWERS)
    bench.wait()
    bench.look(LATE_SECONDS + 1)
    assert bench.pool.cells[SUSPECTS] == 0
    bench.look(times=2)
    assert bench.pool.cells[SUSPECTS] == 1


def test_waits_on_a_stalled_server_end_where_they_may() -> None:
    """Those that may go elsewhere, and only those for that server."""
    bench = WatchBench()
    moves, stays, other = bench.wait(), bench.wait(may_move=False), bench.wait(1)
    bench.stall()
    bench.look()
    assert isinstance(moves.thrown, Stalled)
    assert (moves.thrown.sent, moves.thrown.status) == (True, 504)
    assert (stays.thrown, other.thrown) == (None, None)


def test_without_another_server_they_stay() -> None:
    """A stalled server serves when all others are ill: better to wait than to be told no."""
    bench = WatchBench()
    for port in (2, 3):
        bench.write(port, STATE, UNHEALTHY)
    waiting = bench.wait()
    bench.stall()
    bench.look()
    assert waiting.thrown is None


def test_what_waited_out_a_stall_is_not_usual() -> None:
    """Else the next stall would be found so much later."""
    bench = WatchBench()
    bench.answers(0.004, KNOWN_ANSWERS)
    bench.look()
    bench.stall()
    bench.answers(8.0)
    bench.look()
    assert bench.cell(USUAL_MS) == 4
    assert bench.cell(HEARD_MS) == pytest.approx(bench.now * 1000 - 100, abs=1)


def test_a_wait_that_ended_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet that is thrown into runs, and may answer for others."""
    bench = WatchBench()
    first, second = bench.wait(), bench.wait()

    def throw(error: Exception) -> None:
        first.request = second.request = None
        first.thrown = error

    monkeypatch.setattr(first, "throw", throw)
    bench.stall()
    bench.look()
    assert first.thrown is not None
    assert second.thrown is None
    assert pytest.approx(0.1) == stalls.TICK
