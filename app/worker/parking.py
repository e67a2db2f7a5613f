"""Idle connections without greenlets: a greenlet and its stack cost several KiB, a watched socket little.

Owns which connections are parked and until when. One that says something runs on in a new greenlet; one whose
``timeouts.keepalive`` is over is closed, at the next tick. Runs in workers, in the hub: never blocks. Counts
nothing: a parked connection keeps its place in app.worker.admission. Knows nothing of what connections say.
"""

from __future__ import annotations

from functools import partial
from time import monotonic

import gevent

from app.worker.client.contract import PARK_SECONDS, ParkableConnection
from app.worker.net.deadlines import NEVER


class Parking:
    """The parked connections of one worker. ``keepalive``: seconds of idleness, 0 for any number."""

    def __init__(self, keepalive: float) -> None:
        # A connection has been idle for PARK_SECONDS when it comes here.
        self._seconds = keepalive - PARK_SECONDS if keepalive else NEVER
        self._parked: dict[ParkableConnection, float] = {}

    def __repr__(self) -> str:
        return f"<Parking {len(self._parked)} connections>"

    def park(self, connection: ParkableConnection) -> None:
        """Keep an idle connection without a greenlet until it says something or its time is over."""
        self._parked[connection] = monotonic() + self._seconds
        stream = connection.stream
        stream.on_event = partial(self._unpark, connection)
        stream.watch()

    def sweep(self, now: float) -> None:
        """At every tick: close what was parked too long. All wait equally long, so the oldest are first."""
        while self._parked:
            connection = next(iter(self._parked))
            if self._parked[connection] > now:
                return
            del self._parked[connection]
            connection.close()

    def close_idle(self) -> None:
        """Close all; one whose request came in the last moment runs on instead, and is answered."""
        for connection in tuple(self._parked):
            if connection.stream.peek():
                self._unpark(connection)
            else:
                del self._parked[connection]
                connection.close()

    def _unpark(self, connection: ParkableConnection) -> None:
        if self._parked.pop(connection, None) is not None:
            connection.stream.on_event = None
            gevent.spawn_raw(connection.run)
