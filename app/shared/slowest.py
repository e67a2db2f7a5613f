"""The slowest of late: the largest of some durations, where an older one counts for less as time goes by.

What is usual for a server is told by it: a maximum, since what happens now and then must not surprise, and
one that is forgotten, since servers change. Pure: times come in, of one clock that the owner chooses.
"""

from __future__ import annotations

from math import exp


class Slowest:
    """One such duration; of an older one a third counts after ``forget`` units of the clock."""

    __slots__ = ("_at", "_forget", "_value")

    def __init__(self, forget: float) -> None:
        self._forget = forget
        self._value = 0.0
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Slowest {self._value:g} as of {self._at:g}>"

    def observe(self, value: float, now: float) -> float:
        """Take one into account; the slowest as of now."""
        self._value, self._at = max(value, self.as_of(now)), now
        return self._value

    def as_of(self, now: float) -> float:
        """What of it counts now; 0 before the first."""
        return self._value * exp((self._at - now) / self._forget)
