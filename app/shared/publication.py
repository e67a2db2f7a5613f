"""Configurations in the table: proposed, checked, published; and the row that each of their servers has.

The master proposes and publishes, the control process reads what is proposed, workers read what is published,
none of them under a lock. The configuration is an opaque blob here, a server an identity of 64 bits: must
never know what they stand for.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence

from app.shared.layout import (
    CHANGED_MS,
    CHECKED_MS,
    EJECTION,
    EJECTION_MS,
    EJECTIONS,
    IDENTITY,
    OWNER,
    PROPOSED,
    PUBLISHED,
    RAMP,
    ROW_STRIDE,
    SEALS,
    SEQUENCE,
    SERVER_STRIDE,
    SINCE_MS,
    STATE,
    STATUS,
    STREAK,
)
from app.shared.table import Table, TableError


def published(table: Table) -> tuple[int, bytes]:
    """Sequence and bytes of the configuration that workers use; (0, b"") before the first."""
    return _consistent(table, PUBLISHED)


def proposed(table: Table) -> tuple[int, bytes]:
    """Sequence and bytes of the configuration that the control process is to check."""
    return _consistent(table, PROPOSED)


def fits(table: Table, servers: int, blob_bytes: int) -> bool:
    """Whether a configuration of this size can be proposed beside the one in use."""
    return servers <= table.rows and blob_bytes <= table.blob_bytes


def propose(table: Table, blob: bytes, identities: Sequence[int]) -> int:
    """Give every server a row, store the blob beside the published one, and return its sequence.

    Workers see nothing of it before publish(). A server that the published configuration names keeps
    its row, health and counters; one that comes back later keeps its counters and is checked anew.
    TableError, with nothing proposed, if the rows or the blob do not fit.
    """
    if len(blob) > table.blob_bytes:
        raise TableError(
            f"the configuration has {len(blob)} bytes, there is room for {table.blob_bytes}"
        )
    cells = table.cells
    with table.writing():
        in_use = cells[PUBLISHED]
        sequence = cells[PROPOSED] + 1
        # The two blobs alternate: never write where readers of the published one look.
        sequence += sequence % 2 == in_use % 2
        _allocate(table, identities, in_use, sequence)
        _write_blob(table, sequence, blob)
        cells[OWNER] = os.getpid()
        cells[PROPOSED] = sequence
        return sequence


def publish(table: Table, sequence: int) -> bool:
    """Make a proposal the configuration in use; False if a later proposal has replaced it."""
    with table.writing():
        if table.cells[PROPOSED] != sequence:
            return False
        table.cells[PUBLISHED] = sequence
    table.bump()
    return True


def _allocate(table: Table, identities: Sequence[int], in_use: int, sequence: int) -> None:
    cells, index = table.cells, table.row_index()
    wanted = dict.fromkeys(identities)
    missing = [identity for identity in wanted if identity not in index]
    rows = _spare_rows(table, len(missing), wanted, in_use)
    for identity, row in zip(missing, rows, strict=True):
        _wipe(table, row)
        cells[table.server(row) + SEQUENCE] = sequence
        cells[table.server(row) + IDENTITY] = identity
    for identity in wanted.keys() & index.keys():
        at = table.server(index[identity])
        if cells[at + SEQUENCE] < in_use:
            _forget_health(table, at)
        cells[at + SEQUENCE] = sequence


def _spare_rows(table: Table, count: int, wanted: dict[int, None], in_use: int) -> list[int]:
    """Rows never used, then those of servers that nobody uses any more, longest gone first."""
    unused: list[int] = []
    gone: list[tuple[int, int]] = []
    for row in range(table.rows):
        at = table.server(row)
        identity, last = table.cells[at + IDENTITY], table.cells[at + SEQUENCE]
        if not identity:
            unused.append(row)
        elif identity not in wanted and last < in_use and not table.in_flight(row):
            gone.append((last, row))
    spare = unused + [row for _, row in sorted(gone)]
    if len(spare) < count:
        raise TableError(f"{len(wanted)} servers do not fit into the table's {table.rows} rows")
    return spare[:count]


def _wipe(table: Table, row: int) -> None:
    """Also in the workers' slots: nothing is in flight there, so no worker writes to this row."""
    at = table.server(row)
    for index in range(at, at + SERVER_STRIDE):
        table.cells[index] = 0
    for counter in range(ROW_STRIDE):
        column = table.column(row, counter)
        for number in range(table.slots):
            column[number] = 0


def _forget_health(table: Table, at: int) -> None:
    for cell in (STATE, STREAK, CHANGED_MS, CHECKED_MS, STATUS):
        table.cells[at + cell] = 0
    for cell in (EJECTION, EJECTION_MS, EJECTIONS, RAMP, SINCE_MS):
        table.cells[at + cell] = 0


def _blob(table: Table, sequence: int) -> tuple[int, int]:
    """Where the blob with this sequence lies: its seal's cell, its first byte."""
    which = sequence % 2
    return SEALS + which * 4, table.blobs_at + which * table.blob_bytes


def _write_blob(table: Table, sequence: int, blob: bytes) -> None:
    seal, start = _blob(table, sequence)
    cells = table.cells
    cells[seal] = 0
    table.memory[start : start + len(blob)] = blob
    cells[seal + 1], cells[seal + 2] = len(blob), zlib.crc32(blob)
    cells[seal] = sequence


def _consistent(table: Table, which: int) -> tuple[int, bytes]:
    """Copy a blob and verify that it did not change meanwhile; a writer needs well under 1 ms."""
    cells = table.cells
    for _ in range(100):
        sequence = cells[which]
        if not sequence:
            return 0, b""
        seal, start = _blob(table, sequence)
        blob = table.memory[start : start + cells[seal + 1]]
        if cells[which] == sequence == cells[seal] and zlib.crc32(blob) == cells[seal + 2]:
            return sequence, blob
        time.sleep(0.001)
    raise TableError("the configuration in the table cannot be read")
