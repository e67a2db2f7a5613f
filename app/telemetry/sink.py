"""Where log lines leave the process: a bounded buffer in front of a descriptor, which never blocks.

Runs in every process: master, control process, workers. It takes finished lines (``app.telemetry.json_line``)
and knows nothing of what they say; it must never wait for whoever reads them, never raise and
never start a thread. A reader that stalls costs lines, not requests: past 1 MiB the newest are dropped, and
one line tells how many once it reads again.

Imports bind ``allocate_lock`` and ``sleep`` themselves, so that gevent's patching in a worker does not
turn them into calls that switch greenlets in the middle of a flush.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from _thread import LockType, allocate_lock
from time import monotonic, sleep

from app.telemetry.json_line import LINE_MAX_BYTES, encode, timestamp

# At 450 bytes an access line: 36 lines a flush, and 2,300 lines until the first one is lost.
FLUSH_BYTES = 16 * 1024
LIMIT_BYTES = 1024 * 1024

STALLED = "stdout_stalled"
CLOSED = "stdout_closed"

# One write of 64 KiB to a file costs what one of 4 KiB does; the kernel holds the inode's (O_APPEND)
# or the file position's lock for the whole of it, so lines of several processes stay whole.
_FILE_PIECE_BYTES = 64 * 1024
# The reader is behind, or the disk is full: both pass, so the lines are kept.
_PASSING = frozenset(
    (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EINTR)
)
_CLOSE_TIMEOUT = 1.0
_CLOSE_PAUSE = 0.01


class Sink:
    """Lines on their way to one descriptor. One for each process and descriptor."""

    __slots__ = (
        "_dropped",
        "_fd",
        "_flush_at",
        "_inherited",
        "_lines",
        "_lock",
        "_pending",
        "_pid",
        "_piece",
        "_reason",
        "_reported",
        "_size",
        "_start",
    )

    _pid: int
    _lines: list[bytes]
    # The joined chunk being written, and how far it got. Lines are joined once: joining again at each
    # retry would copy up to 1 MiB for every line logged during a stall.
    _pending: bytes
    _start: int
    # How many dropped lines the last line of the pending chunk tells of.
    _reported: int
    _size: int
    _flush_at: int
    _dropped: int
    _reason: str
    _lock: LockType

    def __init__(self, fd: int) -> None:
        self._inherited = fd
        self._fd, self._piece = _open(fd)
        self._forget()

    def __repr__(self) -> str:
        return f"<Sink fd={self._fd} buffered={self._size} dropped={self._dropped}>"

    def write(self, line: bytes) -> None:
        """Take one line (newline included); flushes by itself at each further 16 KiB."""
        size = self._size + len(line)
        if size > LIMIT_BYTES:
            self._dropped += 1
            self._reason = STALLED
            return
        self._lines.append(line)
        self._size = size
        if size > self._flush_at:
            self.flush()

    def flush(self) -> bool:
        """Write what the descriptor takes now; True when nothing is left."""
        # Not a lock to wait for: a signal handler may log in the middle of a flush, and the loop
        # below picks up what it wrote.
        if not self._lock.acquire(False):
            return False
        try:
            while self._write_pending():
                if not self._fill():
                    self._size = 0
                    break
            return not self._size
        finally:
            self._flush_at = self._size + FLUSH_BYTES
            self._lock.release()

    def drain(self, timeout: float = _CLOSE_TIMEOUT) -> bool:
        """Flush, and try again for at most ``timeout`` seconds: for the end of a process only."""
        deadline = monotonic() + timeout
        while not self.flush():
            if monotonic() >= deadline:
                return False
            sleep(_CLOSE_PAUSE)
        return True

    def close(self) -> None:
        """Drain within a second, then let go of the descriptor; later lines are dropped quietly."""
        self.drain()
        if self._fd not in (self._inherited, -1):
            os.close(self._fd)
        self._fd = self._inherited = -1

    def after_fork(self) -> None:
        """In a child: what was buffered is the parent's to write. Does nothing the second time."""
        if self._pid != os.getpid():
            self._forget()

    def refresh(self) -> None:
        """Follow the descriptor where somebody has put another file under its number (dup2)."""
        if self._fd in (self._inherited, -1):
            return
        try:
            is_same = os.path.sameopenfile(self._fd, self._inherited)
        except OSError:
            return
        if not is_same:
            self.flush()
            os.close(self._fd)
            self._fd, self._piece = _open(self._inherited)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lines = []
        self._pending = b""
        self._start = self._reported = 0
        self._size = 0
        self._flush_at = FLUSH_BYTES
        self._dropped = 0
        self._reason = STALLED
        # A new one: the parent may have held the old one at the fork.
        self._lock = allocate_lock()

    def _fill(self) -> bool:
        """Make the next chunk; False when there is none.

        Dropped lines are told behind the older ones that were kept. A reader that stays too slow is
        told once in each chunk, which by then holds up to 1 MiB.
        """
        lines, self._lines = self._lines, []
        if self._dropped:
            lines.append(self._report())
            self._size += len(lines[-1])
            self._reported, self._dropped = self._dropped, 0
        self._pending = b"".join(lines)
        return bool(lines)

    def _write_pending(self) -> bool:
        """Write the pending chunk in pieces of whole lines; False when that has to stop here."""
        pending, piece = self._pending, self._piece
        total = len(pending)
        while self._start < total:
            start, end = self._start, total
            if total - start > piece:
                # A line longer than the piece goes in one write of its own.
                end = pending.rfind(b"\n", start, start + piece) + 1
                end = end or pending.find(b"\n", start) + 1 or total
            try:
                written = os.write(self._fd, pending[start:end])
            except OSError as error:
                if error.errno not in _PASSING:
                    self._lose()
                return False
            # Less than the piece: a terminal, whose rest comes next, or a full disk.
            self._start += written
            self._size -= written
            if start + written < end and piece == _FILE_PIECE_BYTES:
                self._mend()
                return False
        self._done()
        return True

    def _mend(self) -> None:
        """A file took a part of a line: take that back, or leave the line torn and never send its rest.

        The rest would follow what other processes write meanwhile, and make nonsense of their lines too.
        """
        pending = self._pending
        begin = pending.rfind(b"\n", 0, self._start) + 1
        torn = pending[begin : self._start]
        if not torn:
            return
        is_last = _is_last(self._fd, torn)
        if is_last and _shorten(self._fd, len(torn)):
            self._start = begin
            self._size += len(torn)
            return
        end = pending.find(b"\n", self._start)
        self._dropped += self._reported if end + 1 == len(pending) and self._reported else 1
        self._reason = STALLED
        # Nobody has ended the line for us, or that cannot be known: our next begins behind its own newline.
        end += 1 if is_last is False else 0
        self._size -= end - self._start
        self._start = end

    def _lose(self) -> None:
        """Nobody will ever read this (EPIPE, EBADF, EIO): drop all there is, quietly."""
        self._dropped += self._pending.count(b"\n", self._start) + len(self._lines)
        if self._reported:
            self._dropped += self._reported - 1
        self._reason = CLOSED
        self._lines.clear()
        self._size = 0
        self._done()

    def _done(self) -> None:
        self._pending = b""
        self._start = self._reported = 0

    def _report(self) -> bytes:
        return encode(
            {
                "timestamp": timestamp(int(time.time() * 1000)),
                "level": "warning",
                "logger": "log",
                "message": "lines dropped",
                "reason": self._reason,
                "dropped": self._dropped,
                "pid": self._pid,
            }
        )


