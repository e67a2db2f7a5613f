"""The one shared segment: what master, control process and workers know about each other.

Runs in all three. Integers and one opaque blob only: it must never know HTTP, JSON, gevent or requests.
The segment is a ``multiprocessing`` arena on an unlinked file, inherited by fork and (USR2) by exec, so
nothing is left behind in /dev/shm whoever dies. Linux: record locks are asked for as ``struct flock``.

Layout, in 64-bit cells, then bytes:

    header   HEADER_CELLS            magic, version, sizes, epoch, sequences, owner, heartbeat, seals of blobs
    servers  rows × SERVER_STRIDE    identity, last sequence that names it, health, admin state, ejection
    slots    slots × slot cells      SLOT_HEADER cells, then rows × ROW_STRIDE counters; slot 0 is the ledger
    blobs    2 × blob_bytes          the configuration with an odd and with an even sequence

One writer for each cell: the master (identity, sequences, owner, pid of a slot), the control process
(health, ejection, CHECKED, HEARTBEAT), one worker (its slot's counters). EPOCH has several, so it is never
incremented: each change stores a clock reading, and a lost update cannot make two changes look like one.
Masters of two generations (USR2) exclude each other with a record lock; the kernel frees it with its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from multiprocessing.heap import Arena
from typing import Final

MAGIC = 0x4C42_5441_424C_4531  # "LBTABLE1"
# Of the layout below, and of the blob as far as older readers cannot take it; a new master with another one
# makes its own segment. 3: whoever has version 2 reads the blob strictly, and an unknown key (such as the
# envelope of app.config.published) would freeze it, so none of them may share a segment with us.
VERSION = 3

CELL = 8
HEADER_CELLS = 64
SERVER_STRIDE = 16  # two cache lines: neighbours' checks do not share one
SLOT_HEADER = 16
ROW_STRIDE = 12  # for each server and worker; rows of one worker are written by that worker alone

# Header cells. 0..5 are written once, by create().
_MAGIC, _VERSION, _ROWS, _SLOTS, _BLOB_BYTES = range(5)
INSTANCE = 5  # random: tells this balancer from any other, in all of its processes and through HUP and USR2
EPOCH: Final = 8  # alone on its cache line with what changes as rarely
PUBLISHED = 9  # sequence of the configuration that workers use; 0 before the first
PROPOSED = 10  # sequence that the control process is to check; ≥ PUBLISHED
OWNER = 11  # pid of the master that proposed last; the control process is its child
CHECKED = 16  # sequence whose servers have all had their first check
HEARTBEAT = 17  # monotonic ms at which the control process was last seen running
_SEALS = 24  # for each of the two blobs: sequence, length, crc32, spare

# Server cells, relative to server(row).
IDENTITY, SEQUENCE, ADMIN = 0, 1, 2
RAMP, SINCE_MS = 3, 4  # slow start: tenths of its weight, else 0; begun when (monotonic ms)
STATE, STREAK, CHANGED_MS, CHECKED_MS, STATUS = 8, 9, 10, 11, 12
EJECTION, EJECTION_MS, EJECTIONS = 13, 14, 15  # state, since when (monotonic ms), how often lately

UNCHECKED, HEALTHY, UNHEALTHY = 0, 1, 2  # STATE
READY, DRAIN, MAINT = 0, 1, 2  # ADMIN
FULL_RAMP = 10
TRUSTED, EJECTED, TRIAL, STALLED = 0, 1, 2, 3  # EJECTION

# Slot cells, then the counters of each row.
PID, GENERATION, STARTED_MS = 0, 1, 2
TROUBLES = 3  # changes whenever the worker has counted a failure, or a good answer after one
LOOKED_MS = 4  # monotonic ms of the worker's last look at what it waits for; as of then:
SUSPECTS, ANSWERED_MS = 5, 6  # servers that keep it waiting for long; when any of all last answered
WAITING_NS = 7  # monotonic ns since its oldest request waits for a place, 0 if none does
ASKED = 8  # requests of the last ten seconds, as of the last tick
RETRIES = 9  # retries of that time that the budget was charged for
CONNECTIONS = 10  # clients' connections it has, and one; 0 while it accepts none
IN_FLIGHT, REQUESTS, FAILURES = 0, 1, 2
STREAKS = CONNECT_STREAK, RESET_STREAK, ERROR_STREAK = 3, 4, 5  # failures in a row, by kind
RECOVERIES = 6  # good answers while there was something bad to forget, or on trial
OUTCOMES = 7  # the last ones, good and bad, since there was a bad one (app.shared.outcome_bits)
# What the worker waits for, written at each look and not by requests; times are monotonic ms.
_WAITS = HEARD_MS, UNANSWERED, OLDEST_MS, USUAL_MS = 8, 9, 10, 11
LEDGER = 0  # the slot that keeps the counters of workers that are gone

# Bytes of the file that record locks are taken on.
_CONTROL_LOCK, _WRITER_LOCK = 0, 1
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid


class TableError(Exception):
    """Not a segment of this layout, or one that does not hold what is asked of it."""


class Table:
    """A view of the segment. ``cells`` is public: the hot path reads and writes it by index."""

    __slots__ = ("_arena", "_slot_cells", "_slots_at", "blob_bytes", "cells", "fd", "rows", "slots")

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.fd: int = arena.fd
        self.cells = memoryview(arena.buffer).cast("Q")
        self.rows = self.cells[_ROWS]
        self.slots = self.cells[_SLOTS]
        self.blob_bytes = self.cells[_BLOB_BYTES]
        self._slots_at = HEADER_CELLS + self.rows * SERVER_STRIDE
        self._slot_cells = SLOT_HEADER + self.rows * ROW_STRIDE

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
        size = _size(rows, slots, blob_bytes)
        arena = Arena(size)
        # Reserved now: a full /dev/shm (64 MiB in a container) must fail here and not as SIGBUS later.
        os.posix_fallocate(arena.fd, 0, size)
        cells = memoryview(arena.buffer).cast("Q")
        cells[_MAGIC], cells[_VERSION] = MAGIC, VERSION
        cells[_ROWS], cells[_SLOTS], cells[_BLOB_BYTES] = rows, slots, blob_bytes
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
        if (magic, version) != (MAGIC, VERSION) or status.st_size != _size(rows, slots, blob_bytes):
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
        """The cells of one worker; counters at SLOT_HEADER + row × ROW_STRIDE. Private if negative."""
        if number < 0:
            return memoryview(bytearray(self._slot_cells * CELL)).cast("Q")
        if number >= self.slots:
            raise IndexError(f"slot {number} of {self.slots}")
        start = self._slots_at + number * self._slot_cells
        return self.cells[start : start + self._slot_cells]

    def in_flight(self, row: int) -> int:
        """Requests now at a server: the sum over all slots."""
        return sum(self._column(row, IN_FLIGHT))

    def is_healthy(self, row: int) -> bool:
        """The last verdict of the health checks; a server never checked is not healthy."""
        return self.cells[self.server(row) + STATE] == HEALTHY

    # -- server rows -------------------------------------------------------------------------------

    def server(self, row: int) -> int:
        """Index of a server's first cell."""
        return HEADER_CELLS + row * SERVER_STRIDE

    def find_row(self, identity: int) -> int:
        """The row of a server, or -1. For many servers take row_index() once."""
        return self.row_index().get(identity, -1)

    def row_index(self) -> dict[int, int]:
        """Every identity that has a row."""
        return {identity: row for row, identity in self._used_rows()}

    def count(self, row: int, counter: int) -> int:
        """A counter of a server over all workers, those that are gone included."""
        return sum(self._column(row, counter))

    def counts(self, row: int, counter: int) -> list[int]:
        """A counter of a server in each slot."""
        return self._column(row, counter).tolist()

    def slot_column(self, number: int, counter: int) -> memoryview:
        """A counter of one worker for every row."""
        return self.slot(number)[SLOT_HEADER + counter :: ROW_STRIDE]

    def troubles(self) -> list[int]:
        """What each worker has to report of failures: when a number changes, there is news."""
        return self.of_each_slot(TROUBLES)

    def waiting_since(self) -> list[int]:
        """Since when the oldest request of each worker has waited for a place, 0 if none waits."""
        return self.of_each_slot(WAITING_NS)

    def of_each_slot(self, cell: int) -> list[int]:
        """One of the cells in front of each slot's counters."""
        start = self._slots_at + cell
        return self.cells[start : start + self.slots * self._slot_cells : self._slot_cells].tolist()

    def total(self, cell: int) -> int:
        """One of the cells in front of each slot's counters, over all workers that are there."""
        return sum(self.of_each_slot(cell))

    def suspicious_slots(self, since_ms: int) -> list[int]:
        """Workers that a server keeps waiting; one that has not looked since then is not believed."""
        suspects = self.of_each_slot(SUSPECTS)
        if not any(suspects):
            return []
        looked = self.of_each_slot(LOOKED_MS)
        return [n for n in range(self.slots) if suspects[n] and looked[n] >= since_ms]

    # -- configuration -----------------------------------------------------------------------------

    def published(self) -> tuple[int, bytes]:
        """Sequence and bytes of the configuration that workers use; (0, b"") before the first."""
        return self._consistent(PUBLISHED)

    def proposed(self) -> tuple[int, bytes]:
        """Sequence and bytes of the configuration that the control process is to check."""
        return self._consistent(PROPOSED)

    def fits(self, servers: int, blob_bytes: int) -> bool:
        """Whether a configuration of this size can be proposed beside the one in use."""
        return servers <= self.rows and blob_bytes <= self.blob_bytes

    def propose(self, blob: bytes, identities: Sequence[int]) -> int:
        """Give every server a row, store the blob beside the published one, and return its sequence.

        Workers see nothing of it before publish(). A server that the published configuration names keeps
        its row, health and counters; one that comes back later keeps its counters and is checked anew.
        TableError, with nothing proposed, if the rows or the blob do not fit.
        """
        if len(blob) > self.blob_bytes:
            raise TableError(
                f"the configuration has {len(blob)} bytes, there is room for {self.blob_bytes}"
            )
        with self._writing():
            published = self.cells[PUBLISHED]
            sequence = self.cells[PROPOSED] + 1
            # The two blobs alternate: never write where readers of the published one look.
            sequence += sequence % 2 == published % 2
            self._allocate(identities, published, sequence)
            self._write_blob(sequence, blob)
            self.cells[OWNER] = os.getpid()
            self.cells[PROPOSED] = sequence
            return sequence

    def publish(self, sequence: int) -> bool:
        """Make a proposal the configuration in use; False if a later proposal has replaced it."""
        with self._writing():
            if self.cells[PROPOSED] != sequence:
                return False
            self.cells[PUBLISHED] = sequence
        self.bump()
        return True

    def bump(self) -> None:
        """Tell the workers that something changed. Write first, bump afterwards."""
        self.cells[EPOCH] = time.monotonic_ns()

    # -- slots (master) ----------------------------------------------------------------------------

    def claim_slot(self, live: frozenset[int]) -> int:
        """Reserve a slot for a worker about to be forked, or -1. ``live``: slots of this master's workers.

        Until the worker writes its own pid the slot carries the master's, so that the master of another
        generation leaves it alone.
        """
        with self._writing():
            for number in range(LEDGER + 1, self.slots):
                if number in live:
                    continue
                owner = self.slot(number)[PID]
                if owner in (0, os.getpid()) or not is_alive(owner):
                    self._release(number)
                    self.slot(number)[PID] = os.getpid()
                    return number
        return -1

    def release_slot(self, number: int) -> None:
        """A worker is gone: nothing of it is in flight any more, its counters go to the ledger."""
        if number > LEDGER:
            with self._writing():
                self._release(number)

    def release_dead_slots(self, live: frozenset[int]) -> None:
        """Release what a master that was killed could not: slots whose process is gone."""
        for number in range(LEDGER + 1, self.slots):
            owner = self.slot(number)[PID]
            if owner and number not in live and not is_alive(owner):
                self.release_slot(number)

    def free_slots(self) -> int:
        """How many slots no process holds."""
        pids = self.cells[self._slots_at + self._slot_cells + PID :: self._slot_cells]
        return sum(1 for pid in pids[: self.slots - 1] if not (pid and is_alive(pid)))

    # -- who is the control process ----------------------------------------------------------------

    def take_control(self) -> bool:
        """Become the control process; False if there is one. The kernel takes it back at our death.

        POSIX drops the lock when the process closes any descriptor of the file: open it only once.
        """
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CONTROL_LOCK)
        except OSError:
            return False
        return True

    def controller(self) -> int:
        """Pid of the control process, 0 if there is none."""
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _CONTROL_LOCK, 1, 0)
        answer = fcntl.fcntl(self.fd, fcntl.F_GETLK, question)
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    # ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Exclude the master of another generation; held for microseconds, freed by a death."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, _WRITER_LOCK)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, _WRITER_LOCK)

    def _used_rows(self) -> Iterator[tuple[int, int]]:
        start = HEADER_CELLS + IDENTITY
        identities = self.cells[start : self._slots_at : SERVER_STRIDE].tolist()
        return ((row, identity) for row, identity in enumerate(identities) if identity)

    def _column(self, row: int, counter: int) -> memoryview:
        start = self._slots_at + SLOT_HEADER + row * ROW_STRIDE + counter
        end = self._slots_at + self.slots * self._slot_cells
        return self.cells[start : end : self._slot_cells]

    def _allocate(self, identities: Sequence[int], published: int, sequence: int) -> None:
        index = self.row_index()
        wanted = dict.fromkeys(identities)
        missing = [identity for identity in wanted if identity not in index]
        rows = self._spare_rows(len(missing), wanted, published)
        for identity, row in zip(missing, rows, strict=True):
            self._wipe(row)
            self.cells[self.server(row) + SEQUENCE] = sequence
            self.cells[self.server(row) + IDENTITY] = identity
        for identity in wanted.keys() & index.keys():
            at = self.server(index[identity])
            if self.cells[at + SEQUENCE] < published:
                self._forget_health(at)
            self.cells[at + SEQUENCE] = sequence

    def _spare_rows(self, count: int, wanted: dict[int, None], published: int) -> list[int]:
        """Rows never used, then those of servers that nobody uses any more, longest gone first."""
        unused: list[int] = []
        gone: list[tuple[int, int]] = []
        for row in range(self.rows):
            at = self.server(row)
            identity, last = self.cells[at + IDENTITY], self.cells[at + SEQUENCE]
            if not identity:
                unused.append(row)
            elif identity not in wanted and last < published and not self.in_flight(row):
                gone.append((last, row))
        spare = unused + [row for _, row in sorted(gone)]
        if len(spare) < count:
            raise TableError(f"{len(wanted)} servers do not fit into the table's {self.rows} rows")
        return spare[:count]

    def _wipe(self, row: int) -> None:
        """Also in the workers' slots: nothing is in flight there, so no worker writes to this row."""
        at = self.server(row)
        for index in range(at, at + SERVER_STRIDE):
            self.cells[index] = 0
        for counter in range(ROW_STRIDE):
            column = self._column(row, counter)
            for number in range(self.slots):
                column[number] = 0

    def _forget_health(self, at: int) -> None:
        for cell in (STATE, STREAK, CHANGED_MS, CHECKED_MS, STATUS):
            self.cells[at + cell] = 0
        for cell in (EJECTION, EJECTION_MS, EJECTIONS, RAMP, SINCE_MS):
            self.cells[at + cell] = 0

    def _release(self, number: int) -> None:
        slot, ledger = self.slot(number), self.slot(LEDGER)
        for start in range(SLOT_HEADER, self._slot_cells, ROW_STRIDE):
            for counter in (IN_FLIGHT, *STREAKS, RECOVERIES, OUTCOMES, *_WAITS):
                slot[start + counter] = 0
            for counter in (REQUESTS, FAILURES):
                if slot[start + counter]:
                    ledger[start + counter] += slot[start + counter]
                    slot[start + counter] = 0
        for cell in range(SLOT_HEADER):
            slot[cell] = 0

    def _blob(self, sequence: int) -> tuple[int, int]:
        """Where the blob with this sequence lies: its seal's cell, its first byte."""
        which = sequence % 2
        blobs_at = (self._slots_at + self.slots * self._slot_cells) * CELL
        return _SEALS + which * 4, blobs_at + which * self.blob_bytes

    def _write_blob(self, sequence: int, blob: bytes) -> None:
        seal, start = self._blob(sequence)
        self.cells[seal] = 0
        self._arena.buffer[start : start + len(blob)] = blob
        self.cells[seal + 1], self.cells[seal + 2] = len(blob), zlib.crc32(blob)
        self.cells[seal] = sequence

    def _consistent(self, which: int) -> tuple[int, bytes]:
        """Copy a blob and verify that it did not change meanwhile; a writer needs well under 1 ms."""
        for _ in range(100):
            sequence = self.cells[which]
            if not sequence:
                return 0, b""
            seal, start = self._blob(sequence)
            blob = bytes(self._arena.buffer[start : start + self.cells[seal + 1]])
            if (
                self.cells[which] == sequence == self.cells[seal]
                and zlib.crc32(blob) == self.cells[seal + 2]
            ):
                return sequence, blob
            time.sleep(0.001)
        raise TableError("the configuration in the table cannot be read")


def identity_of(url: str) -> int:
    """A server's identity: 64 bits of a hash of its normalised URL, never 0."""
    digest = hashlib.blake2b(url.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def is_alive(pid: int) -> bool:
    """Whether a process has this pid. A reused pid counts as alive: that costs a slot, not a request."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _size(rows: int, slots: int, blob_bytes: int) -> int:
    cells = HEADER_CELLS + rows * SERVER_STRIDE + slots * (SLOT_HEADER + rows * ROW_STRIDE)
    return cells * CELL + 2 * blob_bytes
