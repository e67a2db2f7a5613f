from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.policies.round_robin import (
    STEPS_MAX,
    Cycle,
    RoundRobin,
    Stride,
    even_stride,
    round_robin,
    smooth_cycle,
)
from tests.unit.policies.samples import sample

mixed = st.lists(st.integers(1, 12), min_size=1, max_size=12).map(tuple)


def nginx_order(weights: tuple[int, ...]) -> tuple[int, ...]:
    """The definition, pick by pick, as ngx_http_upstream_get_peer does it."""
    current = [0] * len(weights)
    picked = []
    for _ in range(sum(weights)):
        current = [value + weight for value, weight in zip(current, weights, strict=True)]
        best = max(range(len(weights)), key=lambda index: (current[index], -index))
        current[best] -= sum(weights)
        picked.append(best)
    return tuple(picked)


def test_nginx_published_cycle() -> None:
    """Weights 5, 1, 1 give a a b a c a a, the example in nginx's commit message."""
    policy = round_robin(sample([5, 1, 1]))
    assert "".join("abc"[policy.pick()] for _ in range(14)) == "aabacaaaabacaa"


def test_equal_weights_take_turns() -> None:
    """Equal weights, whatever they are, are ticket modulo n."""
    policy = round_robin(sample([7, 7, 7]))
    assert isinstance(policy, RoundRobin)
    assert [policy.pick() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_one_backend_gets_everything() -> None:
    """A pool of one needs no special case."""
    policy = round_robin(sample([3]))
    assert [policy.pick() for _ in range(3)] == [0, 0, 0]


@given(mixed)
def test_cycle_is_the_definition(weights: tuple[int, ...]) -> None:
    """The order computed by classes of weight is nginx's, ties included."""
    assert smooth_cycle(weights) == nginx_order(weights)


@given(mixed, st.integers(0, 1000))
def test_shares_are_exact_from_any_ticket(weights: tuple[int, ...], start: int) -> None:
    """Any sum(weights) picks in a row give each backend exactly its weight."""
    policy = round_robin(sample(weights))
    for _ in range(start):
        policy.pick()
    counts = Counter(policy.pick() for _ in range(sum(weights)))
    assert tuple(counts[index] for index in range(len(weights))) == weights


def test_workers_share_one_cycle() -> None:
    """Two workers on one cursor together give exact shares, however their picks interleave."""
    inputs = sample([5, 1, 1])
    workers = [round_robin(inputs), round_robin(inputs)]
    counts = Counter(workers[number % 3 % 2].pick() for number in range(70))
    assert counts == {0: 50, 1: 10, 2: 10}


def test_common_factor_does_not_lengthen_the_cycle() -> None:
    """Weights 5, 1, 1 times 100,000 are the cycle of 5, 1, 1, which is short enough to keep."""
    policy = round_robin(sample([500_000, 100_000, 100_000]))
    assert isinstance(policy, Cycle)
    assert [policy.pick() for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


@pytest.mark.parametrize(
    "weights",
    [(STEPS_MAX // 2, 1), tuple(range(1, 101)) * 10, (60_000, 2_999, 7)],
    ids=["too_long", "too_dear", "lopsided"],
)
def test_long_cycles_walk_by_stride_and_stay_exact(weights: tuple[int, ...]) -> None:
    """Where no cycle is kept, a full turn of tickets still gives each exactly its weight."""
    inputs = sample(weights)
    policy = Stride(inputs.ticket, weights)
    if weights != (60_000, 2_999, 7):
        assert isinstance(round_robin(inputs), Stride)
    counts = Counter(policy.pick() for _ in range(sum(weights)))
    assert tuple(counts[index] for index in range(len(weights))) == weights


def test_cycles_up_to_the_bound_are_kept() -> None:
    """Ordinary weights use the precomputed cycle, up to exactly the stated bound."""
    assert isinstance(round_robin(sample([1, 2, 3])), Cycle)
    assert isinstance(round_robin(sample([STEPS_MAX // 2 - 1, 1])), Cycle)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=2, max_size=8).map(tuple))
def test_stride_keeps_its_stated_deviation(weights: tuple[int, ...]) -> None:
    """No run of tickets gives a backend more or less than its share ± Stride.deviation."""
    total = sum(weights)
    policy = Stride(sample(weights).ticket, weights)
    picks = [policy.pick() for _ in range(total)]
    for index, weight in enumerate(weights):
        surplus = list(accumulate(total * (pick == index) - weight for pick in picks))
        assert max(surplus) - min(surplus) <= policy.deviation * total


@given(st.integers(2, 10**9))
def test_stride_visits_every_place(total: int) -> None:
    """The stride has no factor in common with the total, and spreads."""
    stride, deviation = even_stride(total)
    assert pow(stride, -1, total) >= 0
    assert deviation <= 10 + 4 * total.bit_length()


def test_build_at_ten_thousand_backends_is_linear() -> None:
    """10,000 mixed weights never start a cycle of half a million picks."""
    policy = round_robin(sample([index % 100 + 1 for index in range(10_000)]))
    assert isinstance(policy, Stride)
    assert 0 <= policy.pick() < 10_000
