"""Moves a body from one connection to another inside the kernel.

Owns the pipes that splice(2) needs and the loop around it. For large bodies of known length between two
plaintext connections only: 1 GB costs 0.3 s of CPU, read and sent again 0.5–0.7 (docs/performance.md).
Runs in workers. Knows bytes to move, nothing of HTTP.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from app.deadlines import NEVER, Deadline, Expired
from app.stream import Stream

# The kernel's bound for unprivileged users (fs.pipe-max-size); with 64 KiB it is no faster than copying.
PIPE_SIZE = 1 << 20
# Below this the pipe's own calls cost more than the copy they save.
SPLICE_MIN = 256 * 1024
_PIPES_KEPT = 16

is_available = hasattr(os, "splice")
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
) -> None:
    """Move ``count`` bytes from ``source`` to ``sink``, waiting for either.

    ``read_until`` and ``write_until`` give the deadline of a wait that begins; ``moved`` is told of every
    piece that reached the sink. Raises SourceFailed or SinkFailed.
    """
    pipe = _pipes.pop() if _pipes else _open_pipe()
    reader, writer = pipe
    is_clean = False
    flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
    source_fd, sink_fd = source.raw.fileno(), sink.raw.fileno()
    try:
        while count:
            try:
                filled = os.splice(source_fd, writer, min(count, PIPE_SIZE), flags=flags)
            except BlockingIOError:
                try:
                    deadline.at = read_until()
                    source.wait_readable()
                except Expired:
                    raise SourceExpired("nothing came in time") from None
                finally:
                    deadline.at = NEVER
                continue
            except OSError as error:
                raise SourceFailed(str(error)) from None
            if not filled:
                raise SourceFailed(f"ended {count} bytes early")
            count -= filled
            while filled:
                try:
                    sent = os.splice(reader, sink_fd, filled, flags=flags)
                except BlockingIOError:
                    try:
                        deadline.at = write_until()
                        sink.wait_writable()
                    except Expired:
                        raise SinkExpired("nothing was taken in time") from None
                    finally:
                        deadline.at = NEVER
                    continue
                except OSError as error:
                    raise SinkFailed(str(error)) from None
                filled -= sent
                moved(sent)
        is_clean = True
    finally:
        if is_clean and len(_pipes) < _PIPES_KEPT:
            _pipes.append(pipe)
        else:
            os.close(reader)
            os.close(writer)


def _open_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # the user's pipes are over their soft limit: a small one works too
    return pipe
