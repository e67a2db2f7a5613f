"""Gives memory back to the system that a worker needed once and does not need any more.

Owns nothing but the question when. The pieces of large answers are freed in no order, and what glibc keeps of
them lies under something that lives: after 80 streams at once a worker stayed at 66 MB, at 45 when it was
asked to give back what it can. That takes 1 ms for each 15 MB (measured up to 600), in which nothing else is
done. Runs in workers. Without glibc it does nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 30.0
# It is not asked for less: what a worker needs again and again costs page faults to get back.
GROWN_BYTES: Final = 8 << 20
CHANGED_BYTES: Final = 1 << 20
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Trim:
    """Looks now and then whether a process has grown, and has it give back what it does not need.

    ``size`` gives the resident bytes, ``give_back`` does it: the process's own unless said otherwise.
    """

    def __init__(
        self, size: Callable[[], int] | None = None, give_back: Callable[[], object] | None = None
    ) -> None:
        self._size = size or resident
        self._give_back = give_back or _malloc_trim()
        self._next = 0.0
        self._first = 0  # what it had at first
        self._left = 0  # what it had when it had given back what it could

    def look(self, now: float) -> None:
        """In the hub, at every tick."""
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        size = self._size()
        self._first = self._first or size
        if size >= self._first + GROWN_BYTES and abs(size - self._left) >= CHANGED_BYTES:
            self._give_back()
            self._left = self._size()


def resident() -> int:
    """How many bytes of this process are in memory; 0 where that cannot be read."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _malloc_trim() -> Callable[[], object]:
    """glibc's own; of another C library there is none, and nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return (lambda: trim(0)) if trim is not None else (lambda: None)
