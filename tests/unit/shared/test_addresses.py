"""A server's addresses in the table: what a reader takes for whole, and whose they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.shared import addresses, publication
from app.shared.addresses import Address
from app.shared.layout import ADDRESSES_MAX, ADDRESSES_STRIDE, CELL
from app.shared.table import Table

V4 = st.binary(min_size=4, max_size=4).map(Address)
V6 = st.builds(Address, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1))
ONE, OTHER = Address(b"\x7f\0\0\1"), Address(b"\xfe\x80" + b"\0" * 13 + b"\1", 7)


@pytest.fixture(name="table")
def _table() -> Table:
    return Table.create(rows=4, slots=2, blob_bytes=16)


@given(st.lists(V4 | V6, min_size=1, max_size=ADDRESSES_MAX), st.integers(0, 3))
def test_what_was_written_is_read(found: list[Address], row: int) -> None:
    """Families and scopes included, in their order, and in no other row."""
    table = Table.create(rows=4, slots=2, blob_bytes=16)
    addresses.write(table, row, 5, found)
    assert addresses.read(table, row, 5) == tuple(found)
    assert [addresses.read(table, other, 5) for other in range(4) if other != row] == [()] * 3


def test_the_rows_touch_neither_counters_nor_configurations(table: Table) -> None:
    sequence = publication.propose(table, b"0123456789abcdef", [1, 2])
    many = [Address(bytes([number] * 16), 2**32 - 1) for number in range(ADDRESSES_MAX)]
    for row in range(4):
        addresses.write(table, row, 2**64 - 1, many)
    assert sum(table.slot(1).tolist()) == 0
    assert publication.proposed(table) == (sequence, b"0123456789abcdef")


def test_what_does_not_fit_is_left_out(table: Table) -> None:
    many = [Address(bytes([number] * 4)) for number in range(ADDRESSES_MAX + 3)]
    addresses.write(table, 0, 5, many)
    assert addresses.read(table, 0, 5) == tuple(many[:ADDRESSES_MAX])


def test_a_row_that_was_never_written_has_none(table: Table) -> None:
    assert addresses.read(table, 0, 0) == ()
    assert addresses.read(table, 0, 5) == ()


def test_addresses_of_a_server_whose_row_is_another_s_now_are_not_read(table: Table) -> None:
    """Nobody has to wipe them."""
    addresses.write(table, 1, 5, [ONE])
    assert addresses.read(table, 1, 6) == ()


@pytest.mark.parametrize("byte", range(0, 3 * CELL + 2 * 3 * CELL, 5))
def test_a_row_in_the_middle_of_a_write_is_not_read(table: Table, byte: int) -> None:
    """Whichever part is new and which is old."""
    addresses.write(table, 1, 5, [ONE, OTHER])
    at = (table.addresses_at + ADDRESSES_STRIDE) * CELL + byte
    table.memory[at] ^= 1
    assert addresses.read(table, 1, 5) == ()


def test_the_seal_changes_with_the_row_and_with_nothing_else(table: Table) -> None:
    seals = []
    for row in ([ONE], [ONE, OTHER], [OTHER, ONE], [ONE]):
        addresses.write(table, 2, 5, row)
        seals.append(addresses.seal(table, 2))
    assert seals[0] == seals[3]
    assert len({0, *seals}) == 4
