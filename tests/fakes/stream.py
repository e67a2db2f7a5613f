"""A connection without a socket: what the peer does is a script, what it was sent is kept.

The face of app.worker.net.stream.Stream. No time passes: where the script says that nothing comes, the
deadline of whoever reads is over at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from gevent.event import Event

from app.worker.net.deadlines import Expired

END = b""
"""The peer has closed its side."""

RESET = ConnectionResetError(104, "reset")
"""The connection has broken."""

SILENCE = Expired
"""Nothing comes until the deadline is over."""

Turn = bytes | OSError | type[Expired] | Callable[[], Any]
"""What one read meets: bytes (END at the end), an error, or something that happens before the next turn."""

ENDS = (("192.0.2.1", 40000), ("192.0.2.100", 80))


class ScriptedStream:
    """A stream whose reads give one turn of the script each, and SILENCE when that is over.

    ``live``: reads then wait for what ``say`` gives, in a greenlet of their own. ``sent`` are the pieces the
    peer got, in order; ``takes``: clear it, and a write waits until it is set again. ``takes_posts``: while
    it is not, what is posted stays ``posted`` until something waits for it. ``did`` names what else was
    done: "shutdown_write", "shutdown", "reset", "close". ``has_hung_up``: it has said its end.
    """

    def __init__(
        self, script: Iterable[Turn] = (), *, live: bool = False, has_events: bool = True
    ) -> None:
        self.has_events = has_events
        self.on_event: Callable[[], None] | None = None
        self.raw: Any = SimpleNamespace(getpeername=lambda: ENDS[0], getsockname=lambda: ENDS[1])
        self.posted = b""
        self.takes_posts = True
        self.fails: Exception | None = None  # raised by the next write
        self.takes = Event()
        self.takes.set()
        self.sent: list[bytes] = []
        self.did: list[str] = []
        self.is_watched = self.is_end_watched = False
        self.has_hung_up = False
        self._script: deque[Turn] = deque(script)
        self._live = live
        self._said = Event()

    def __repr__(self) -> str:
        return f"<ScriptedStream {len(self._script)} turns left, {len(self.output)} bytes sent, {self.did}>"

    # -- the peer ----------------------------------------------------------------------------------

    def say(self, turn: Turn) -> None:
        """One turn more; who waits for it reads it when the hub comes by."""
        self._script.append(turn)
        self.has_hung_up |= turn == END or isinstance(turn, OSError)
        self._said.set()

    def event(self) -> None:
        """Have the loop notice the peer while nobody reads."""
        self.is_watched = False
        if self.on_event is not None:
            self.on_event()

    @property
    def output(self) -> bytes:
        """All that the peer got."""
        return b"".join(self.sent)

    @property
    def has_more(self) -> bool:
        """Whether a part of the script has not been read."""
        return bool(self._script)

    @property
    def is_closed(self) -> bool:
        return "close" in self.did

    # -- the face of Stream ------------------------------------------------------------------------

    def read(self, size: int = 65536) -> bytes:
        while True:
            while not self._script:
                if not self._live:
                    raise Expired
                self._said.clear()
                self._said.wait()
            turn = self._script.popleft()
            if isinstance(turn, bytes):
                if len(turn) > size:
                    self._script.appendleft(turn[size:])
                return turn[:size]
            if turn is SILENCE or isinstance(turn, OSError):
                raise turn
            turn()

    def peek(self) -> bytes | None:
        if not self._script:
            return None
        turn = self._script[0]
        if isinstance(turn, bytes):
            return turn[:1]
        return END if isinstance(turn, OSError) else None

    def has_ended(self) -> bool:
        return self.has_hung_up

    def watch_end(self) -> None:
        self.is_end_watched = True

    def is_silent(self) -> bool:
        return self.peek() is None

    def write(self, data: bytes | memoryview) -> None:
        if self.is_closed or "shutdown" in self.did:
            raise BrokenPipeError
        self.takes.wait()
        if self.fails is not None:
            raise self.fails
        message, self.posted = self.posted + bytes(data), b""
        if message:
            self.sent.append(message)

    def post(self, data: bytes) -> None:
        self.posted += data
        self.send_posted()

    def flush(self) -> None:
        if self.posted:
            self.write(b"")

    def send_posted(self) -> None:
        if self.takes_posts and self.posted:
            self.sent.append(self.posted)
            self.posted = b""

    def watch(self) -> None:
        self.is_watched = True

    def unacknowledged(self, total: int) -> bool:
        return False

    def shutdown_write(self) -> None:
        self.did.append("shutdown_write")
        if self._live:
            self.say(END)  # a peer that ends when it is told to

    def shutdown(self) -> None:
        self.did.append("shutdown")

    def reset(self) -> None:
        self.posted = b""
        if not self.is_closed:
            self.did.append("reset")
        self.close()

    def close(self) -> None:
        if self.is_closed:
            return
        self.send_posted()
        self.on_event = None
        self.did.append("close")
