from __future__ import annotations

from app.policies.first import First
from tests.unit.policies.samples import sample


def test_the_first_takes_all_up_to_its_capacity() -> None:
    """Backends are filled in order, each up to max_connections."""
    load = [0, 0, 0]
    policy = First(sample([1] * 3, load=load.__getitem__, capacity=[2, 1, 3]))
    picked = []
    for _ in range(6):
        index = policy.pick()
        load[index] += 1
        picked.append(index)
    assert picked == [0, 0, 1, 2, 2, 2]


def test_no_limit_takes_everything() -> None:
    """Capacity 0 is none."""
    policy = First(sample([1] * 2, load=lambda index: 10_000, capacity=[0, 5]))
    assert policy.pick() == 0


def test_a_place_that_comes_free_is_used_again() -> None:
    """The order, not the history, decides."""
    load = [1, 1]
    policy = First(sample([1] * 2, load=load.__getitem__, capacity=[1, 9]))
    assert policy.pick() == 1
    load[0] = 0
    assert policy.pick() == 0


def test_all_full_goes_to_the_relatively_least_full() -> None:
    """A policy never refuses: 11 of 10 is less than 3 of 2."""
    policy = First(sample([1] * 2, load=[3, 11].__getitem__, capacity=[2, 10]))
    assert policy.pick() == 1
