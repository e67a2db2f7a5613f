"""First: the earliest backend of the snapshot that has room, so that the last ones can be idle.

HAProxy's ``balance first``: backends are filled in configured order up to ``max_connections``,
for pools where each running backend costs money. 0 is no limit: that one takes everything.
Should all be full (a count has moved since the snapshot was made) the relatively least full one
is picked: refusing is not a policy's decision. Weights have no meaning here. Cost: O(full ones
before the one picked).
"""

from __future__ import annotations

from app.policies.protocol import Inputs


class First:
    """Fills backends in order."""

    __slots__ = ("_capacity", "_in_flight")

    def __init__(self, inputs: Inputs) -> None:
        self._capacity = inputs.capacity
        self._in_flight = inputs.in_flight

    def pick(self, key: bytes | None = None) -> int:
        for index, capacity in enumerate(self._capacity):
            if capacity == 0 or self._in_flight(index) < capacity:
                return index
        return min(range(len(self._capacity)), key=self._fullness)

    def _fullness(self, index: int) -> float:
        return self._in_flight(index) / self._capacity[index]
