"""The last outcomes at a backend, kept in one integer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.shared.outcome_bits import WINDOW, add, count


@given(st.lists(st.booleans(), max_size=3 * WINDOW), st.integers(0, 2**63))
def test_it_is_the_last_ones(history: list[bool], stamp: int) -> None:
    """However many there were, in one cell of 64 bits."""
    cell = 0
    for is_bad in history:
        cell = add(cell, stamp, is_bad)
    last = history[-WINDOW:]
    assert count(cell, stamp) == (len(last), sum(last))
    assert 0 <= cell < 2**64


def test_those_of_another_stamp_do_not_count() -> None:
    """What was before an ejection or a return begins nothing."""
    cell = add(add(0, 1, True), 1, True)
    assert count(cell, 2) == (0, 0)
    assert count(add(cell, 2, True), 2) == (1, 1)
    assert count(0, 7) == (0, 0)
