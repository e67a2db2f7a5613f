"""The addresses that the name of a server has, in the table: written by the control process, read by workers.

A server's row of bytes is (app.shared.layout says where):

    seal       a digest of all that follows
    identity   whose addresses these are: a row that was given to another server holds none of that one's
    count
    addresses  ADDRESSES_MAX × (16 bytes, scope id, how many of the bytes), the one in use in front

Who reads copies the row and compares the digest: so nobody is locked out, and a row that a control process
was killed in counts as unknown. The seal is also how a reader sees, by one cell, that nothing has changed.
Numbers and bytes only. Servers that are no names (addresses, Unix sockets) have nothing here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

from app.shared.layout import ADDRESSES_MAX, ADDRESSES_STRIDE, CELL
from app.shared.table import Table

_HEAD = struct.Struct("=QQQ")
_ENTRY = struct.Struct("=16sII")
_ROW_BYTES = ADDRESSES_STRIDE * CELL
# A writer needs some 20 µs; a look that failed so often is repeated at the next change of the epoch.
_TRIES = 3


class Address(NamedTuple):
    """An IP address: 4 bytes or 16, and the scope id of a link-local one (RFC 4007), else 0."""

    packed: bytes
    scope: int = 0


def write(table: Table, row: int, identity: int, addresses: Sequence[Address]) -> None:
    """Put a server's addresses into its row, ADDRESSES_MAX of them. Whoever uses them is told by a bump."""
    kept = addresses[:ADDRESSES_MAX]
    entries = [_ENTRY.pack(one.packed, one.scope, len(one.packed)) for one in kept]
    rest = struct.pack("=QQ", identity, len(kept)) + b"".join(entries)
    start = _start(table, row)
    table.memory[start + CELL : start + CELL + len(rest)] = rest
    table.memory[start : start + CELL] = _digest(rest)


def seal(table: Table, row: int) -> int:
    """What changes whenever the row does."""
    return table.cells[table.addresses_at + row * ADDRESSES_STRIDE]


def read(table: Table, row: int, identity: int) -> tuple[Address, ...]:
    """A server's addresses; () where none are known of it, or the row is being written."""
    start = _start(table, row)
    for _ in range(_TRIES):
        data = table.memory[start : start + _ROW_BYTES]
        _, whose, count = _HEAD.unpack_from(data)
        if whose != identity or count > ADDRESSES_MAX:
            continue
        end = _HEAD.size + count * _ENTRY.size
        if data[:CELL] == _digest(data[CELL:end]):
            entries = _ENTRY.iter_unpack(data[_HEAD.size : end])
            return tuple(Address(packed[:size], scope) for packed, scope, size in entries)
    return ()


def _start(table: Table, row: int) -> int:
    return (table.addresses_at + row * ADDRESSES_STRIDE) * CELL


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CELL).digest()
