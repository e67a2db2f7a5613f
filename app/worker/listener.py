"""The accept loop of a worker, and which worker a new connection is for.

All workers watch the one socket that the master opened, and the kernel wakes whoever slept last: a trickle of
long-lived connections would end up at one of them (64 of 64, seen with two workers at rest). So a worker that
has clearly more than another defers: a new one is left alone for a moment, in which the other, woken too,
takes it. Runs in workers. Knows numbers of connections, nothing of what is said on them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import gevent
from gevent.server import StreamServer

from app.shared.layout import CONNECTIONS, GOES, LEAVING, LEDGER, PID
from app.shared.table import Table
from app.worker.net.stream import RawSocket

# An idle worker takes a connection within 0.1 ms of being woken; one that has not in this time is busy, and
# the connection waits no longer for it.
YIELD_SECONDS = 0.001
# Workers count as even while they differ by no more than an eighth, and some. Connections that last for one
# request differ by a few all the time: where 1 was too many, the pauses cost a fifth of their rate.
_SLACK, _SLACK_DIVISOR = 8, 8
# As many as wait there at most (``backlog`` in gunicorn.conf.py).
_LAST_ACCEPTS = 2048


def should_defer(mine: int, others: Sequence[int]) -> bool:
    """Whether another worker has so many connections fewer that a new one should be its."""
    if not others:
        return False
    fewest = min(others)
    return mine > fewest + _SLACK + fewest // _SLACK_DIVISOR


class Share:
    """A worker's share of the connections: told to the other workers, held against what they told.

    ``cells`` are this worker's own of the table, ``count`` gives the number of its connections;
    ``takes_more``: whether it accepts any.
    """

    def __init__(
        self,
        cells: Any,
        table: Table,
        slot: int,
        count: Callable[[], int],
        takes_more: Callable[[], bool],
    ) -> None:
        self._cells = cells
        self._table = table
        self._slot = slot
        self._count = count
        self._takes_more = takes_more

    def announce(self, _now: float = 0.0) -> None:
        """At every tick: write the number of connections and one more, or 0 from who takes no more."""
        self._cells[CONNECTIONS] = 1 + self._count() if self._takes_more() else 0

    def defers(self) -> bool:
        """Whether a new connection should be another worker's."""
        self.announce()
        return should_defer(self._count(), self._others())

    def is_alone(self) -> bool:
        """Whether no other worker accepts connections."""
        return not self._others()

    def is_awaited(self) -> bool:
        """Whether another worker is on its way that will accept: it has a slot, and has told nothing yet."""
        each = map(self._table.of_each_slot, (PID, CONNECTIONS, LEAVING))
        slots = list(zip(*each, strict=True))[LEDGER + 1 :]
        return any(
            pid and not told and leaving != GOES
            for slot, (pid, told, leaving) in enumerate(slots, LEDGER + 1)
            if slot != self._slot
        )

    def _others(self) -> list[int]:
        """How many connections each of the others has that accept any."""
        told = self._table.of_each_slot(CONNECTIONS)
        return [one - 1 for slot, one in enumerate(told) if one and slot != self._slot]


class Listener(StreamServer):
    """gevent's accept loop, giving plain non-blocking sockets. ``defers``: asked before each is accepted."""

    def __init__(self, listener: Any, handle: Any, defers: Callable[[], bool] | None) -> None:
        listener.setblocking(True)
        super().__init__(listener, handle=handle, spawn=gevent.spawn_raw)
        self._defers = defers
        self._pause: Any = None
        self._waited_until = 0.0

    def do_read(self) -> tuple[socket.socket, Any] | None:
        """Accept one connection, if there is one and it is for us."""
        if self._defers is not None:
            now = monotonic()
            # What is still there after a pause is nobody else's.
            if now >= self._waited_until and self._defers():
                self._waited_until = now + 2 * YIELD_SECONDS
                self._rest()
                return None
        try:
            fd, address = self.socket._accept()
        except BlockingIOError:
            return None
        return RawSocket(self.socket.family, self.socket.type, 0, fileno=fd), address

    def close(self) -> None:
        """Accept what waits, then close: the last process to close the socket resets what is left there."""
        if self.closed:
            return
        self._defers = None
        try:
            for _ in range(_LAST_ACCEPTS):
                accepted = self.do_read()
                if accepted is None:
                    break
                self.do_handle(*accepted)
        except OSError:  # no descriptor left, or the client has gone
            pass
        super().close()
        gevent.sleep(0)  # so that their greenlets have begun, and the drain knows of them

    def do_close(self, *_: Any) -> None:
        """The connection closes its own socket, or stays parked."""

    def _rest(self) -> None:
        self.stop_accepting()
        self._pause = self.loop.timer(YIELD_SECONDS)
        self._pause.start(self._go_on)

    def _go_on(self) -> None:
        self._pause.close()
        if self.started:
            self.start_accepting()
