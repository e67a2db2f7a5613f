"""The one shared segment: what master, control process and workers know about each other.

Owns making it, finding it again, and reading it; the request path reads and writes ``cells`` by index. Runs
in all three. Integers and one opaque blob only: it must never know HTTP, JSON, gevent or requests. Which
number lies where is app.shared.layout's; giving slots to workers is app.shared.slots', configurations and the
rows of their servers are app.shared.publication's, both with their one writer, the master.

The segment is a ``multiprocessing`` arena on a file of memory (memfd), inherited by fork and (USR2) by exec,
so nothing is left behind whoever dies, and nobody else finds it. Linux: record locks are asked for as
``struct flock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import random
import stat
import struct
import time
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.heap import Arena
from typing import Protocol, TypeVar

from app.shared.layout import (
    ADDRESSES_STRIDE,
    AT_BLOB_BYTES,
    AT_MAGIC,
    AT_ROWS,
    AT_SLOTS,
    AT_VERSION,
    CELL,
    CONTROL_LOCK,
    EPOCH,
    HEADER_CELLS,
    HEALTHY,
    IDENTITY,
    IN_FLIGHT,
    INSTANCE,
    LOOKED_MS,
    MAGIC,
    PROPOSED,
    PUBLISHED,
    ROW_STRIDE,
    SERVER_STRIDE,
    SLOT_HEADER,
    STATE,
    SUSPECTS,
    VERSION,
    WRITER_LOCK,
    counters_at,
    size,
)

_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid


class WithUrl(Protocol):
    """A server, as far as the table knows one: ``url`` is normalised."""

    @property
    def url(self) -> str: ...


S = TypeVar("S", bound=WithUrl)


class TableError(Exception):
    """Not a segment of this layout, or one that does not hold what is asked of it."""


class Table:
    """A view of the segment. ``cells`` is public: the hot path reads and writes it by index."""

    __slots__ = ("_arena", "_slot_cells", "_slots_at", "blob_bytes", "cells", "fd", "rows", "slots")

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.fd: int = arena.fd
        self.cells = memoryview(arena.buffer).cast("Q")
        self.rows = self.cells[AT_ROWS]
        self.slots = self.cells[AT_SLOTS]
        self.blob_bytes = self.cells[AT_BLOB_BYTES]
        self._slots_at = HEADER_CELLS + self.rows * SERVER_STRIDE
        self._slot_cells = counters_at(self.rows)

    def __repr__(self) -> str:
        used = sum(1 for _ in self._used_rows())
        return (
            f"<Table fd={self.fd} published={self.cells[PUBLISHED]} proposed={self.cells[PROPOSED]} "
            f"rows={used}/{self.rows} slots={self.slots}>"
        )

    @classmethod
    def create(cls, rows: int, slots: int, blob_bytes: int) -> Table:
        """Make the segment. The cursor starts at random, so that no server is favoured by a start."""
        blob_bytes = -(-blob_bytes // CELL) * CELL
        all_bytes = size(rows, slots, blob_bytes)
        # Of memory that has no name anywhere: there are secrets in it (keys of tickets, of sticky cookies).
        # The arena's own file may lie on a disk, where /dev/shm is full or missing.
        unnamed = os.memfd_create("load-balancer", os.MFD_CLOEXEC)
        try:
            # Opened once more: the kernel locks the position, which is our cursor, of opened files only; on
            # what memfd_create gives, two processes draw the same ticket.
            fd = os.open(f"/proc/self/fd/{unnamed}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(unnamed)
        # Reserved now: no memory must fail here and not as SIGBUS later.
        os.posix_fallocate(fd, 0, all_bytes)
        arena = Arena(all_bytes, fd)
        weakref.finalize(arena, os.close, fd)
        cells = memoryview(arena.buffer).cast("Q")
        cells[AT_MAGIC], cells[AT_VERSION] = MAGIC, VERSION
        cells[AT_ROWS], cells[AT_SLOTS], cells[AT_BLOB_BYTES] = rows, slots, blob_bytes
        cells[INSTANCE] = random.getrandbits(64)
        cells[EPOCH] = time.monotonic_ns()
        os.lseek(arena.fd, random.randrange(1 << 32), os.SEEK_SET)
        return cls(arena)

    @classmethod
    def attach(cls, fd: int) -> Table:
        """The segment behind a file descriptor inherited through exec; TableError if it is not one."""
        try:
            status = os.fstat(fd)
            head = os.pread(fd, 5 * CELL, 0)
        except OSError as error:
            raise TableError(f"file descriptor {fd}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode) or len(head) < 5 * CELL:
            raise TableError(f"file descriptor {fd} is not a table")
        magic, version, rows, slots, blob_bytes = struct.unpack("5Q", head)
        if (magic, version) != (MAGIC, VERSION) or status.st_size != size(rows, slots, blob_bytes):
            raise TableError(f"file descriptor {fd} holds another layout")
        os.set_inheritable(fd, False)
        return cls(Arena(status.st_size, fd))

    def close(self) -> None:
        """Unmap. The file goes with the last process that has it; fork and exec share it."""
        self.cells.release()
        self._arena.buffer.close()

    # -- the hot path ------------------------------------------------------------------------------

    def ticket(self) -> int:
        """The next ticket of the round-robin cursor, different for every caller in every process.

        The cursor is the position of the segment's own open file, which fork and exec share: the kernel
        adds to it under its lock, so there is nothing to leave locked (0.20 µs; a record lock around a
        cell costs 0.76 µs, a multiprocessing.Lock stays locked when its holder is killed).
        """
        return os.lseek(self.fd, 1, os.SEEK_CUR)

    def slot(self, number: int) -> memoryview:
        """The cells of one worker; counters of a server at layout.counters_at(row). Private if negative."""
        if number < 0:
            return memoryview(bytearray(self._slot_cells * CELL)).cast("Q")
        if number >= self.slots:
            raise IndexError(f"slot {number} of {self.slots}")
        start = self._slots_at + number * self._slot_cells
        return self.cells[start : start + self._slot_cells]

    def in_flight(self, row: int) -> int:
        """Requests now at a server, in all workers."""
        return sum(self.column(row, IN_FLIGHT))

    def column(self, row: int, counter: int) -> memoryview:
        """A counter of a server, a cell for each slot."""
        # counters_at() by hand: pick asks this of several backends, and a call costs 0.1 µs.
        start = self._slots_at + SLOT_HEADER + row * ROW_STRIDE + counter
        end = self._slots_at + self.slots * self._slot_cells
        return self.cells[start : end : self._slot_cells]

    # -- server rows -------------------------------------------------------------------------------

    def server(self, row: int) -> int:
        """Where a server's cells begin, as an index into ``cells``."""
        return HEADER_CELLS + row * SERVER_STRIDE

    def row_index(self) -> dict[int, int]:
        """The row of every server that has one, by its identity."""
        return {identity: row for row, identity in self._used_rows()}

    def rows_of(self, servers: Iterable[S]) -> list[tuple[S, int]]:
        """Each of these servers with its row, in their order, without those that have none."""
        index = self.row_index()
        found = ((server, index.get(identity_of(server.url), -1)) for server in servers)
        return [(server, row) for server, row in found if row >= 0]

    def is_healthy(self, row: int) -> bool:
        """Whether the last verdict of its health checks was good; a server never checked is not healthy."""
        return self.cells[self.server(row) + STATE] == HEALTHY

    def bump(self) -> None:
        """Tell the workers that something changed. Write first, bump afterwards."""
        self.cells[EPOCH] = time.monotonic_ns()

    def _used_rows(self) -> Iterator[tuple[int, int]]:
        start = HEADER_CELLS + IDENTITY
        identities = self.cells[start : self._slots_at : SERVER_STRIDE].tolist()
        return ((row, identity) for row, identity in enumerate(identities) if identity)

    # -- what workers say, of a server or of themselves --------------------------------------------

    def count(self, row: int, counter: int) -> int:
        """The sum of a server's counter over all workers, those that are gone included (slot 0)."""
        return sum(self.column(row, counter))

    def counts(self, row: int, counter: int) -> list[int]:
        """A server's counter in each slot, slot 0 (those that are gone) first."""
        return self.column(row, counter).tolist()

    def slot_column(self, number: int, counter: int) -> memoryview:
        """A counter of one worker, a cell for each row."""
        return self.slot(number)[SLOT_HEADER + counter :: ROW_STRIDE]

    def of_each_slot(self, cell: int) -> list[int]:
        """A cell in front of the counters, of each slot."""
        start = self._slots_at + cell
        return self.cells[start : start + self.slots * self._slot_cells : self._slot_cells].tolist()

    def total(self, cell: int) -> int:
        """The sum of a cell in front of the counters, over all workers that are there."""
        return sum(self.of_each_slot(cell))

    def suspicious_slots(self, since_ms: int) -> list[int]:
        """Slots of workers that some server keeps waiting for long.

        ``since_ms``: a worker that has last looked before this is not believed.
        """
        suspects = self.of_each_slot(SUSPECTS)
        if not any(suspects):
            return []
        looked = self.of_each_slot(LOOKED_MS)
        return [n for n in range(self.slots) if suspects[n] and looked[n] >= since_ms]

    # -- who is the control process ----------------------------------------------------------------

    def take_control(self) -> bool:
        """Become the control process; False if there is one. The kernel takes it back at our death.

        POSIX drops the lock when the process closes any descriptor of the file: open it only once.
        """
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, CONTROL_LOCK)
        except OSError:
            return False
        return True

    def controller(self) -> int:
        """Pid of the control process, 0 if there is none."""
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, CONTROL_LOCK, 1, 0)
        answer = fcntl.fcntl(self.fd, fcntl.F_GETLK, question)
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    # -- one master at a time ----------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude the master of another generation (USR2); held for microseconds, freed by a death."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, WRITER_LOCK)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, WRITER_LOCK)

    # -- where app.shared.addresses and publication keep their bytes -------------------------------

    @property
    def memory(self) -> mmap.mmap:
        """All of it as bytes."""
        memory: mmap.mmap = self._arena.buffer
        return memory

    @property
    def addresses_at(self) -> int:
        """The first cell of the servers' addresses."""
        return self._slots_at + self.slots * self._slot_cells

    @property
    def blobs_at(self) -> int:
        """The first byte behind the cells."""
        return (self.addresses_at + self.rows * ADDRESSES_STRIDE) * CELL


def identity_of(url: str) -> int:
    """A server's identity: 64 bits of a hash of its normalised URL, never 0."""
    digest = hashlib.blake2b(url.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
