"""Configurations in the table, and the rows of their servers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.shared import publication
from app.shared.layout import (
    EPOCH,
    HEALTHY,
    IN_FLIGHT,
    RAMP,
    REQUESTS,
    STATE,
    STREAK,
    counters_at,
)
from app.shared.table import Table, TableError


def publish(table: Table, *identities: int, blob: bytes = b"{}") -> int:
    sequence = publication.propose(table, blob, identities)
    assert publication.publish(table, sequence)
    return sequence


def row_of(table: Table, identity: int) -> int:
    return table.row_index().get(identity, -1)


def cell(row: int, counter: int) -> int:
    return counters_at(row) + counter


def test_there_is_no_configuration_before_the_first(table: Table) -> None:
    assert publication.published(table) == (0, b"")


def test_a_proposal_is_invisible_until_it_is_published(table: Table) -> None:
    publish(table, 1, blob=b"old")
    sequence = publication.propose(table, b"new", [1, 2])
    assert publication.published(table)[1] == b"old"
    assert publication.proposed(table) == (sequence, b"new")
    publication.publish(table, sequence)
    assert publication.published(table) == (sequence, b"new")


def test_publishing_changes_the_epoch(table: Table) -> None:
    before = table.cells[EPOCH]
    publish(table, 1)
    assert table.cells[EPOCH] != before


def test_a_proposal_that_was_replaced_is_not_published(table: Table) -> None:
    publish(table, 1, blob=b"first")
    ours = publication.propose(table, b"ours", [1])
    theirs = publication.propose(table, b"theirs", [1])
    assert not publication.publish(table, ours)
    assert publication.published(table)[1] == b"first"
    assert publication.publish(table, theirs)
    assert publication.published(table)[1] == b"theirs"


def test_a_master_killed_between_proposals_leaves_the_published_one_whole(table: Table) -> None:
    publish(table, 1, blob=b"whole")
    for attempt in range(5):
        publication.propose(table, b"abandoned %d" % attempt, [1])
        assert publication.published(table)[1] == b"whole"


def test_a_blob_that_is_being_written_is_not_read(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = publish(table, 1, blob=b"complete")
    pauses: list[float] = []
    monkeypatch.setattr(publication.time, "sleep", pauses.append)
    seal, _ = publication._blob(table, sequence)
    table.cells[seal + 2] ^= 1
    with pytest.raises(TableError):
        publication.published(table)
    assert pauses


def test_a_blob_without_room_is_refused_and_nothing_is_proposed(table: Table) -> None:
    before = publish(table, 1)
    with pytest.raises(TableError):
        publication.propose(table, b"x" * 200, [2])
    assert (publication.proposed(table)[0], row_of(table, 2)) == (before, -1)


def test_an_unknown_server_has_no_row_and_a_new_one_is_not_healthy(table: Table) -> None:
    publish(table, 5)
    assert row_of(table, 6) == -1
    assert not table.is_healthy(row_of(table, 5))


def test_a_server_that_stays_keeps_row_health_and_counters(table: Table) -> None:
    publish(table, 1, 2)
    row = row_of(table, 2)
    table.cells[table.server(row) + STATE] = HEALTHY
    table.slot(1)[cell(row, REQUESTS)] = 9
    publish(table, 3, 2)
    assert (row_of(table, 2), table.is_healthy(row), table.count(row, REQUESTS)) == (row, True, 9)


def test_a_server_that_comes_back_is_checked_anew_and_keeps_its_counters(table: Table) -> None:
    publish(table, 1)
    row = row_of(table, 1)
    table.cells[table.server(row) + STATE] = HEALTHY
    table.cells[table.server(row) + STREAK] = 2
    table.cells[table.server(row) + RAMP] = 3
    table.slot(1)[cell(row, REQUESTS)] = 9
    publish(table, 2)
    publish(table, 1, 2)
    assert row_of(table, 1) == row
    assert not table.is_healthy(row)
    assert table.cells[table.server(row) + STREAK] == 0
    assert table.cells[table.server(row) + RAMP] == 0
    assert table.count(row, REQUESTS) == 9


def test_the_row_of_the_server_longest_gone_is_reused_and_empty(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5, 6, 7, 8)
    oldest = row_of(table, 1)
    table.slot(1)[cell(oldest, REQUESTS)] = 9
    table.cells[table.server(oldest) + STATE] = HEALTHY
    publish(table, 2, 3, 4, 5, 6, 7, 8)
    publish(table, 3, 4, 5, 6, 7, 8)
    publish(table, 3, 4, 5, 6, 7, 8, 9)
    assert row_of(table, 9) == oldest
    assert (row_of(table, 1), table.count(oldest, REQUESTS)) == (-1, 0)
    assert not table.is_healthy(oldest)


def test_a_row_with_requests_in_flight_is_not_reused(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5, 6, 7, 8)
    table.slot(1)[cell(row_of(table, 1), IN_FLIGHT)] = 1
    publish(table, 2, 3, 4, 5, 6, 7, 8)
    with pytest.raises(TableError):
        publication.propose(table, b"", [2, 3, 4, 5, 6, 7, 8, 9])


def test_rows_of_the_published_configuration_are_not_reused_by_a_proposal(table: Table) -> None:
    publish(table, 1, 2, 3, 4, 5)
    before = publication.proposed(table)
    with pytest.raises(TableError):
        publication.propose(table, b"", [6, 7, 8, 9])
    assert publication.proposed(table) == before
    assert set(table.row_index()) == {1, 2, 3, 4, 5}


@given(st.lists(st.tuples(st.sets(st.integers(1, 12), max_size=5), st.booleans()), max_size=12))
def test_any_history_gives_each_server_one_row_that_it_keeps(
    history: list[tuple[set[int], bool]],
) -> None:
    table = Table.create(rows=16, slots=2, blob_bytes=8)
    published: dict[int, int] = {}
    for wanted, is_published in history:
        sequence = publication.propose(table, b"", sorted(wanted))
        index = table.row_index()
        assert len(set(index.values())) == len(index)
        assert wanted <= index.keys()
        for identity, row in published.items():
            assert index[identity] == row
        if is_published:
            assert publication.publish(table, sequence)
            published = {identity: index[identity] for identity in wanted}
