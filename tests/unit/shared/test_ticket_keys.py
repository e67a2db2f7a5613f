"""The keys of session tickets in the table: when they change, and what a reader sees meanwhile."""

from __future__ import annotations

import pytest

from app.shared.layout import OLD_TICKET_KEYS, TICKET_KEY_CELLS, TICKET_KEYS, TICKETS_NS
from app.shared.table import Table
from app.shared.ticket_keys import KEY_BYTES, RENEWAL_NS, read, renew


@pytest.fixture(name="table")
def _table() -> Table:
    return Table.create(rows=1, slots=2, blob_bytes=8)


def test_keys_are_renewed_daily_and_those_before_are_kept(table: Table) -> None:
    """Nobody has any before the master has made some."""
    assert read(table) is None
    keys = [bytes([number]) * KEY_BYTES for number in (1, 2, 3)]
    assert renew(table, 5, lambda _: keys[0])
    assert read(table) == (5, keys[0], b"")
    assert not renew(table, 4 + RENEWAL_NS, lambda _: keys[1])
    assert renew(table, 5 + RENEWAL_NS, lambda _: keys[1])
    assert read(table) == (5 + RENEWAL_NS, keys[1], keys[0])
    assert renew(table, 5 + 3 * RENEWAL_NS, lambda _: keys[2])
    assert read(table) == (5 + 3 * RENEWAL_NS, keys[2], keys[1])


def test_who_reads_while_they_are_written_goes_on_with_what_it_has(table: Table) -> None:
    """Also where the master was killed in between: its successor begins anew at once."""
    assert renew(table, 5, lambda size: b"\1" * size)
    table.cells[TICKETS_NS] = 0
    assert read(table) is None
    assert renew(table, 6, lambda size: b"\2" * size)
    assert read(table) == (6, b"\2" * KEY_BYTES, b"")


def test_the_keys_lie_apart(table: Table) -> None:
    """Neither in each other nor in what follows the header."""
    assert TICKETS_NS < TICKET_KEYS
    assert TICKET_KEYS + TICKET_KEY_CELLS <= OLD_TICKET_KEYS
    assert table.server(0) >= OLD_TICKET_KEYS + TICKET_KEY_CELLS
