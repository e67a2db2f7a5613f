"""Slots of the table: which worker has which, and what becomes of one whose worker is gone.

Runs in the master alone, around forks and ends of workers; masters of two generations (USR2) share the slots.
Must never know what the counters mean, but which of them a gone worker leaves behind.
"""

from __future__ import annotations

import os

from app.shared.layout import (
    FAILURES,
    IN_FLIGHT,
    LEAVING,
    LEDGER,
    OUTCOMES,
    PID,
    RECOVERIES,
    REQUESTS,
    ROW_STRIDE,
    SLOT_HEADER,
    STAYS,
    STREAKS,
    WAITS,
    counters_at,
)
from app.shared.table import Table


def claim(table: Table, live: frozenset[int]) -> int:
    """Reserve a slot for a worker about to be forked, or -1. ``live``: slots of this master's workers.

    Until the worker writes its own pid the slot carries the master's, so that the master of another
    generation leaves it alone.
    """
    with table.writing():
        for number in range(LEDGER + 1, table.slots):
            if number in live:
                continue
            owner = table.slot(number)[PID]
            if owner in (0, os.getpid()) or not is_alive(owner):
                _clear(table, number)
                table.slot(number)[PID] = os.getpid()
                return number
    return -1


def release(table: Table, number: int) -> None:
    """A worker is gone: nothing of it is in flight any more, its counters go to the ledger."""
    if number > LEDGER:
        with table.writing():
            _clear(table, number)


def release_dead(table: Table, live: frozenset[int]) -> None:
    """Release what a master that was killed could not: slots whose process is gone."""
    for number in range(LEDGER + 1, table.slots):
        owner = table.slot(number)[PID]
        if owner and number not in live and not is_alive(owner):
            release(table, number)


def count_free(table: Table) -> int:
    """How many slots no process holds."""
    pids = table.of_each_slot(PID)[LEDGER + 1 :]
    return sum(1 for pid in pids if not (pid and is_alive(pid)))


def leaving(table: Table, number: int) -> int:
    """What the worker with this slot says of its leaving; STAYS of one that found no slot."""
    return table.slot(number)[LEAVING] if number > LEDGER else STAYS


def is_alive(pid: int) -> bool:
    """Whether a process has this pid. A reused pid counts as alive: that costs a slot, not a request."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _clear(table: Table, number: int) -> None:
    slot, ledger = table.slot(number), table.slot(LEDGER)
    for start in range(SLOT_HEADER, counters_at(table.rows), ROW_STRIDE):
        for counter in (IN_FLIGHT, *STREAKS, OUTCOMES, *WAITS):
            slot[start + counter] = 0
        for counter in (REQUESTS, FAILURES, RECOVERIES):
            if count := slot[start + counter]:
                # Others add up the slots meanwhile: for a moment it may count for nothing, never twice.
                slot[start + counter] = 0
                ledger[start + counter] += count
    for cell in range(SLOT_HEADER):
        slot[cell] = 0
