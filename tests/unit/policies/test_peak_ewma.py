from __future__ import annotations

from collections import Counter

from app.policies.peak_ewma import PeakEwma
from tests.unit.policies.samples import sample


def winner(latency: list[float], load: list[int], weights: list[int] | None = None) -> set[int]:
    """Who is picked of two, whichever is drawn first."""
    inputs = sample(weights or [1, 1], load=load.__getitem__, latency=latency.__getitem__)
    policy = PeakEwma(inputs)
    return {policy.pick() for _ in range(60)}


def test_the_faster_wins_at_equal_load() -> None:
    assert winner([0.020, 0.010], [3, 3]) == {1}


def test_load_outweighs_latency() -> None:
    """10 ms × (4 + 1) is more than 20 ms × (1 + 1)."""
    assert winner([0.010, 0.020], [4, 1]) == {1}


def test_the_cost_counts_the_request_itself() -> None:
    """At rest latency decides: (0 + 1), not 0, multiplies it."""
    assert winner([0.010, 0.020], [0, 0]) == {0}


def test_weight_divides_what_is_in_flight() -> None:
    """8 in flight at weight 4 is less than 3 at weight 1, at the same latency."""
    assert winner([0.010, 0.010], [8, 3], [4, 1]) == {0}


def test_equal_costs_are_shared() -> None:
    assert winner([0.010, 0.010], [2, 2]) == {0, 1}


def test_an_idle_newcomer_is_tried_at_once() -> None:
    """No samples and nothing in flight: not starved."""
    assert winner([0.001, 0.0], [0, 0]) == {1}
    assert winner([0.0, 0.001], [0, 0]) == {0}


def test_a_newcomer_without_an_answer_is_not_flooded() -> None:
    """One request out and no sample yet: an idle known backend is preferred."""
    assert winner([0.010, 0.0], [0, 1]) == {0}
    assert winner([0.0, 0.010], [1, 0]) == {1}


def test_a_newcomer_holds_up_to_half_of_the_other() -> None:
    """Twice as slow is assumed: 2 × (3 + 1) against (6 + 1) and (8 + 1)."""
    assert winner([0.010, 0.0], [6, 3]) == {0}
    assert winner([0.010, 0.0], [8, 3]) == {1}


def test_a_hung_first_request_does_not_starve_a_newcomer() -> None:
    """The others' load grows past it, and it is tried again."""
    assert winner([0.010, 0.0], [40, 1]) == {1}


def test_two_newcomers_are_compared_by_load() -> None:
    assert winner([0.0, 0.0], [2, 1]) == {1}
    assert winner([0.0, 0.0], [1, 1]) == {0, 1}


def test_one_backend_needs_no_second() -> None:
    assert PeakEwma(sample([1])).pick() == 0


def test_the_slow_one_of_many_is_left_alone() -> None:
    """Of two different ones, one is always cheaper than the slowest of all."""
    latency = [0.01, 0.01, 0.5, 0.01]
    policy = PeakEwma(sample([1] * 4, latency=latency.__getitem__, load=lambda index: 1))
    assert 2 not in Counter(policy.pick() for _ in range(2000))
