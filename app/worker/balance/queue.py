"""Requests of one worker that wait because every server is full, and who gets the next place.

Owns the order: first come, first served, in this worker exactly and over all workers nearly. Each worker
announces since when its oldest request waits (one cell of its slot, cleared with the slot when it dies) and
leaves places to workers that have waited longer. A request may also wait for one backend alone: it takes no
other's place, and so nobody has to wait behind it. A place that is freed here is handed over at once; those
freed by other workers are looked for every LOOK_SECONDS, only while somebody waits. Runs in workers, in a
gevent hub. Must never know what a server is or why it has room: that is asked of app.worker.balance.pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic_ns
from typing import Any, Generic, Protocol, TypeVar

import gevent
from gevent.event import AsyncResult

from app.config import Queue as Settings
from app.errors import NoBackend
from app.shared.layout import WAITING_NS

# How late a place freed by another worker is noticed. Costs some 0.5 % of a core while somebody waits.
LOOK_SECONDS = 0.002
# A worker that has waited longer but does not take what is free (stopped, or what is free there is what its
# request has tried) is no longer waited for.
PATIENCE_NS = 10_000_000
# The drain rate is taken over this many places handed over.
_HANDED_KEPT = 64

B = TypeVar("B")


class PlaceSource(Protocol[B]):
    """What the queue asks of the pool."""

    def has_room(self, backend: B) -> bool: ...

    def claim(self, backend: B) -> bool:
        """Take a place; False if there is none left."""

    def release(self, backend: B) -> None: ...

    def waiting_since(self) -> list[int]:
        """Since when the oldest request of each worker waits, 0 where none does: what workers announce."""

    def candidates(self) -> Iterable[B]:
        """Backends that may have room. Raises NoBackend where waiting has no sense any more."""

    def is_lost(self, backend: B) -> bool:
        """Whether it is out of service, so that nobody should wait for it any more."""


class Waiter(Generic[B]):
    """One request that waits for any backend but those it has tried, or for ``only``."""

    __slots__ = ("only", "result", "since", "tried")

    def __init__(self, tried: tuple[B, ...], only: B | None, since: int) -> None:
        self.tried = tried
        self.only = only
        self.since = since
        self.result: Any = AsyncResult()

    def can_use(self, backend: B) -> bool:
        return backend not in self.tried if self.only is None else backend is self.only


class Queue(Generic[B]):
    """The waiting requests of one worker, in their order.

    ``waiting`` is public: who frees a place looks whether it is empty, and nothing more.
    """

    def __init__(self, places: PlaceSource[B], cells: memoryview) -> None:
        self.waiting: deque[Waiter[B]] = deque()
        self._places = places
        self._cells = cells
        self._size = 0
        self._timeout_ns = 0
        self._handed: deque[int] = deque(maxlen=_HANDED_KEPT)  # when, since the queue was empty
        self._timer: Any = None
        # Those who have waited longer, as they were seen first, when, and those we gave up on.
        self._older: frozenset[int] = frozenset()
        self._older_ns = 0
        self._stuck: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Queue {len(self.waiting)} of {self._size} waiting>"

    def adopt(self, settings: Settings | None, total_timeout: float) -> None:
        """Take over a configuration; who waits already keeps waiting."""
        self._size = settings.size if settings is not None else 0
        timeout = settings.timeout if settings is not None else 0.0
        if total_timeout:
            timeout = min(timeout, total_timeout)
        self._timeout_ns = int(timeout * 1e9)

    def is_due(self) -> bool:
        """Whether a request that comes now has to wait behind others, of this worker or another."""
        return self._size > 0 and (bool(self._oldest()) or any(self._places.waiting_since()))

    def wait(self, tried: tuple[B, ...], only: B | None = None) -> B:
        """Wait for a place and take it. NoBackend if the queue is full, the time is over, or ``only`` lost.

        Whatever is thrown into the waiting greenlet (its client has gone) ends the wait, and a place that
        was handed over in the same moment is given back.
        """
        if len(self.waiting) >= self._size:
            raise NoBackend("the queue is full", reason="all_full")
        waiter = Waiter(tried, only, monotonic_ns())
        self.waiting.append(waiter)
        self._announce()
        self._start()
        try:
            backend: B = waiter.result.get()
        except BaseException:
            if not waiter.result.ready():
                self.waiting.remove(waiter)
                self._announce()
            elif waiter.result.successful():
                self._places.release(waiter.result.value)
            raise
        return backend

    def hand_over(self, backend: B) -> bool:
        """Give a place at ``backend`` to the first who can use it, if it has one and it is our turn."""
        waiter = next((one for one in self.waiting if one.can_use(backend)), None)
        if waiter is None or not (waiter.only is not None or self._is_our_turn()):
            return False
        if not self._places.claim(backend):
            return False
        self._handed.append(monotonic_ns())
        self.waiting.remove(waiter)
        self._announce()
        waiter.result.set(backend)
        return True

    def seconds_to_a_place(self) -> float:
        """How long one more request would wait, by the rate at which places were handed over lately."""
        if not self._handed:
            return self._timeout_ns / 1e9
        each = (monotonic_ns() - self._handed[0]) / len(self._handed)
        return (len(self.waiting) + 1) * each / 1e9

    # ----------------------------------------------------------------------------------------------

    def _is_our_turn(self) -> bool:
        """Whether no worker's oldest request has waited longer than ours, but for those that take nothing.

        A worker that has waited longer gets PATIENCE_NS to take a free place, and is then passed over.
        """
        oldest = self._oldest()
        older = frozenset(since for since in self._places.waiting_since() if 0 < since < oldest)
        self._stuck &= older
        older -= self._stuck
        if not older:
            return True
        now = monotonic_ns()
        if older != self._older:
            self._older, self._older_ns = older, now
        elif now - self._older_ns >= PATIENCE_NS:
            self._stuck |= older
            return True
        return False

    def _start(self) -> None:
        if self._timer is None:
            self._handed.clear()
            self._timer = gevent.get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS)
            self._timer.start(self._look)

    def _look(self) -> None:
        """In the hub: end waits whose time is over, and find places that others have freed."""
        self._expire()
        self._end_lost()
        try:
            if self.waiting:
                for backend in self._places.candidates():
                    while self.waiting and self._places.has_room(backend):
                        if not self.hand_over(backend):
                            break
        except NoBackend as error:
            self._end_all(error.reason)
        if not self.waiting:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _expire(self) -> None:
        limit = monotonic_ns() - self._timeout_ns
        while self.waiting and self.waiting[0].since <= limit:
            waiter = self.waiting.popleft()
            waiter.result.set_exception(NoBackend("queue.timeout is over", reason="all_full"))
        self._announce()

    def _end_lost(self) -> None:
        for waiter in [one for one in self.waiting if one.only and self._places.is_lost(one.only)]:
            self.waiting.remove(waiter)
            waiter.result.set_exception(NoBackend("it is not available", reason="none_healthy"))

    def _end_all(self, reason: str) -> None:
        while self.waiting:
            self.waiting.popleft().result.set_exception(NoBackend(reason=reason))
        self._announce()

    def _announce(self) -> None:
        self._cells[WAITING_NS] = self._oldest()

    def _oldest(self) -> int:
        """Since when the first of those who can use any place waits, 0 if there is none."""
        return next((waiter.since for waiter in self.waiting if waiter.only is None), 0)
