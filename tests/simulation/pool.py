"""A pool in simulated time: a fixed number of requests in flight, exponential service times."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from app.policies import Inputs, make
from app.worker.balance.latency import Latency

# Weight of one sample in the moving average.
SAMPLE_SHARE = 0.1


@dataclass
class Run:
    """What happened: requests for each backend, and the most in flight at one."""

    requests: Counter[int] = field(default_factory=Counter)
    longest: int = 0


def simulate(
    name: str,
    weights: Sequence[int],
    *,
    concurrency: int,
    picks: int,
    service: Sequence[float] = (),
    known: Sequence[float] = (),
    capacity: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    seed: int = 11,
) -> Run:
    """Closed loop: whenever a request ends the next is picked, ``picks`` times in all.

    ``service`` is each backend's mean time, ``known`` the latency that has been learnt before.
    """
    size = len(weights)
    means = tuple(service) or (0.01,) * size
    draws = random.Random(seed)
    load = [0] * size
    latency = list(known) or [0.0] * size
    inputs = Inputs(
        weights=tuple(weights),
        names=tuple(f"http://10.0.0.{index}:80" for index in range(size)),
        ticket=count().__next__,
        in_flight=load.__getitem__,
        latency=latency.__getitem__,
        capacity=tuple(capacity) or (0,) * size,
        random=random.Random(seed + 1).random,
    )
    policy = make(name, options or {}, inputs)
    run = Run()
    ends: list[tuple[float, int, float]] = []
    now = 0.0
    for _ in range(picks):
        if len(ends) >= concurrency:
            now, index, took = heapq.heappop(ends)
            load[index] -= 1
            latency[index] += SAMPLE_SHARE * (took - latency[index]) if latency[index] else took
        index = policy.pick(key)
        load[index] += 1
        run.requests[index] += 1
        run.longest = max(run.longest, load[index])
        took = draws.expovariate(1 / means[index])
        heapq.heappush(ends, (now + took, index, took))
    return run


def repaired(
    *, rate: float, slow: float, until: float, after: float, seed: int = 3
) -> list[list[float]]:
    """Shares of four backends second by second under ``peak_ewma`` and an open load.

    The first is ``slow`` times slower ``until`` that second, then as the others; their samples go through
    the worker's own average.
    """
    draws = random.Random(seed)
    averages = [Latency() for _ in range(4)]
    load = [0] * 4
    now = 0.0
    inputs = Inputs(
        weights=(1,) * 4,
        names=("a", "b", "c", "d"),
        ticket=count().__next__,
        in_flight=load.__getitem__,
        latency=lambda index: averages[index].read(now),
        capacity=(0,) * 4,
        random=random.Random(seed + 1).random,
    )
    policy = make("peak_ewma", {}, inputs)
    ends: list[tuple[float, int, float]] = []
    counts = [[0] * 4 for _ in range(int(until + after))]
    while (now := now + draws.expovariate(rate)) < len(counts):
        at = now
        while ends and ends[0][0] <= at:
            now, index, took = heapq.heappop(ends)
            load[index] -= 1
            averages[index].observe(took, now)
        now = at
        index = policy.pick()
        load[index] += 1
        counts[int(now)][index] += 1
        factor = slow if index == 0 and now < until else 1.0
        took = 0.0045 * factor * draws.uniform(0.9, 1.5)
        heapq.heappush(ends, (now + took, index, took))
    return [[number / max(1, sum(second)) for number in second] for second in counts]
