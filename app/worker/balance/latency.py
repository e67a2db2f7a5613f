"""How long a backend takes to answer, as one number that believes bad news at once and forgets them soon.

The peak-sensitive average of Finagle (twitter/finagle, finagle-core loadbalancer/PeakEwma.scala): a sample
above it replaces it, one below moves it in proportion to the time since the last one. Finagle's decays with
one constant of 10 s, and a backend that was 50 times slower is then tried again after 40 s; here it is
forgotten in FORGET_SECONDS whether samples come or not, so that a slow backend costs one slow request in
some seven seconds, and one that is repaired has its share back about as soon. Each worker keeps its own:
samples are plentiful, the requests in flight that it is multiplied with are counted over all workers, and a
cell written for each answer would cost more than it tells. Pure: ``now`` is a parameter.
"""

from __future__ import annotations

from math import exp

# Finagle's default: what a sample weighs against those before it.
DECAY_SECONDS = 10.0
# To a third in this time. At 1 s slow backends are asked twice as often, at 3 s repaired ones wait 9 s.
FORGET_SECONDS = 2.0


class Latency:
    """Peak-sensitive moving average in seconds; 0.0 before the first sample."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Latency {self._value * 1000:.3f} ms at {self._at:.1f}>"

    def observe(self, seconds: float, now: float) -> None:
        """Take into account that an answer took so many seconds."""
        value = self.read(now)
        if seconds > value:
            self._value = seconds
        else:
            kept = exp((self._at - now) / DECAY_SECONDS)
            self._value = value * kept + seconds * (1.0 - kept)
        self._at = now

    def read(self, now: float) -> float:
        """The average in seconds as it stands at ``now``."""
        return self._value * exp((self._at - now) / FORGET_SECONDS)

    def forget(self) -> None:
        """Begin anew: the backend was out of service, and what comes back is not what went."""
        self._value = 0.0
