"""Moves a body from one connection to another inside the kernel.

Owns the pipes that splice(2) needs and the loop around it. For large bodies of known length between two
plaintext connections only: 1 GB costs 0.3 s of CPU, read and sent again 0.5–0.7 (docs/performance.md).
Runs in workers. Knows bytes to move, nothing of HTTP.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final

from app.worker.net.deadlines import NEVER, TICK, Deadline, Expired
from app.worker.net.progress import taken
from app.worker.net.stream import Stream
from app.worker.net.turns import turns

# The kernel's bound for unprivileged users (fs.pipe-max-size); with 64 KiB it is no faster than copying.
PIPE_SIZE: Final = 1 << 20
# Below this the pipe's own calls cost more than the copy they save.
SPLICE_MIN: Final = 256 * 1024
_PIPES_KEPT: Final = 16
# A source this fast (40 MB/s) is read when this much has gathered, not at its first byte: 7 times fewer
# turns, upload 0.45 → 0.34 CPU s/GB, download 0.36 → 0.31. The kernel doubles its receive buffer for it.
GATHERED_BYTES: Final = 512 * 1024
_FAST_BYTES: Final = 4 << 20
_FAST_SECONDS: Final = 0.1
# As much is moved, in some 0.6 ms, before others are looked at: a fast source and a fast sink never wait.
_BYTES_A_TURN: Final = 2 << 20

is_available = hasattr(os, "splice")
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if is_available else 0
_pipes: list[tuple[int, int]] = []


Until = Callable[[], float]
Moved = Callable[[int], None]
# What an exchange or a response offers: (sink, write_until, moved), and with a deadline of its own.
SpliceTo = Callable[[Stream, Until, Moved], None]
SpliceBody = Callable[[Stream, Deadline, Until, Moved], None]


class SourceFailed(Exception):
    """The connection that is read ended or broke; ``args[0]`` says how."""


class SourceExpired(SourceFailed):
    """The connection that is read said nothing for too long."""


class SinkFailed(Exception):
    """The connection that is written broke; ``args[0]`` says how."""


class SinkExpired(SinkFailed):
    """The connection that is written took nothing for too long."""


def splice(
    source: Stream,
    sink: Stream,
    count: int,
    deadline: Deadline,
    read_until: Until,
    write_until: Until,
    moved: Moved,
    waited: Callable[[], None] | None = None,
) -> None:
    """Move ``count`` bytes from ``source`` to ``sink``, waiting for either.

    ``read_until`` and ``write_until`` give the deadline of a wait that begins, ``waited`` is told when one
    for the source has ended; ``moved`` is told of every piece that reached the sink. Raises SourceFailed or
    SinkFailed.
    """
    pipe = _pipes.pop() if _pipes else _open_pipe()
    reader, writer = pipe
    is_clean = False
    source_fd = source.raw.fileno()
    gathering = _Gathering(source.raw)
    in_turn = 0
    try:
        while count:
            if in_turn >= _BYTES_A_TURN:
                in_turn = 0
                turns.next()
            try:
                filled = os.splice(source_fd, writer, min(count, PIPE_SIZE), flags=_FLAGS)
            except BlockingIOError:
                try:
                    in_turn = 0
                    deadline.at = gathering.before_wait(count, read_until)
                    source.wait_readable()
                except Expired:
                    if not gathering.give_up():
                        raise SourceExpired("nothing came in time") from None
                finally:
                    deadline.at = NEVER
                if waited is not None:
                    waited()
                continue
            except OSError as error:
                raise SourceFailed(str(error)) from None
            if not filled:
                raise SourceFailed(f"ended {count} bytes early")
            count -= filled
            in_turn += filled
            gathering.count(filled)
            _empty(reader, filled, sink, deadline, write_until, moved)
        is_clean = True
    finally:
        gathering.end()
        if is_clean and len(_pipes) < _PIPES_KEPT:
            _pipes.append(pipe)
        else:
            os.close(reader)
            os.close(writer)


def _empty(
    reader: int, filled: int, sink: Stream, deadline: Deadline, until: Until, moved: Moved
) -> None:
    """Move the ``filled`` bytes that are in the pipe to ``sink``, waiting for it. Raises SinkFailed."""
    sink_fd = sink.raw.fileno()
    while filled:
        try:
            sent = os.splice(reader, sink_fd, filled, flags=_FLAGS)
        except BlockingIOError:
            before = taken(sink.raw)
            try:
                deadline.at = until()
                sink.wait_writable()
            except Expired:
                # Slow is not silent, but no time is left where all waits together have had theirs.
                if deadline.limit <= monotonic() or taken(sink.raw) == before:
                    raise SinkExpired("nothing was taken in time") from None
            finally:
                deadline.at = NEVER
            continue
        except OSError as error:
            raise SinkFailed(str(error)) from None
        filled -= sent
        moved(sent)


class _Gathering:
    """How much must have come before a wait for the source ends: its socket's SO_RCVLOWAT.

    Only while the source is fast; one that pauses with less is read all the same, a tick later.
    """

    __slots__ = ("_is_fast", "_low", "_raw", "_seen", "_since")

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._low = 1
        self._is_fast = False
        self._seen = 0
        self._since = monotonic()

    def count(self, size: int) -> None:
        """``size`` bytes more have come."""
        self._seen += size
        if self._seen >= _FAST_BYTES:
            now = monotonic()
            self._is_fast = now - self._since <= _FAST_SECONDS
            self._since, self._seen = now, 0

    def before_wait(self, left: int, until: Until) -> float:
        """Set the mark for a wait that begins; when it ends at the latest."""
        self._set(GATHERED_BYTES if self._is_fast and left >= GATHERED_BYTES else 1)
        return until() if self._low == 1 else min(until(), monotonic() + TICK)

    def give_up(self) -> bool:
        """A wait has expired: whether it was for more than a byte, so that one for a byte follows."""
        self._is_fast = False
        return self._low > 1

    def end(self) -> None:
        """Leave the socket as it was."""
        self._set(1)

    def _set(self, low: int) -> None:
        if low != self._low:
            self._low = low
            try:
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
            except OSError:
                pass  # it was closed meanwhile


def _open_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # the user's pipes are over their soft limit: a small one works too
    return pipe
