"""Verdicts: what a row of results does to a server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.control.health.verdicts import Health, Thresholds, observe
from app.shared.layout import HEALTHY, UNCHECKED, UNHEALTHY

DEFAULTS = Thresholds(healthy=2, unhealthy=3)


def turns(results: str, health: Health, thresholds: Thresholds = DEFAULTS) -> list[int]:
    """Where, in a string of results such as "++-", the verdict turned."""
    turned_at = []
    for index, result in enumerate(results):
        health, turned = observe(health, result == "+", index, thresholds)
        if turned:
            turned_at.append(index)
    return turned_at


def test_the_first_result_ever_decides_alone() -> None:
    assert observe(Health(), True, 7, DEFAULTS) == (Health(HEALTHY, 0, 7), True)
    assert observe(Health(), False, 7, DEFAULTS) == (Health(UNHEALTHY, 0, 7), True)


def test_three_failures_in_a_row_make_a_healthy_server_unhealthy() -> None:
    assert turns("+--", Health(HEALTHY)) == []
    assert turns("+---", Health(HEALTHY)) == [3]


def test_two_successes_in_a_row_make_an_unhealthy_server_healthy() -> None:
    assert turns("-+", Health(UNHEALTHY)) == []
    assert turns("-++", Health(UNHEALTHY)) == [2]


def test_one_agreeing_result_starts_the_streak_anew() -> None:
    assert turns("--+--+--", Health(HEALTHY)) == []


def test_a_verdict_that_stays_does_not_turn_again() -> None:
    assert turns("------", Health(HEALTHY)) == [2]


def test_a_threshold_of_one_turns_at_once() -> None:
    assert turns("-+-", Health(HEALTHY), Thresholds(1, 1)) == [0, 1, 2]


def test_the_time_of_the_change_stays_until_the_next_change() -> None:
    health, _ = observe(Health(HEALTHY, 0, 5), False, 9, DEFAULTS)
    assert health == Health(HEALTHY, 1, 5)


@given(st.text("+-", max_size=60), st.integers(1, 6), st.integers(1, 6))
def test_each_turn_is_the_end_of_a_full_streak(results: str, rise: int, fall: int) -> None:
    health = Health()
    for index, result in enumerate(results):
        before, ok = health, result == "+"
        health, turned = observe(health, ok, index, Thresholds(rise, fall))
        needed = rise if ok else fall
        if turned and before.verdict != UNCHECKED:
            assert results[index + 1 - needed : index + 1] == result * needed
        assert health.streak < max(rise, fall)
