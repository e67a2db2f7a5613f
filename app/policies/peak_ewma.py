"""Peak EWMA: of two backends drawn by weight, the one where a request should be done sooner.

Cost of a backend is latency × (in flight / weight + 1): Finagle's PeakEwma (twitter/finagle,
finagle-core loadbalancer/PeakEwma.scala) and tower's (tower-rs/tower, load/peak_ewma.rs), whose
latency is a moving average that jumps up with a slow answer and decays while nothing comes. That
average is kept by whoever sees the answers and knows the clock; here it is read. Both take the
cheaper of two random choices, as this does: O(1), and no herd on the one that looks fastest.
Weight divides only the requests in flight, not the latency: an idle heavy backend is no faster
than an idle light one, and the draw already prefers it.

A backend without samples (latency 0) is neither starved nor flooded. Idle it is picked at once:
one request is what it takes to learn. With requests in flight and still no answer it is taken to
be ``UNKNOWN_FACTOR`` times as slow as the other choice, so it holds about that fraction of the
other's requests until its first answer. (Finagle's fixed penalty of hours starves it behind one
hung request; taking it as 0 floods it.)
"""

from __future__ import annotations

from app.policies.protocol import Inputs
from app.policies.random_two import two_draws

# Twice: a cold backend gets up to half of what its peer holds. Slow starts of 2x are common, and
# more than half a share is not needed to get a first sample.
UNKNOWN_FACTOR = 2.0


class PeakEwma:
    """The cheaper of two different backends by latency × (in flight / weight + 1)."""

    __slots__ = ("_draw_two", "_in_flight", "_latency", "_weights")

    def __init__(self, inputs: Inputs) -> None:
        self._draw_two = two_draws(inputs.weights, inputs.random)
        self._in_flight = inputs.in_flight
        self._latency = inputs.latency
        self._weights = inputs.weights

    def pick(self, key: bytes | None = None) -> int:
        first, second = self._draw_two()
        latency, other = self._latency(first), self._latency(second)
        load = self._in_flight(first) / self._weights[first]
        if latency == 0.0 and load == 0.0:
            return first
        other_load = self._in_flight(second) / self._weights[second]
        if other == 0.0 and other_load == 0.0:
            return second
        if latency == 0.0 or other == 0.0:
            latency, other = _assumed(latency, other)
        return second if other * (other_load + 1.0) < latency * (load + 1.0) else first


def _assumed(latency: float, other: float) -> tuple[float, float]:
    """The latencies to compare two backends by when one or both have no sample yet."""
    if latency == other:
        return 1.0, 1.0
    return latency or UNKNOWN_FACTOR * other, other or UNKNOWN_FACTOR * latency
