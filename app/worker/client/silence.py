"""How long a client may take nothing of what it is sent.

Owns what ``timeouts.client`` means to whoever sends: silence, not slowness. A socket says that it takes more
when a third of its buffer is free, which can be megabytes: at 40 KiB/s that is a minute. So the kernel is
asked how much the client's has taken, once a second, and a byte puts the end off. Runs in workers. Waits for
nothing itself (app.worker.net.deadlines does), and knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from app.worker.net.deadlines import NEVER, Deadline, deadlines

LOOK_SECONDS: Final = 1.0


class Silence:
    """The waits of one that sends, one at a time. ``taken`` gives what is compared from look to look."""

    __slots__ = ("_before", "_look", "_seconds", "_since", "_taken")

    def __init__(self, taken: Callable[[], int], seconds: float) -> None:
        self._taken = taken
        self._seconds = seconds
        self._look = min(LOOK_SECONDS, seconds / 4)
        self._since = 0.0
        self._before: int | None = None

    def begin(self, deadline: Deadline) -> Callable[[float], float] | None:
        """A wait begins; gives what ``end`` is to put back."""
        was = deadline.outlast
        deadline.outlast = self._outlast
        self.moved(deadline)
        return was

    def moved(self, deadline: Deadline) -> None:
        """The client has done something that counts; the wait begins anew."""
        self._since = deadlines.now
        self._before = None  # asked at the first look: most waits are over before
        deadline.at = self._since + self._look

    def end(self, deadline: Deadline, was: Callable[[float], float] | None) -> None:
        """The wait is over, however it was."""
        deadline.at = NEVER
        deadline.outlast = was

    def _outlast(self, now: float) -> float:
        """As Deadline.outlast: the time of the next look, not later than the end."""
        taken = self._taken()
        if taken != self._before:
            if self._before is not None:
                self._since = now
            self._before = taken
        return min(self._since + self._seconds, now + self._look)
