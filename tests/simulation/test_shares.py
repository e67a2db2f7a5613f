"""100,000 picks of every policy against the shares its definition promises; fixed seeds.

The bound for random ones is five standard deviations of a binomial share: with the seeds fixed a
failure is a change of behaviour, and one backend off by 2 % of its share at weight 1 in 10 fails.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest

from app.policies import Guard, Inputs, make
from tests.simulation.pool import repaired, simulate

PICKS = 100_000
DEVIATIONS = 5
POOLS = {
    "equal": [1] * 10,
    "nginx": [5, 1, 1],
    "mixed": [1, 2, 3, 4, 10],
    "hundred": [index % 7 + 1 for index in range(100)],
}
pools = pytest.mark.parametrize("weights", POOLS.values(), ids=POOLS.keys())


def at_rest(weights: Sequence[int], seed: int = 7) -> Inputs:
    """Nothing in flight, no samples: what is left is the policy's own shares."""
    return Inputs(
        weights=tuple(weights),
        names=tuple(f"http://10.0.0.{index}:80" for index in range(len(weights))),
        ticket=count(12_345).__next__,
        in_flight=lambda index: 0,
        latency=lambda index: 0.0,
        capacity=(0,) * len(weights),
        random=random.Random(seed).random,
    )


def within(counts: Counter[int], weights: Sequence[int], deviations: float) -> None:
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = (PICKS * share * (1 - share)) ** 0.5
        assert abs(counts[index] - PICKS * share) <= deviations * deviation, (index, counts)


@pools
@pytest.mark.parametrize("name", ["round_robin", "least_connections"])
def test_exact_policies_are_exact(name: str, weights: list[int]) -> None:
    """At rest no backend is a whole cycle's remainder away from its share."""
    policy = make(name, {}, at_rest(weights))
    whole = PICKS - PICKS % sum(weights)
    counts = Counter(policy.pick() for _ in range(whole))
    turns = whole // sum(weights)
    assert [counts[index] for index in range(len(weights))] == [w * turns for w in weights]


@pools
@pytest.mark.parametrize("name", ["random", "random_two", "peak_ewma"])
def test_random_policies_keep_their_shares_at_rest(name: str, weights: list[int]) -> None:
    """Drawn by weight; the second choice changes nothing while all is idle."""
    policy = make(name, {}, at_rest(weights))
    within(Counter(policy.pick() for _ in range(PICKS)), weights, DEVIATIONS)


@pytest.mark.parametrize("weights", [POOLS["equal"], POOLS["nginx"]], ids=["equal", "nginx"])
def test_hash_shares_by_weight(weights: list[int]) -> None:
    """100,000 keys: within the method's own unevenness (hash.py) plus that of the sample."""
    policy = make("hash", {}, at_rest(weights))
    counts = Counter(policy.pick(b"%d" % number) for number in range(PICKS))
    for index, weight in enumerate(weights):
        share = PICKS * weight / sum(weights)
        assert abs(counts[index] - share) <= 0.2 * share + DEVIATIONS * share**0.5


@pools
def test_a_users_class_that_fails_is_exact_round_robin(weights: list[int]) -> None:
    """Every second pick raises: those are round robin's, in its order, whatever the others are."""

    class Unsteady:
        def __init__(self, inputs: Inputs) -> None:
            self.turns = count()

        def pick(self, key: bytes | None = None) -> int:
            if next(self.turns) % 2:
                raise RuntimeError("spoiled")
            return 0

    reports: list[str] = []
    guard = Guard(Unsteady, {}, lambda: 0.0, lambda reason, _: reports.append(reason))
    policy = guard.build(at_rest(weights))
    whole = PICKS - PICKS % sum(weights)
    picks = [policy.pick() for _ in range(2 * whole)]
    counts = Counter(picks[1::2])
    turns = whole // sum(weights)
    assert [counts[index] for index in range(len(weights))] == [w * turns for w in weights]
    assert set(picks[::2]) == {0}
    assert guard.failures == {"raised": whole}
    assert reports == ["raised"]


def test_hash_without_keys_is_the_fallback() -> None:
    """All keys missing: exact round robin."""
    policy = make("hash", {}, at_rest([5, 1, 1]))
    counts = Counter(policy.pick() for _ in range(7 * 1000))
    assert counts == {0: 5000, 1: 1000, 2: 1000}


def test_first_fills_in_order() -> None:
    """12 at a time with capacity 10, 10, 10: the third never works."""
    counts = simulate("first", [1, 1, 1], concurrency=12, capacity=[10, 10, 10], picks=PICKS)
    assert counts.requests[2] == 0
    assert counts.requests[0] > 4 * counts.requests[1]


@pytest.mark.parametrize("name", ["least_connections", "random_two", "peak_ewma"])
def test_load_policies_share_by_weight_under_load(name: str) -> None:
    """64 requests in flight at backends alike but for weight: within 15 % of the weights."""
    weights = [1, 2, 3, 4]
    run = simulate(name, weights, concurrency=64, picks=PICKS)
    for index, weight in enumerate(weights):
        share = PICKS * weight / sum(weights)
        assert abs(run.requests[index] - share) < 0.15 * share, (index, run.requests)


@pytest.mark.parametrize(
    ("name", "most"),
    [("least_connections", 0.05), ("random_two", 0.05), ("peak_ewma", 0.02)],
)
def test_a_backend_50_times_slower_gets_few(name: str, most: float) -> None:
    """Of four, at 32 in flight: a share of the requests far below round robin's quarter."""
    run = simulate(name, [1] * 4, concurrency=32, service=[0.5, 0.01, 0.01, 0.01], picks=20_000)
    share = run.requests[0] / sum(run.requests.values())
    assert share < most, share


@pytest.mark.parametrize("rate", [40, 400])
@pytest.mark.parametrize("seed", range(5))
def test_a_backend_that_was_slow_has_its_share_back_soon(rate: float, seed: int) -> None:
    """50 times slower for 15 s it gets next to nothing; repaired, a quarter again well before 40 s."""
    shares = [second[0] for second in repaired(rate=rate, slow=50, until=15, after=25, seed=seed)]
    assert sum(shares[2:15]) / 13 < 0.02
    assert sum(shares[25:]) / 15 == pytest.approx(0.25, abs=0.05)


def test_two_choices_shorten_the_longest_queue() -> None:
    """Mitzenmacher's result: 200 backends, 400 in flight, far below one choice's longest."""
    one = simulate("random", [1] * 200, concurrency=400, picks=20_000)
    two = simulate("random_two", [1] * 200, concurrency=400, picks=20_000)
    assert two.longest <= one.longest / 2


def test_a_newcomer_is_neither_starved_nor_flooded() -> None:
    """peak_ewma: one that never answers gets some of 40 at once, and less than its quarter."""
    run = simulate(
        "peak_ewma",
        [1] * 4,
        concurrency=40,
        service=[9e9, 0.01, 0.01, 0.01],
        known=[0.0, 0.01, 0.01, 0.01],
        picks=5_000,
    )
    assert 1 <= run.requests[0] <= 9, run.requests


def test_bounded_hash_spreads_a_hot_key() -> None:
    """One key only: nobody holds more than 1.25 of the average, rounded up."""
    run = simulate(
        "hash", [1] * 8, concurrency=64, options={"balance_factor": 1.25}, key=b"hot", picks=20_000
    )
    assert run.longest <= 10
    plain = simulate("hash", [1] * 8, concurrency=64, key=b"hot", picks=2_000)
    assert plain.longest == 64
