"""The worker's part of stall detection: which requests wait for the first byte of an answer, by server.

Owns two things. It tells the control process, through the worker's own cells, when it last heard from each
server, how long that server usually takes, and how many requests wait for it since when. And where the
control process has found a server to be stalled (app.control.outliers.stall_detector), it ends the waits
that may go to another server.

Runs in workers, in the hub, ten times a second: never blocks, and a request pays for it with a few
attributes. Whose requests they are is told by the connection cache, one for each server, whichever of its
connections a request may use (send_proxy gives each client its own). Must never know which requests may be
repeated: it asks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from app.config import OutlierDetection
from app.errors import Stalled
from app.shared.layout import (
    ANSWERED_MS,
    EJECTION,
    HEARD_MS,
    LOOKED_MS,
    OLDEST_MS,
    STALLED,
    SUSPECTS,
    UNANSWERED,
    USUAL_MS,
    counters_at,
)
from app.shared.slowest import Slowest
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import TICK, Deadline, Deadlines
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.request import UpstreamRequest

# What a server usually takes is its slowest answer of late: of an older one a third counts after this time.
FORGET_SECONDS = 60.0
# Before so many answers nobody knows what is usual.
KNOWN_ANSWERS = 10
# A wait of this share of what makes a stall is worth telling: the control process then asks for itself.
SUSPICIOUS_SHARE = 0.5
SUSPICIOUS_TIMES = 2
# A look that comes later than this was held up by this machine: answers may lie here unread.
LATE_SECONDS = 2.5 * TICK


class StallWatch:
    """Watches the requests of one worker that are unanswered."""

    __slots__ = (
        "_after",
        "_deadlines",
        "_fair_since",
        "_looked_at",
        "_may_move",
        "_pool",
        "_told",
        "_usual",
    )

    def __init__(
        self,
        pool: Pool,
        deadlines: Deadlines,
        settings: OutlierDetection,
        may_move: Callable[[UpstreamRequest], bool],
    ) -> None:
        """``may_move`` says whether a request may be given up and sent to another server."""
        self._pool = pool
        self._deadlines = deadlines
        self._after = settings.stall_after
        self._may_move = may_move
        self._looked_at = 0.0
        self._fair_since = 0.0
        self._usual: dict[ConnectionCache, Slowest] = {}  # what answers take, in seconds
        # Rows of the backends in whose UNANSWERED cell a number stands.
        self._told: set[int] = set()

    def __repr__(self) -> str:
        return f"<StallWatch for {len(self._told)} of {len(self._pool.backends)} backends>"

    def look(self, now: float) -> None:
        """Write down who keeps requests waiting, and move those that wait for a stalled server.

        To be called at every tick; ``now`` is monotonic, in seconds.
        """
        cells = self._pool.cells
        if now - self._looked_at > LATE_SECONDS:
            self._fair_since = now
        waiting: dict[ConnectionCache, list[Deadline]] = {}
        for deadline in self._deadlines.unanswered():
            waiting.setdefault(deadline.request.cache, []).append(deadline)
        self._looked_at = now
        if len(self._usual) > len(self._pool.backends):
            kept = {backend.connections for backend in self._pool.backends}
            self._usual = {one: known for one, known in self._usual.items() if one in kept}
        told: set[int] = set()
        stalled: list[tuple[Backend, list[Deadline]]] = []
        for backend in self._pool.backends:
            connections = backend.connections
            if connections.slowest:
                self._learn(backend, now)
            if connections in waiting:
                if self._is_stalled(backend):
                    stalled.append((backend, waiting[connections]))
                if self._tell(backend, waiting[connections], now):
                    told.add(backend.row)
        for row in self._told - told:
            cells[counters_at(row) + UNANSWERED] = 0
        self._told = told
        cells[SUSPECTS] = len(told)
        cells[LOOKED_MS] = int(now * 1000)
        for backend, deadlines in stalled:
            self._move(backend, deadlines)

    def _learn(self, backend: Backend, now: float) -> None:
        """Write down when a backend that has answered was last heard, and what it usually takes."""
        connections, cells = backend.connections, self._pool.cells
        at = counters_at(backend.row)
        cells[at + HEARD_MS] = heard_ms = int(connections.heard_at * 1000)
        cells[ANSWERED_MS] = max(cells[ANSWERED_MS], heard_ms)
        slowest, connections.slowest = connections.slowest, 0.0
        if self._is_stalled(backend):  # what waited out a stall says nothing about what is usual
            return
        if connections not in self._usual:
            self._usual[connections] = Slowest(FORGET_SECONDS)
        usual = self._usual[connections].observe(slowest, now)
        if cells[backend.requests] - cells[backend.in_flight] >= KNOWN_ANSWERS:
            cells[at + USUAL_MS] = ceil(usual * 1000)

    def _tell(self, backend: Backend, deadlines: list[Deadline], now: float) -> bool:
        """Whether a backend is suspiciously silent; if so, write down how many wait and since when.

        Who was overtaken by an answer to another does not count: long polls wait while all is well.
        """
        heard_at = backend.connections.heard_at
        sent = [one.request.sent_at for one in deadlines if one.request.sent_at >= heard_at]
        if not sent:
            return False
        oldest = max(min(sent), self._fair_since)
        silence = now - oldest
        usual = self._usual_of(backend.connections, now)
        if silence < max(SUSPICIOUS_SHARE * self._after, SUSPICIOUS_TIMES * usual):
            return False
        cells, at = self._pool.cells, counters_at(backend.row)
        cells[at + UNANSWERED] = len(sent)
        cells[at + OLDEST_MS] = int(oldest * 1000)
        return True

    def _usual_of(self, connections: ConnectionCache, now: float) -> float:
        """Seconds that its answers take, 0.0 before the first."""
        known = self._usual.get(connections)
        return known.as_of(now) if known is not None else 0.0

    def _is_stalled(self, backend: Backend) -> bool:
        table = self._pool.table
        return table.cells[table.server(backend.row) + EJECTION] == STALLED

    def _move(self, backend: Backend, deadlines: list[Deadline]) -> None:
        """End those waits that may go to another server, unless there is none."""
        if self._pool.serves(backend):
            return
        for deadline in deadlines:
            request = deadline.request
            # A greenlet that was thrown into runs at once: what it waits for may have changed since.
            if request is None or request.cache is not backend.connections:
                continue
            if self._may_move(request):
                self._deadlines.throw(deadline, Stalled(f"{backend.name} answers nobody"))
