"""Inputs for policies under test: everything live is a lambda, every draw has a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count

from app.policies import Inputs


def sample(
    weights: Sequence[int],
    *,
    names: Sequence[str] = (),
    load: Callable[[int], int] = lambda index: 0,
    latency: Callable[[int], float] = lambda index: 0.0,
    capacity: Sequence[int] = (),
    draws: Sequence[float] = (),
    seed: int = 1,
) -> Inputs:
    """Inputs for ``weights``; ``draws`` replaces the seeded random numbers by given ones."""
    size = len(weights)
    return Inputs(
        weights=tuple(weights),
        names=tuple(names) or tuple(backend_name(index) for index in range(size)),
        ticket=count().__next__,
        in_flight=load,
        latency=latency,
        capacity=tuple(capacity) or (0,) * size,
        random=iter(draws).__next__ if draws else random.Random(seed).random,
    )


def backend_name(index: int) -> str:
    return f"http://10.0.{index // 250}.{index % 250 + 1}:8001"


def keys(count: int) -> list[bytes]:
    return [b"client %d" % number for number in range(count)]
