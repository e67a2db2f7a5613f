"""Hears that a peer has ended although bytes that it sent before wait to be read.

A read watcher reports bytes for as long as they are there. With some that wait for later it has to be
stopped, and the FIN behind them is not heard. epoll reports a FIN apart from bytes (EPOLLRDHUP), which libev
does not ask for: so there is one epoll beside the loop's own, and the loop watches that. Elsewhere than on
Linux such an end is heard when the bytes have been read. Runs in workers, in the hub. Knows descriptors,
nothing of what is said.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import monkey

_READ: Final = 1  # libev's event mask
_HAS_EPOLL: Final = hasattr(select, "EPOLLRDHUP")
_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLONESHOT if _HAS_EPOLL else 0
_RDHUP: Final = select.POLLRDHUP if _HAS_EPOLL else 0
_Poll: Final[Callable[[], Any]] = monkey.get_original("select", "poll")


def has_hung_up(fd: int) -> bool | None:
    """Whether the peer has sent FIN or RST, read up to it or not; None where the system does not tell."""
    if not _HAS_EPOLL:
        return None
    poll = _Poll()
    poll.register(fd, _RDHUP)
    return bool(poll.poll(0))


class HangUps:
    """The descriptors whose peers' ends are waited for, each with what is called then, once."""

    __slots__ = ("_callbacks", "_epoll", "_watcher")

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None
        self._watcher: Any = None

    def __repr__(self) -> str:
        return f"<HangUps {len(self._callbacks)} watched>"

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the hub when the peer ends. ``forget`` it before the descriptor is closed."""
        if not _HAS_EPOLL:
            return
        if self._epoll is None:
            self._epoll = monkey.get_original("select", "epoll")()
            self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), _READ)
            self._watcher.start(self._look)
            self._watcher.ref = False  # it alone keeps no process alive
        self._callbacks[fd] = callback
        self._epoll.register(fd, _EVENTS)

    def forget(self, fd: int) -> None:
        """Call nothing any more for it; again is harmless."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            self.forget(fd)
            if callback is not None:
                callback()


# One for the process, as there is one loop.
hang_ups: Final = HangUps()
