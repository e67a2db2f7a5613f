"""How long a backend takes to answer, as one number: a moving average that believes bad news at once.

The peak-sensitive average of Finagle (twitter/finagle, finagle-core loadbalancer/PeakEwma.scala): a sample
above it replaces it, one below moves it in proportion to the time since the last one, and while none comes
it decays towards 0, so that a backend that was slow once is tried again. Each worker keeps its own: samples
are plentiful, the requests in flight that the average is multiplied with are counted over all workers, and
a cell written for each answer would cost more than it tells. Pure: ``now`` is a parameter.
"""

from __future__ import annotations

from math import exp

# Finagle's default. After a peak of 50 times the usual latency a backend is tried again in 40 s.
DECAY_SECONDS = 10.0


class Latency:
    """Peak-sensitive moving average in seconds; 0.0 before the first sample."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Latency {self._value * 1000:.3f} ms at {self._at:.1f}>"

    def observe(self, seconds: float, now: float) -> None:
        """Take one answer into account."""
        if seconds > self.read(now) or not self._value:
            self._value = seconds
        else:
            kept = exp((self._at - now) / DECAY_SECONDS)
            self._value = self._value * kept + seconds * (1.0 - kept)
        self._at = now

    def read(self, now: float) -> float:
        """The average as of now."""
        return self._value * exp((self._at - now) / DECAY_SECONDS)