def _open(fd: int) -> tuple[int, int]:
    """A descriptor for the same file whose writes do not block, and the largest piece for it."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        # Closed before we started. Never look again: the number may be a socket's by now.
        return -1, LINE_MAX_BYTES
    if stat.S_ISREG(mode):
        # A regular file does not block, and a new description would have an offset of its own.
        return fd, _FILE_PIECE_BYTES
    try:
        # A description of our own: O_NONBLOCK belongs to the description, and the inherited one is
        # shared with whoever started us (a shell's terminal, the other end of a pipeline's 2>&1).
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags), LINE_MAX_BYTES
    except OSError:
        # EACCES: a container's stdout is root's pipe and we run as somebody else. ENXIO: a socket
        # (systemd's journal), or a FIFO without a reader. ENOENT: no /proc. Then the shared
        # description has to change; never changed back, because an orphaned worker or the new
        # master after USR2 still writes through it and would block.
        _set_nonblocking(fd)
        return fd, LINE_MAX_BYTES


def _is_last(fd: int, torn: bytes) -> bool | None:
    """Whether a file ends with these bytes: nobody has written behind them. None if it cannot be read."""
    try:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            size = os.fstat(reader).st_size
            return size >= len(torn) and os.pread(reader, len(torn), size - len(torn)) == torn
        finally:
            os.close(reader)
    except OSError:
        return None


def _shorten(fd: int, count: int) -> bool:
    """Take the last bytes of a file away again. On a full disk nobody writes behind them meanwhile."""
    try:
        size = os.fstat(fd).st_size - count
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)
    except OSError:
        return False
    return True


def _set_nonblocking(fd: int) -> None:
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    except OSError:
        pass
