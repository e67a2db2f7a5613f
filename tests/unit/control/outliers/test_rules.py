"""Outlier rules: which failures make a server suspicious, how many may be out, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.control.outliers.rules import (
    CONNECT,
    ERROR,
    RESET,
    Suspicion,
    are_failing_alike,
    ejection_ms,
    is_failing_often,
    may_eject,
    times_ejected,
)

LIMITS = (3, 5, 4)


def judge(suspicion: Suspicion, *streaks: list[int], recoveries: int = 0) -> Any:
    return suspicion.judge(streaks, recoveries, LIMITS)


def test_one_worker_reaches_a_limit() -> None:
    """The kind and the number, at the limit and not before."""
    assert judge(Suspicion(), [0, 2], [4, 0], [3, 0]) is None
    assert judge(Suspicion(), [0, 3], [0, 0], [0, 0]) == (CONNECT, 3)
    assert judge(Suspicion(), [0, 0], [5, 0], [0, 0]) == (RESET, 5)
    assert judge(Suspicion(), [0, 0], [0, 0], [0, 4]) == (ERROR, 4)


def test_failures_in_several_workers_are_one_row() -> None:
    """What each has seen is too little, what all have seen is not."""
    assert judge(Suspicion(), [1, 1, 1], [0] * 3, [0] * 3) == (CONNECT, 3)


def test_a_good_answer_in_any_worker_ends_the_row() -> None:
    """Streaks that others still have are no longer added up, only what comes on top."""
    suspicion = Suspicion()
    assert judge(suspicion, [1, 1], [0, 0], [0, 0]) is None
    assert judge(suspicion, [1, 0], [0, 0], [0, 0], recoveries=1) is None
    assert judge(suspicion, [1, 2], [0, 0], [0, 0], recoveries=1) is None
    assert judge(suspicion, [2, 2], [0, 0], [0, 0], recoveries=1) == (CONNECT, 3)


def test_a_whole_row_in_one_worker_counts_whatever_others_see() -> None:
    """Half of the answers wrong: some worker sees enough of them in a row some day."""
    suspicion = Suspicion()
    for streak in range(1, 4):
        assert judge(suspicion, [0, 0], [0, 0], [streak, 0], recoveries=streak) is None
    assert judge(suspicion, [0, 0], [0, 0], [4, 0], recoveries=4) == (ERROR, 4)


def test_what_was_before_a_trial_is_excused() -> None:
    """Not a failure of before and one after make a row."""
    suspicion = Suspicion()
    streaks = [3, 2], [0, 0], [0, 0]
    assert judge(suspicion, *streaks)
    suspicion.excuse(streaks)
    assert judge(suspicion, *streaks) is None
    assert judge(suspicion, [3, 4], [0, 0], [0, 0]) is None
    assert judge(suspicion, [0, 3], [0, 0], [0, 0]) is None
    assert judge(suspicion, [3, 0], [0, 0], [0, 0]) == (CONNECT, 3)


def test_a_limit_of_nothing_is_never_reached() -> None:
    """0 switches a kind off."""
    assert Suspicion().judge(([99], [99], [99]), 0, (0, 0, 0)) is None


@pytest.mark.parametrize(
    ("servers", "out", "others", "allowed"),
    [
        (1, 0, 0, False),
        (2, 0, 1, True),
        (2, 1, 1, False),
        (3, 0, 2, True),
        (3, 1, 1, False),
        (4, 1, 2, True),
        (4, 2, 2, False),
        (50, 24, 26, True),
        (50, 25, 25, False),
        (4, 0, 0, False),
    ],
)
def test_how_many_may_be_out(servers: int, out: int, others: int, allowed: bool) -> None:
    """At most half, one of two or three, and never the last that could serve."""
    assert may_eject(servers, out, others) is allowed


GOOD = (0, 0)


@pytest.mark.parametrize(
    ("mine", "others", "verdict"),
    [
        ((10, 5), [GOOD], True),
        ((5, 5), [GOOD], True),
        ((4, 4), [GOOD], False),  # too few to be a share
        ((11, 5), [GOOD], False),
        ((40, 20), [GOOD, GOOD], True),
        ((10, 6), [(20, 6)], False),  # they all fail
        ((10, 6), [(20, 4)], True),
        ((10, 6), [(40, 24), GOOD, GOOD, GOOD], False),
        ((10, 6), [], True),
    ],
)
def test_a_share_of_the_last_outcomes(
    mine: tuple[int, int], others: list[tuple[int, int]], verdict: bool
) -> None:
    """Half of them, five at least, and three times the share of the others."""
    assert is_failing_often(50, mine, others) is verdict
    assert not is_failing_often(0, mine, others)


@pytest.mark.parametrize(
    ("mine", "others", "verdict"),
    [
        ((5, 5), [(0, 0), (0, 0), (0, 0)], False),
        ((5, 5), [(5, 5), (4, 4), (5, 5)], True),
        ((5, 5), [(5, 5), (5, 5), (0, 0)], True),  # three of four
        ((5, 5), [(5, 5), (0, 0), (0, 0)], False),  # two of four
        ((20, 10), [(20, 4)], True),
        ((5, 5), [(1, 1)], False),  # one failure is no habit
        ((5, 5), [(20, 3)], False),  # it is a small share there
        ((5, 5), [], False),
    ],
)
def test_failing_as_most_others_do(
    mine: tuple[int, int], others: list[tuple[int, int]], verdict: bool
) -> None:
    """More than a third as often."""
    assert are_failing_alike(mine, others) is verdict


@given(st.integers(1, 200), st.integers(0, 200))
def test_never_all_of_them(servers: int, failing: int) -> None:
    """However many fail, at least half serve."""
    out = 0
    for _ in range(failing):
        out += may_eject(servers, out, servers - out - 1)
    assert servers - out >= servers / 2
    assert out >= 1 or servers == 1 or not failing


def test_an_ejection_grows_to_a_cap() -> None:
    """By its number; a cap below the base does not shorten it."""
    assert [ejection_ms(times, 5.0, 12.0) for times in (1, 2, 3, 4)] == [5000, 10000, 12000, 12000]
    assert ejection_ms(1, 5.0, 1.0) == 5000


def test_a_good_time_in_service_is_remembered_in_its_favour() -> None:
    """One ejection less for each base time."""
    assert times_ejected(3, 4_999, 5.0) == 3
    assert times_ejected(3, 10_000, 5.0) == 1
    assert times_ejected(3, 10**9, 5.0) == 0
