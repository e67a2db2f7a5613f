"""What the open loops share: when requests are due, waiting until then to the microsecond, percentiles.

Arrivals are a Poisson process of which the number is known (uniformly random moments), from one seed, so
that every candidate gets the same. Runs in the generators' own processes; knows no HTTP.
"""

from __future__ import annotations

import ctypes
import random
import select
from collections.abc import Sequence

SEED = 20
PR_SET_TIMERSLACK = 29
SLACK_NS = 1000
"""The default of 50 µs would be added to every sleep."""


def source() -> random.Random:
    """What is random in a run; the same for every candidate."""
    return random.Random(SEED)


def arrivals(numbers: random.Random, rate: float, seconds: float) -> list[float]:
    """When each request is due, in seconds from 0 on, in order."""
    return sorted(numbers.uniform(0, seconds) for _ in range(int(rate * seconds)))


def sleep_precisely() -> None:
    """For this process, from now on."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, SLACK_NS)


def wait(poller: select.epoll, seconds: float) -> list[tuple[int, int]]:
    """The events that there are after ``seconds`` at most."""
    # select keeps microseconds where epoll rounds up to a millisecond.
    select.select([poller.fileno()], [], [], max(0.0, seconds))
    return poller.poll(0)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in order; 0.0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
