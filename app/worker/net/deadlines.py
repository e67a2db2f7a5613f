"""Deadlines of everything a worker waits for, kept by one coarse timer.

A ``gevent.Timeout`` for each wait costs 1.7 µs and a timer object; here a wait costs one attribute: the
greenlet writes ``deadline.at`` before it waits and the timer, ten times a second, throws ``Expired`` into
those whose time is over. So a timeout is late by up to TICK seconds, which no HTTP timeout minds. A process
that has not run for a while (a suspended machine, a stopped group) has had nobody to wait for meanwhile: that
time counts for no deadline.
Runs in a gevent hub, one instance a process. Knows no sockets and no HTTP, but a greenlet may leave here
what it waits for an answer to (``Deadline.request``, for app.worker.stalls): that costs 5 ns a request, a set
of the stall watch's own would cost 120.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import gevent
from greenlet import getcurrent

from app.shared.ticks import Ticks
from app.telemetry import log

TICK: Final = 0.1
# A loop under load is late by milliseconds, by 0.2 s at worst.
PAUSE_SECONDS: Final = 1.0
NEVER: Final = float("inf")


class Expired(Exception):
    """Thrown into a greenlet that waited past its deadline."""


class Deadline:
    """When the greenlet that owns it stops waiting: monotonic seconds, NEVER while it does not wait.

    ``request`` is what the greenlet waits for an answer to, as long as nothing of that has come; to this
    module it is any object. ``outlast(now)`` is asked in the hub when its time is over, where there is such
    a question: a later time for ``at`` lets the greenlet wait on. No wait goes beyond ``limit``, whatever
    ``at`` says: it is what all waits of a request have together (timeouts.total).
    """

    __slots__ = ("at", "greenlet", "limit", "outlast", "request")

    def __init__(self) -> None:
        self.at = self.limit = NEVER
        self.greenlet: Any = getcurrent()
        self.outlast: Callable[[float], float] | None = None
        self.request: Any = None


class Deadlines:
    """All deadlines of this process, and callables to run at every tick."""

    def __init__(self) -> None:
        self.now = monotonic()
        self._deadlines: set[Deadline] = set()
        self._ticks: Ticks[float] = Ticks()
        self._timer: Any = None

    def start(self) -> None:
        """Begin to tick in the current hub; again is harmless."""
        if self._timer is None:
            self.now = monotonic()  # what was before is no pause
            self._timer = gevent.get_hub().loop.timer(TICK, TICK)
            self._timer.start(self._tick)
            # The timer alone must not keep a process alive that has nothing else to do.
            self._timer.ref = False

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def every_tick(self, function: Callable[[float], None]) -> None:
        """Call ``function(now)`` at every tick, in the hub: it must not block."""
        self._ticks.add(function)

    def enter(self) -> Deadline:
        """A deadline for the current greenlet; give it back with ``leave`` before the greenlet ends."""
        deadline = Deadline()
        self._deadlines.add(deadline)
        return deadline

    def leave(self, deadline: Deadline) -> None:
        """Forget a deadline: throwing into a greenlet that has ended would raise in the hub."""
        self._deadlines.discard(deadline)

    def unanswered(self) -> list[Deadline]:
        """The deadlines whose greenlets wait for the first byte of an answer."""
        return [deadline for deadline in self._deadlines if deadline.request is not None]

    def __repr__(self) -> str:
        waiting = sum(deadline.at != NEVER for deadline in self._deadlines)
        return f"<Deadlines {len(self._deadlines)} held, {waiting} waiting>"

    def throw(self, deadline: Deadline, error: Exception | type[Exception]) -> None:
        """In the hub: raise ``error`` where the greenlet waits. What comes out of it is logged, no more."""
        try:
            deadline.greenlet.throw(error)
        except Exception as failure:  # noqa: BLE001 - whatever a request comes to
            log.uncaught("deadlines", "uncaught exception in a greenlet", failure)

    def _tick(self) -> None:
        before, self.now = self.now, monotonic()
        now = self.now
        if now - before > PAUSE_SECONDS:
            self._put_off(now - before)  # what came meanwhile is read before the next tick
            return
        for deadline in tuple(self._deadlines):  # a thrown-into greenlet changes the set
            is_over = deadline.at <= now or (deadline.limit <= now and deadline.at != NEVER)
            if is_over and deadline in self._deadlines:
                until = _until(deadline, now)
                if until > now:
                    deadline.at = until
                else:
                    deadline.at = NEVER
                    self.throw(deadline, Expired)
        self._ticks.run(now)

    def _put_off(self, seconds: float) -> None:
        """After a pause of this process: who waited in it waits so much longer, within its ``limit``."""
        for deadline in self._deadlines:
            deadline.at += seconds


def _until(deadline: Deadline, now: float) -> float:
    """When a wait that is over by itself ends after all."""
    outlast = deadline.outlast
    if outlast is None or deadline.limit <= now:
        return 0.0
    try:
        return outlast(now)
    except Exception as error:  # noqa: BLE001 - all other waits end by the same tick
        log.uncaught("deadlines", "uncaught exception in a question of a deadline", error)
        return 0.0


# One for the process: whatever waits in a worker shares its timer.
deadlines: Final = Deadlines()
