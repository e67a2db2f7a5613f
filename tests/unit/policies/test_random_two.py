from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.policies.random_two import RandomTwo, two_draws
from tests.unit.policies.samples import sample


def test_the_less_loaded_of_the_two_is_picked() -> None:
    """Draws of backends 0 and 3: 3 has fewer in flight."""
    policy = RandomTwo(sample([1] * 4, load=[5, 0, 0, 4].__getitem__, draws=[0.0, 0.75]))
    assert policy.pick() == 3


def test_the_first_draw_wins_a_tie() -> None:
    """So that a pool at rest has the shares of random."""
    policy = RandomTwo(sample([1] * 4, load=[4, 0, 0, 4].__getitem__, draws=[0.0, 0.75]))
    assert policy.pick() == 0


def test_load_is_divided_by_weight() -> None:
    """Six in flight at weight 3 is less than three at weight 1."""
    inputs = sample([1, 3], load=[3, 6].__getitem__)
    assert {RandomTwo(inputs).pick() for _ in range(50)} == {1}


def test_one_backend_needs_no_second() -> None:
    """A pool of one is picked without looking for another."""
    assert RandomTwo(sample([2], load=lambda index: 9)).pick() == 0


def test_a_repeated_draw_is_replaced_by_any_other() -> None:
    """0 drawn twice: the third number chooses among 1, 2 and 3."""
    assert two_draws((1,) * 4, iter([0.0, 0.1, 0.99]).__next__)() == (0, 3)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=20).map(tuple), st.integers())
def test_the_two_differ(weights: tuple[int, ...], seed: int) -> None:
    """Never the same backend twice, even when one weight is nearly everything."""
    draw = two_draws(weights, sample(weights, seed=seed).random)
    for _ in range(20):
        first, second = draw()
        assert first != second


def test_the_most_loaded_is_never_picked() -> None:
    """Of two different ones, one is always less loaded than the most loaded of all."""
    policy = RandomTwo(sample([1] * 5, load=[1, 1, 9, 1, 1].__getitem__))
    assert 2 not in Counter(policy.pick() for _ in range(2000))
