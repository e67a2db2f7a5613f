from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.policies.least_connections import LeastConnections
from tests.unit.policies.samples import sample

backends = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12)


def test_fewest_in_flight() -> None:
    """The only least loaded backend gets every pick."""
    policy = LeastConnections(sample([1] * 4, load=[3, 2, 1, 2].__getitem__))
    assert {policy.pick() for _ in range(20)} == {2}


def test_load_is_divided_by_weight() -> None:
    """4 in flight at weight 5 is less than 1 at weight 1."""
    policy = LeastConnections(sample([5, 1], load=[4, 1].__getitem__))
    assert {policy.pick() for _ in range(20)} == {0}


def test_a_pool_at_rest_is_round_robin() -> None:
    """Nothing in flight: nginx's smooth cycle."""
    policy = LeastConnections(sample([5, 1, 1]))
    assert [policy.pick() for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


def test_equal_load_is_round_robin_too() -> None:
    """All alike busy: the smooth cycle again, not a draw."""
    policy = LeastConnections(sample([1] * 4, load=lambda index: 3))
    assert [policy.pick() for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_ties_behind_a_busy_stretch_are_fair() -> None:
    """Of five, three are busy; the two idle ones share evenly though one follows the three."""
    policy = LeastConnections(sample([1] * 5, load=[9, 9, 9, 1, 1].__getitem__))
    counts = Counter(policy.pick() for _ in range(10_000))
    assert set(counts) == {3, 4}
    assert abs(counts[3] - 5000) < 250


def test_ties_are_shared_by_weight() -> None:
    """1/2 and 3/6 tie, and share 1 to 3."""
    policy = LeastConnections(sample([2, 6, 1], load=[1, 3, 5].__getitem__))
    counts = Counter(policy.pick() for _ in range(10_000))
    assert set(counts) == {0, 1}
    assert abs(counts[1] - 7500) < 250


@given(backends)
def test_nothing_is_less_loaded_than_the_pick(pool: list[tuple[int, int]]) -> None:
    """The definition, in exact fractions."""
    weights, loads = zip(*pool, strict=True)
    policy = LeastConnections(sample(weights, load=loads.__getitem__))
    least = min(Fraction(load, weight) for weight, load in pool)
    for _ in range(5):
        index = policy.pick()
        assert Fraction(loads[index], weights[index]) == least
