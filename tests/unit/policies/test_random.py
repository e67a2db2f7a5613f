from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.policies.random import Random, alias_table
from tests.unit.policies.samples import sample

weights_lists = st.lists(st.integers(1, 1000), min_size=1, max_size=40).map(tuple)


def test_equal_weights_cut_the_draw_into_equal_parts() -> None:
    """Draws 0, 1/2 and just below 1 are the first, middle and last of four."""
    policy = Random(sample([1, 1, 1, 1], draws=[0.0, 0.5, 0.999999]))
    assert [policy.pick(), policy.pick(), policy.pick()] == [0, 2, 3]


@given(weights_lists)
def test_alias_table_holds_exactly_the_weights(weights: tuple[int, ...]) -> None:
    """Columns kept plus columns given away sum to each weight, to the precision of a float."""
    keep, alias = alias_table(weights)
    mass = [Fraction(0)] * len(weights)
    for index, (kept, other) in enumerate(zip(keep, alias, strict=True)):
        mass[index] += Fraction(kept)
        mass[other] += 1 - Fraction(kept)
    total = sum(weights)
    for index, weight in enumerate(weights):
        assert abs(mass[index] / len(weights) - Fraction(weight, total)) < Fraction(1, 10**14)


@given(weights_lists, st.floats(0, 1, exclude_max=True))
def test_any_draw_gives_an_index(weights: tuple[int, ...], draw: float) -> None:
    """The largest number below 1 included."""
    assert 0 <= Random(sample(weights, draws=[draw])).pick() < len(weights)


def test_the_largest_draw_stays_below_n() -> None:
    """Rounding never lifts draw × n to n, for sizes that are no power of two."""
    largest = 1.0 - 2.0**-53
    for size in range(1, 3000, 7):
        assert Random(sample([1] * size, draws=[largest])).pick() == size - 1
