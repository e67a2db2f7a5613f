"""How long an HTTP/2 connection waits for its client's next bytes.

Owns the three times of a connection: for its first request, for the rest of a frame that has begun (a byte
now and then puts nothing off: slowloris), and for the next request of one that is idle or drained. Runs in
workers. Pure: time comes as a parameter, the waiting is app.worker.client.http2.connection's.
"""

from __future__ import annotations

from app.worker.client.contract import DRAIN_IDLE_SECONDS, DRAIN_LOOK_SECONDS
from app.worker.net.deadlines import NEVER


class Patience:
    """The times of one connection, in monotonic seconds.

    ``is_new``: no request has come yet. ``refuses_after``: no stream is taken after that, NEVER until the
    connection has been told to end.
    """

    __slots__ = (
        "_first_by",
        "_frames",
        "_head_timeout",
        "_inside_since",
        "_keepalive",
        "idle_since",
        "is_new",
        "refuses_after",
    )

    def __init__(self, opened_at: float, now: float, head_timeout: float, keepalive: float) -> None:
        self._head_timeout = head_timeout
        self._keepalive = keepalive
        self._first_by = opened_at + head_timeout
        self._inside_since = opened_at
        self._frames = 0
        self.idle_since = now
        self.is_new = True
        self.refuses_after = NEVER

    def fed(self, was_inside: bool, frames: int, now: float) -> None:
        """Bytes came; before them a frame had or had not begun, after them ``frames`` have been whole."""
        if not was_inside or frames != self._frames:
            self._frames = frames
            self._inside_since = now

    def until(self, has_streams: bool, is_inside: bool, now: float) -> float:
        """When the wait that begins now is over. ``is_inside``: a frame has begun and is not whole."""
        until = NEVER
        if not has_streams:
            idle_until = self._first_by if self.is_new else self.idle_since + self._keepalive
            until = min(idle_until, max(self.refuses_after, now + DRAIN_LOOK_SECONDS))
        if is_inside:
            until = min(until, self._inside_since + self._head_timeout)
        return until

    def part(self) -> None:
        """A client that was told of the drain is idle again: now it has a moment, and then a next worker."""
        self.refuses_after = min(self.refuses_after, self.idle_since + DRAIN_IDLE_SECONDS)

    def frame_is_late(self, now: float) -> bool:
        """Whether a frame that has begun should be whole by now."""
        return now >= self._inside_since + self._head_timeout

    def has_spoken(self) -> bool:
        """Whether the client has sent a request, or at least a whole frame."""
        return not self.is_new or self._frames > 0
