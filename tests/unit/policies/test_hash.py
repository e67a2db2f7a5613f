from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.policies import KeyMissing, Policy, make
from app.policies.hash import COUNTS_READ, PROBES
from tests.unit.policies.samples import backend_name, keys, sample

KEYS = keys(1000)
pools = st.lists(st.integers(1, 20), min_size=2, max_size=15)


def hashed(weights: list[int], names: list[str], **options: object) -> Policy:
    return make("hash", options, sample(weights, names=names))


def mapping(weights: list[int], names: list[str]) -> list[str]:
    """The backend's name for each of KEYS."""
    policy = hashed(weights, names)
    return [names[policy.pick(key)] for key in KEYS]


def names_of(weights: list[int]) -> list[str]:
    return [backend_name(index) for index in range(len(weights))]


def test_the_mapping_is_pinned() -> None:
    """The same on every worker, machine and Python, and in every later version."""
    policy = hashed([1, 1, 1, 2, 5], [f"http://10.0.0.{number}:80" for number in range(1, 6)])
    assert "".join(str(policy.pick(key)) for key in keys(24)) == "444142242343301014240144"


@settings(max_examples=25, deadline=None)
@given(pools, st.randoms(use_true_random=False))
def test_only_the_keys_of_who_leaves_move(weights: list[int], random: object) -> None:
    """Every other key keeps its backend, whatever the weights and the order of the list."""
    names = names_of(weights)
    gone = random.randrange(len(weights))  # type: ignore[attr-defined]
    order = [index for index in range(len(weights)) if index != gone]
    random.shuffle(order)  # type: ignore[attr-defined]
    before = mapping(weights, names)
    after = mapping([weights[index] for index in order], [names[index] for index in order])
    for was, now in zip(before, after, strict=True):
        assert was in (now, names[gone])


@settings(max_examples=25, deadline=None)
@given(pools, st.integers(1, 20))
def test_keys_move_only_to_who_comes(weights: list[int], weight: int) -> None:
    """A newcomer takes its keys and shuffles no others."""
    names = names_of(weights)
    before = mapping(weights, names)
    after = mapping([*weights, weight], [*names, "http://new:80"])
    for was, now in zip(before, after, strict=True):
        assert now in (was, "http://new:80")


def test_about_one_nth_of_the_keys_move() -> None:
    """Of ten equal backends one leaves: a tenth of the keys, within three hundredths."""
    names = names_of([1] * 10)
    before, after = mapping([1] * 10, names), mapping([1] * 9, names[:9])
    moved = sum(was != now for was, now in zip(before, after, strict=True))
    assert abs(moved / len(KEYS) - 0.1) < 0.03


def test_more_weight_takes_keys_and_gives_none() -> None:
    """From 2 to 3: the others lose keys to it, and no key moves between them."""
    names = names_of([2, 2, 2])
    before, after = mapping([2, 2, 2], names), mapping([2, 2, 3], names)
    for was, now in zip(before, after, strict=True):
        assert now in (was, names[2])
    assert before != after


def test_history_does_not_matter() -> None:
    """A worker that has seen backends come and go maps as one that has just booted."""
    names = names_of([1] * 12)
    fresh = mapping([1] * 5, names[:5])
    mapping([1] * 12, names)
    mapping([1] * 8, names[:8])
    assert mapping([1] * 5, names[:5]) == fresh


@pytest.mark.parametrize("missing", [None, b""])
def test_a_missing_key_goes_where_configured(missing: bytes | None) -> None:
    """Round robin by default, random, or refused; an empty key is none."""
    inputs = sample([1] * 3)
    in_turn = make("hash", {}, inputs)
    assert [in_turn.pick(missing) for _ in range(4)] == [0, 1, 2, 0]
    drawn = make("hash", {"missing_key": "random"}, sample([1] * 3, draws=[0.9, 0.1]))
    assert [drawn.pick(missing), drawn.pick(missing)] == [2, 0]
    with pytest.raises(KeyMissing):
        make("hash", {"missing_key": "none"}, inputs).pick(missing)
    with pytest.raises(KeyMissing):
        make("hash", {"missing_key": "none", "balance_factor": 1.5}, inputs).pick(missing)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=COUNTS_READ),
    st.sampled_from([1.0, 1.25, 2.0]),
)
def test_bounded_load_holds_when_nobody_finishes(weights: list[int], factor: float) -> None:
    """No backend ever holds more than factor × its fair part, rounded up; one hot key or many."""
    load = [0] * len(weights)
    inputs = sample(weights, load=load.__getitem__)
    policy = make("hash", {"balance_factor": factor}, inputs)
    for number in range(120):
        index = policy.pick(b"hot" if number % 2 else b"%d" % number)
        load[index] += 1
        bound = ceil(Fraction(factor) * weights[index] * sum(load) / sum(weights))
        assert load[index] <= max(1, bound)


def test_bounded_load_changes_nothing_at_rest() -> None:
    """Nothing in flight: the mapping of plain hashing."""
    names = names_of([1] * 6)
    bounded = hashed([1] * 6, names, balance_factor=1.25)
    assert [names[bounded.pick(key)] for key in KEYS] == mapping([1] * 6, names)


def test_a_full_backend_overflows_to_the_same_other() -> None:
    """A hot key's second backend is stable too."""
    load = [0] * 6
    policy = make("hash", {"balance_factor": 1.25}, sample([1] * 6, load=load.__getitem__))
    home = policy.pick(b"hot")
    load[home] = 100
    others = {policy.pick(b"hot") for _ in range(50)}
    assert len(others) == 1
    assert home not in others


def test_counts_above_the_reading_bound_catch_up() -> None:
    """With more backends than are read in one pick, the sum is right after n / COUNTS_READ."""
    size = COUNTS_READ * 4
    load = [0] * size
    policy = make("hash", {"balance_factor": 1.25}, sample([1] * size, load=load.__getitem__))
    home = policy.pick(b"hot")
    load[:] = [10] * size
    picks = [policy.pick(b"hot") for _ in range(5)]
    assert picks[0] != home
    assert picks[-1] == home


@pytest.mark.parametrize(
    "weights", [[1] * 3, [1] * 10, [5, 1, 1], [1, 2, 3, 4], [100] * 5, [1, 10, 100]]
)
def test_shares_follow_the_weights(weights: list[int]) -> None:
    """20,000 keys: nobody is further than the method's unevenness from its share."""
    policy = hashed(weights, names_of(weights))
    counts = Counter(policy.pick(key) for key in keys(20_000))
    for index, weight in enumerate(weights):
        share = 20_000 * weight / sum(weights)
        assert abs(counts[index] - share) < share * (1 / PROBES) + 4 * share**0.5
