"""A request body on its way to a backend, kept as long as it may have to be sent to another.

Runs in workers, between the client's side, which can be read only once, and the uploads that read it one
after another. Knows neither framing nor why it is sent again.
"""

from __future__ import annotations

from app.worker.net.deadlines import Deadline
from app.worker.proxy.exchange import Exchange
from app.worker.upstream.request import ReadBody


class Replay:
    """The body of one exchange; at most ``limit`` bytes of it are kept, what came with the head included.

    ``has_begun``: something was read of it beyond that. ``is_ended``: all of it was.
    """

    __slots__ = (
        "_first",
        "_is_reading",
        "_kept",
        "_left",
        "_read",
        "_resumes",
        "has_begun",
        "is_ended",
    )

    def __init__(self, exchange: Exchange, read_body: ReadBody, limit: int) -> None:
        self._first = exchange.body
        self._read = read_body
        self._resumes = exchange.resumes_body
        self._kept: list[bytes] = []
        self._left = limit - len(exchange.body)
        self._is_reading = False
        self.has_begun = False
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether all that was read can be sent again."""
        return self._left >= 0 and (self._resumes or not self._is_reading)

    @property
    def body(self) -> bytes:
        """What was read of it so far: all of that can be sent at once."""
        return b"".join((self._first, *self._kept)) if self._kept else self._first

    def read(self, deadline: Deadline) -> bytes:
        """Read the next piece from the client and keep it; b"" at the end."""
        if self.is_ended:
            return b""
        self.has_begun = self._is_reading = True  # stays so where the read is cut short
        piece = self._read(deadline)
        self._is_reading = False
        if not piece:
            self.is_ended = True
        elif self._left >= 0:
            self._left -= len(piece)
            if self._left >= 0:
                self._kept.append(piece)
            else:
                self._kept.clear()
        return piece

    def release(self) -> None:
        """Keep nothing any more: no other attempt will ask for it."""
        self._left = -1
        self._kept.clear()


def replay_of(exchange: Exchange, read_body: ReadBody, limit: int) -> Replay | None:
    """The body of an exchange, of which ``read_body`` gives the rest, to be kept while it is read.

    None if it is known to be longer than ``limit`` bytes, or if that is 0: then it can be spliced.
    """
    if not limit or exchange.head.length > limit:
        return None
    return Replay(exchange, read_body, limit)
