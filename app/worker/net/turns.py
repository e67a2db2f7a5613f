"""Turns of the loop, for work that would not wait by itself.

Whoever has much to do with what is here already (requests that were pipelined, a body in tiny chunks, a fast
splice) does a bounded part of it and lets the loop look at everybody else before the next. A sleep of 0 is no
turn: gevent goes on with callbacks for up to 5 ms before it looks at its descriptors. Runs in a gevent hub,
one instance a process. Knows greenlets, nothing of what they do.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Final

import gevent
from greenlet import getcurrent

from app.telemetry import log

# All who want a turn get so much of each together: what others wait for them does not grow with their number.
SHARE_SECONDS: Final = 0.001


class Turns:
    """The greenlets that go on in the loop's next turns, in their order."""

    __slots__ = ("_is_armed", "_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._timer: Any = None
        self._is_armed = False

    def __repr__(self) -> str:
        return f"<Turns {len(self._waiting)} waiting>"

    def next(self) -> None:
        """Go on when the loop has looked at what is ready. Whatever is thrown in meanwhile is raised."""
        hub = gevent.get_hub()
        current = getcurrent()
        self._waiting.append(current)
        if not self._is_armed:
            if self._timer is None:
                # Of all that is ready in a turn of the loop it comes last.
                self._timer = hub.loop.timer(0.0, priority=hub.loop.MINPRI)
            self._arm()
        try:
            hub.switch()
        except BaseException:
            if current in self._waiting:
                self._waiting.remove(current)
            raise

    def _arm(self) -> None:
        self._is_armed = True
        self._timer.start(self._go_on)

    def _go_on(self) -> None:
        """In the hub: those who waited before this turn, while their share of it lasts."""
        until = monotonic() + SHARE_SECONDS
        for _ in range(len(self._waiting)):
            if not self._waiting:
                break  # the last were thrown into by those before them
            greenlet = self._waiting.popleft()
            try:
                greenlet.switch()
            except Exception as error:  # noqa: BLE001 - the others go on all the same
                log.uncaught("turns", "uncaught exception in a greenlet", error)
            if monotonic() >= until:
                break
        if self._waiting:
            self._arm()
        else:
            self._is_armed = False


# One for the process, as there is one loop.
turns: Final = Turns()
