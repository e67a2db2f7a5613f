"""Slots: given to workers, taken back from those that are gone."""

from __future__ import annotations

import os
from collections.abc import Callable

from app.shared import slots
from app.shared.layout import (
    FAILURES,
    IN_FLIGHT,
    PID,
    RECOVERIES,
    REQUESTS,
    counters_at,
)
from app.shared.table import Table

NOBODY = 2**22 + 1  # above Linux's highest pid


def cell(row: int, counter: int) -> int:
    return counters_at(row) + counter


def test_slots_of_live_workers_are_not_given_twice(table: Table) -> None:
    claimed = [slots.claim(table, frozenset(range(number))) for number in range(1, 5)]
    assert claimed == [1, 2, 3, -1]


def test_a_slot_reserved_for_a_fork_that_failed_is_given_again(table: Table) -> None:
    assert slots.claim(table, frozenset()) == slots.claim(table, frozenset()) == 1


def test_a_slot_of_the_other_generation_is_left_alone(
    table: Table, child: Callable[[Callable[[], None]], int]
) -> None:
    table.slot(1)[PID] = child(lambda: None)
    assert slots.claim(table, frozenset()) == 2


def test_a_slot_of_a_dead_process_is_given_again_and_empty(table: Table) -> None:
    slot = table.slot(1)
    slot[PID], slot[cell(0, IN_FLIGHT)] = NOBODY, 3
    assert slots.claim(table, frozenset()) == 1
    assert table.in_flight(0) == 0


def test_releasing_clears_in_flight_and_keeps_counters(table: Table) -> None:
    slot = table.slot(2)
    slot[PID] = 1
    slot[cell(3, IN_FLIGHT)], slot[cell(3, REQUESTS)], slot[cell(3, FAILURES)] = 4, 5, 6
    table.slot(1)[cell(3, IN_FLIGHT)] = 1
    slots.release(table, 2)
    assert table.in_flight(3) == 1
    assert (table.count(3, REQUESTS), table.count(3, FAILURES)) == (5, 6)
    assert (slot[PID], slot[cell(3, REQUESTS)]) == (0, 0)


def test_the_sums_of_all_workers_never_fall_when_one_is_gone(table: Table) -> None:
    """Whoever waits for three more of something would wait for as many more as the worker had counted."""
    for counter in (REQUESTS, FAILURES, RECOVERIES):
        table.slot(2)[cell(3, counter)] = 50
    slots.release(table, 2)
    assert [table.count(3, counter) for counter in (REQUESTS, FAILURES, RECOVERIES)] == [50] * 3


def test_releasing_no_slot_and_the_ledger_changes_nothing(table: Table) -> None:
    table.slot(0)[cell(0, REQUESTS)] = 5
    slots.release(table, -1)
    slots.release(table, 0)
    assert table.count(0, REQUESTS) == 5


def test_slots_of_dead_processes_are_released_unless_the_master_still_has_them(
    table: Table,
) -> None:
    for number in (1, 2):
        table.slot(number)[PID] = NOBODY
        table.slot(number)[cell(0, IN_FLIGHT)] = 1
    slots.release_dead(table, live=frozenset({2}))
    assert (table.slot(1)[PID], table.slot(2)[PID]) == (0, NOBODY)
    assert table.in_flight(0) == 1


def test_counts_free_slots(table: Table) -> None:
    assert slots.count_free(table) == 3
    table.slot(1)[PID], table.slot(2)[PID] = os.getpid(), NOBODY
    assert slots.count_free(table) == 2
