"""The table: rows, slots, configurations, cursor and lock, on a real segment."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.shared import table as tables
from app.shared.table import (
    FAILURES,
    HEALTHY,
    IN_FLIGHT,
    PID,
    RAMP,
    REQUESTS,
    ROW_STRIDE,
    SLOT_HEADER,
    STATE,
    STREAK,
    Table,
    TableError,
    identity_of,
)

NOBODY = 2**22 + 1  # above Linux's highest pid


@pytest.fixture
def table() -> Table:
    return Table.create(rows=8, slots=4, blob_bytes=100)


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Runs a function in a forked child, which lives until the test ends."""
    children: list[tuple[int, int]] = []

    def fork(function: Callable[[], None]) -> int:
        done_r, done_w = os.pipe()
        end_r, end_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(end_w)
            function()
            os.write(done_w, b"1")
            os.read(end_r, 1)
            os._exit(0)
        os.close(end_r)
        os.close(done_w)
        assert os.read(done_r, 1) == b"1"
        os.close(done_r)
        children.append((pid, end_w))
        return pid

    yield fork
    for pid, end in children:
        os.close(end)
        os.waitpid(pid, 0)


def publish(table: Table, *identities: int, blob: bytes = b"{}") -> int:
    sequence = table.propose(blob, identities)
    assert table.publish(sequence)
    return sequence


def cell(row: int, counter: int) -> int:
    return SLOT_HEADER + row * ROW_STRIDE + counter


# -- segment and cursor ----------------------------------------------------------------------------


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
    os.pwrite(table.fd, struct.pack("Q", tables.VERSION + 1), 8)
    with pytest.raises(TableError, match="another layout"):
        Table.attach(table.fd)


def test_the_cursor_starts_elsewhere_each_time() -> None:
    starts = {Table.create(1, 1, 8).ticket() for _ in range(8)}
    assert len(starts) == 8


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


# -- configurations --------------------------------------------------------------------------------


def test_there_is_no_configuration_before_the_first(table: Table) -> None:
    assert table.published() == (0, b"")


def test_a_proposal_is_invisible_until_it_is_published(table: Table) -> None:
    publish(table, 1, blob=b"old")
    sequence = table.propose(b"new", [1, 2])
    assert table.published()[1] == b"old"
    assert table.proposed() == (sequence, b"new")
    table.publish(sequence)
    assert table.published() == (sequence, b"new")


def test_publishing_changes_the_epoch(table: Table) -> None:
    before = table.cells[tables.EPOCH]
    publish(table, 1)
    assert table.cells[tables.EPOCH] != before


def test_a_proposal_that_was_replaced_is_not_published(table: Table) -> None:
    publish(table, 1, blob=b"first")
    ours = table.propose(b"ours", [1])
    theirs = table.propose(b"theirs", [1])
    assert not table.publish(ours)
    assert table.published()[1] == b"first"
    assert table.publish(theirs)
    assert table.published()[1] == b"theirs"


def test_a_master_killed_between_proposals_leaves_the_published_one_whole(table: Table) -> None:
    publish(table, 1, blob=b"whole")
    for attempt in range(5):
        table.propose(b"abandoned %d" % attempt, [1])
        assert table.published()[1] == b"whole"


