"""A worked example of a user's own policy, the one that docs/algorithms.md explains.

Night shift: while the pool is quiet only the first few backends are used, so the others can
sleep; above a limit everyone works and the least loaded of the shift gets the request.
"""

from __future__ import annotations

from app.policies import Inputs


class NightShift:
    """Keeps to the first backends until each of them holds ``limit`` requests."""

    def __init__(self, inputs: Inputs, limit: int = 10) -> None:
        self._in_flight = inputs.in_flight
        self._everyone = range(len(inputs.weights))
        self._limit = limit

    def pick(self, key: bytes | None = None) -> int:
        for index in self._everyone:
            if self._in_flight(index) < self._limit:
                return index
        return min(self._everyone, key=self._in_flight)
