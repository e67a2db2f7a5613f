"""The segment: cursor, slots as cells, and the lock of the control process."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from app.shared import publication
from app.shared.layout import (
    IN_FLIGHT,
    PID,
    VERSION,
    counters_at,
)
from app.shared.table import Table, TableError, identity_of


class Named(NamedTuple):
    """A server of which nothing but the URL is known."""

    url: str


NOBODY = 2**22 + 1  # above Linux's highest pid


def cell(row: int, counter: int) -> int:
    return counters_at(row) + counter


def test_leaves_no_file_behind(table: Table) -> None:
    assert os.fstat(table.fd).st_nlink == 0


def test_attaching_shows_the_same_cells_and_the_same_cursor(table: Table) -> None:
    table.slot(1)[PID] = 42
    other = Table.attach(os.dup(table.fd))
    assert other.slot(1)[PID] == 42
    assert other.ticket() == table.ticket() - 1
    os.close(other.fd)


def test_refuses_to_attach_to_what_is_not_a_table() -> None:
    reader, writer = os.pipe()
    for fd in (reader, NOBODY):
        with pytest.raises(TableError):
            Table.attach(fd)
    os.close(reader)
    os.close(writer)


def test_refuses_to_attach_to_another_layout(table: Table) -> None:
    os.pwrite(table.fd, struct.pack("Q", VERSION + 1), 8)
    with pytest.raises(TableError, match="another layout"):
        Table.attach(table.fd)


def test_the_cursor_starts_elsewhere_each_time() -> None:
    starts = {Table.create(1, 1, 8).ticket() for _ in range(8)}
    assert len(starts) == 8


def test_the_segment_has_no_name(table: Table) -> None:
    """There are keys in it: nobody finds it in a file system, in memory or on a disk."""
    assert os.readlink(f"/proc/self/fd/{table.fd}").startswith("/memfd:")
    assert not os.get_inheritable(table.fd)


def test_four_processes_draw_every_ticket_once(table: Table) -> None:
    first = table.ticket() + 1
    readers = []
    for _ in range(4):
        reader, writer = os.pipe()
        if os.fork() == 0:
            tickets = [table.ticket() for _ in range(5_000)]
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(struct.pack("5000Q", *tickets))
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    drawn: list[int] = []
    for reader in readers:
        with os.fdopen(reader, "rb") as pipe:
            drawn += struct.unpack("5000Q", pipe.read())
        os.wait()
    assert sorted(drawn) == list(range(first, first + 20_000))


def test_an_identity_is_the_same_in_every_process() -> None:
    assert identity_of("http://127.0.0.1:8001") == 0x6628_BA4E_B900_16DF
    assert identity_of("http://127.0.0.1:8001") != identity_of("http://127.0.0.1:8002")


def test_servers_that_have_a_row_keep_their_order(table: Table) -> None:
    """One that the table does not know is left out."""
    known = [Named(f"http://127.0.0.1:{port}") for port in (8003, 8001, 8002)]
    publication.propose(table, b"", [identity_of(server.url) for server in known])
    rows = [table.row_index()[identity_of(server.url)] for server in known]
    found = table.rows_of([known[2], Named("http://127.0.0.1:9000"), known[0], known[1]])
    assert found == [(known[2], rows[2]), (known[0], rows[0]), (known[1], rows[1])]


def test_a_worker_without_a_slot_counts_privately(table: Table) -> None:
    private = table.slot(-1)
    private[cell(7, IN_FLIGHT)] = 1
    assert len(private) == len(table.slot(1))
    assert table.in_flight(7) == 0


def test_a_slot_beyond_the_last_is_an_error(table: Table) -> None:
    with pytest.raises(IndexError):
        table.slot(4)


def test_one_process_at_a_time_is_in_control_until_it_dies(
    table: Table, child: Callable[[Callable[[], None]], int]
) -> None:
    assert table.controller() == 0
    holder = child(lambda: None if table.take_control() else os._exit(1))
    assert table.controller() == holder
    assert not table.take_control()
    os.kill(holder, 9)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
    assert table.controller() == 0