def test_a_blob_that_is_being_written_is_not_read(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = publish(table, 1, blob=b"complete")
    pauses: list[float] = []
    monkeypatch.setattr(tables.time, "sleep", pauses.append)
    seal, _ = table._blob(sequence)
    table.cells[seal + 2] ^= 1
    with pytest.raises(TableError):
        table.published()
    assert pauses


def test_a_blob_without_room_is_refused_and_nothing_is_proposed(table: Table) -> None:
    before = publish(table, 1)
    with pytest.raises(TableError):
        table.propose(b"x" * 200, [2])
    assert (table.proposed()[0], table.find_row(2)) == (before, -1)


# -- rows ------------------------------------------------------------------------------------------


def test_an_unknown_server_has_no_row_and_a_new_one_is_not_healthy(table: Table) -> None:
    publish(table, 5)
    assert table.find_row(6) == -1
    assert not table.is_healthy(table.find_row(5))


def test_a_server_that_stays_keeps_row_health_and_counters(table: Table) -> None:
    publish(table, 1, 2)
    row = table.find_row(2)
    table.cells[table.server(row) + STATE] = HEALTHY
    table.slot(1)[cell(row, REQUESTS)] = 9
    publish(table, 3, 2)
    assert (table.find_row(2), table.is_healthy(row), table.count(row, REQUESTS)) == (row, True, 9)


def test_a_server_that_comes_back_is_checked_anew_and_keeps_its_counters(table: Table) -> None:
    publish(table, 1)
    row = table.find_row(1)
    table.cells[table.server(row) + STATE] = HEALTHY
    table.cells[table.server(row) + STREAK] = 2
    table.cells[table.server(row) + RAMP] = 3
    table.slot(1)[cell(row, REQUESTS)] = 9
    publish(table, 2)
    publish(table, 1, 2)
    assert table.find_row(1) == row
    assert not table.is_healthy(row)
    assert table.cells[table.server(row) + STREAK] == 0
    assert table.cells[table.server(row) + RAMP] == 0
    assert table.count(row, REQUESTS) == 9


def test_the_row_of_the_server_longest_gone_is_reused_and_empty(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5, 6, 7, 8)
    oldest = table.find_row(1)
    table.slot(1)[cell(oldest, REQUESTS)] = 9
    table.cells[table.server(oldest) + STATE] = HEALTHY
    publish(table, 2, 3, 4, 5, 6, 7, 8)
    publish(table, 3, 4, 5, 6, 7, 8)
    publish(table, 3, 4, 5, 6, 7, 8, 9)
    assert table.find_row(9) == oldest
    assert (table.find_row(1), table.count(oldest, REQUESTS)) == (-1, 0)
    assert not table.is_healthy(oldest)


def test_a_row_with_requests_in_flight_is_not_reused(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5, 6, 7, 8)
    table.slot(1)[cell(table.find_row(1), IN_FLIGHT)] = 1
    publish(table, 2, 3, 4, 5, 6, 7, 8)
    with pytest.raises(TableError):
        table.propose(b"", [2, 3, 4, 5, 6, 7, 8, 9])


def test_rows_of_the_published_configuration_are_not_reused_by_a_proposal(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5)
    before = table.proposed()
    with pytest.raises(TableError):
        table.propose(b"", [6, 7, 8, 9])
    assert table.proposed() == before
    assert set(table.row_index()) == {1, 2, 3, 4, 5}


@given(st.lists(st.tuples(st.sets(st.integers(1, 12), max_size=5), st.booleans()), max_size=12))
def test_any_history_gives_each_server_one_row_that_it_keeps(
    history: list[tuple[set[int], bool]],
) -> None:
    table = Table.create(rows=16, slots=2, blob_bytes=8)
    published: dict[int, int] = {}
    for wanted, is_published in history:
        sequence = table.propose(b"", sorted(wanted))
        index = table.row_index()
        assert len(set(index.values())) == len(index)
        assert wanted <= index.keys()
        for identity, row in published.items():
            assert index[identity] == row
        if is_published:
            assert table.publish(sequence)
            published = {identity: index[identity] for identity in wanted}


def test_an_identity_is_the_same_in_every_process() -> None:
    assert identity_of("http://127.0.0.1:8001") == 0x6628_BA4E_B900_16DF
    assert identity_of("http://127.0.0.1:8001") != identity_of("http://127.0.0.1:8002")


# -- slots -----------------------------------------------------------------------------------------


def test_slots_of_live_workers_are_not_given_twice(table: Table) -> None:
    claimed = [table.claim_slot(frozenset(range(number))) for number in range(1, 5)]
    assert claimed == [1, 2, 3, -1]


def test_a_slot_reserved_for_a_fork_that_failed_is_given_again(table: Table) -> None:
    assert table.claim_slot(frozenset()) == table.claim_slot(frozenset()) == 1


def test_a_slot_of_the_other_generation_is_left_alone(
    table: Table, child: Callable[[Callable[[], None]], int]
) -> None:
    table.slot(1)[PID] = child(lambda: None)
    assert table.claim_slot(frozenset()) == 2


def test_a_slot_of_a_dead_process_is_given_again_and_empty(table: Table) -> None:
    slot = table.slot(1)
    slot[PID], slot[cell(0, IN_FLIGHT)] = NOBODY, 3
    assert table.claim_slot(frozenset()) == 1
    assert table.in_flight(0) == 0


def test_releasing_clears_in_flight_and_keeps_counters(table: Table) -> None:
    slot = table.slot(2)
    slot[PID] = 1
    slot[cell(3, IN_FLIGHT)], slot[cell(3, REQUESTS)], slot[cell(3, FAILURES)] = 4, 5, 6
    table.slot(1)[cell(3, IN_FLIGHT)] = 1
    table.release_slot(2)
    assert table.in_flight(3) == 1
    assert (table.count(3, REQUESTS), table.count(3, FAILURES)) == (5, 6)
    assert (slot[PID], slot[cell(3, REQUESTS)]) == (0, 0)


def test_releasing_no_slot_and_the_ledger_changes_nothing(table: Table) -> None:
    table.slot(0)[cell(0, REQUESTS)] = 5
    table.release_slot(-1)
    table.release_slot(0)
    assert table.count(0, REQUESTS) == 5


def test_slots_of_dead_processes_are_released_unless_the_master_still_has_them(
    table: Table,
) -> None:
    for number in (1, 2):
        table.slot(number)[PID] = NOBODY
        table.slot(number)[cell(0, IN_FLIGHT)] = 1
    table.release_dead_slots(live=frozenset({2}))
    assert (table.slot(1)[PID], table.slot(2)[PID]) == (0, NOBODY)
    assert table.in_flight(0) == 1


def test_counts_free_slots(table: Table) -> None:
    assert table.free_slots() == 3
    table.slot(1)[PID], table.slot(2)[PID] = os.getpid(), NOBODY
    assert table.free_slots() == 2


def test_a_worker_without_a_slot_counts_privately(table: Table) -> None:
    private = table.slot(-1)
    private[cell(7, IN_FLIGHT)] = 1
    assert len(private) == len(table.slot(1))
    assert table.in_flight(7) == 0


def test_a_slot_beyond_the_last_is_an_error(table: Table) -> None:
    with pytest.raises(IndexError):
        table.slot(4)


# -- the control process ---------------------------------------------------------------------------


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
