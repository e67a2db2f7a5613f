"""What a policy is given and what it must answer.

A policy is built once for each snapshot of available backends and then only picks: numbers and
callables in, an index of the snapshot out. It never tests health, and it knows no sockets, no
clock, no HTTP and no names beyond the stable identities that consistent hashing needs. What it
reads of the live system comes through the callables of ``Inputs``, so a test replaces the whole
system with four lambdas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Inputs:
    """One snapshot of available backends, as policies see it; every tuple is in snapshot order.

    ``weights`` are at least 1 and there is at least one. ``ticket`` gives each number once over
    all workers. ``latency`` decays while a backend is idle (its reader knows the clock, a
    policy does not): without that a backend that was slow once would never be tried again by
    ``peak_ewma``.
    """

    weights: tuple[int, ...]
    names: tuple[str, ...]
    ticket: Callable[[], int]
    in_flight: Callable[[int], int]
    latency: Callable[[int], float]
    capacity: tuple[int, ...]
    random: Callable[[], float]


class Policy(Protocol):
    """Picks one of the snapshot's backends by index; ``key`` is what consistent hashing goes
    by."""

    def pick(self, key: bytes | None = None) -> int: ...


class KeyMissing(Exception):
    """There is nothing to hash and the configuration says to refuse such requests."""
