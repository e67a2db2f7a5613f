"""A ring of points for consistent hashing whose rebuild after a change of health is cheap.

Every member stands at ``POINTS`` places of a circle, all derived from its name with blake2b, so
the ring is the same in every worker, on every machine and in every Python. A policy looks a
place up and walks clockwise to the next point of a backend that is available.

Hashing and sorting is what costs, so rings are kept and shared: one that holds more members than
are available serves as well, since walking past the points of the others finds exactly the point
that a ring of the available alone would give. A change of health therefore costs a look-up of
each name; a new name costs one merge. Pure but for that memory, which changes cost and never an
answer. Points are immutable once shared: a policy in use keeps its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

# Points × probes against evenness, see hash.py; 32 points of 10,000 members are some 17 MiB a layer.
POINTS = 32
# A point is one integer, place above and member below: sorted and bisected at the speed of C.
# 2^20 members; 44 bits of place make two equal places among 320,000 points a 0.3 % chance.
MEMBER_BITS = 20
MEMBER_MASK = (1 << MEMBER_BITS) - 1
PLACE_BITS = 64 - MEMBER_BITS
CIRCLE = 1 << PLACE_BITS
# One pool with weights up to 255 needs 8 layers; more pools than memory only cost rebuilding.
RINGS_KEPT = 16

_EIGHT = Struct(">8Q")


class Ring:
    """The points of some members in one layer; ``numbers`` gives each member's number."""

    __slots__ = ("layer", "numbers", "points")

    def __init__(self, layer: int, numbers: dict[str, int], points: list[int]) -> None:
        self.layer = layer
        self.numbers = numbers
        self.points = points

    def __repr__(self) -> str:
        return f"<Ring layer {self.layer}: {len(self.numbers)} members>"

    def grown(self, names: Sequence[str]) -> Ring:
        """A ring that also holds ``names``; sorting two sorted runs is a merge."""
        numbers = dict(self.numbers)
        fresh: list[int] = []
        for name in names:
            if name not in numbers:
                number = numbers[name] = len(numbers)
                fresh += [place << MEMBER_BITS | number for place in places(name, self.layer)]
        fresh.sort()
        return Ring(self.layer, numbers, _laid_out(sorted(self.points + fresh)))


class Rings:
    """The rings made so far, most recently used last."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[Ring] = []

    def holding(self, layer: int, names: Sequence[str]) -> Ring:
        """A ring of ``layer`` with all ``names``, and at most as many others again."""
        wanted = set(names)
        for ring in reversed(self._kept):
            if ring.layer != layer or len(ring.numbers) > 2 * len(wanted):
                continue
            missing = len(wanted - ring.numbers.keys())
            if missing == 0:
                return self._keep(ring, ring)
            # Another pool's ring is not grown into, and at least half of a ring is in use: walks
            # past the absent are short.
            if 2 * missing <= len(wanted) and len(ring.numbers) + missing <= 2 * len(wanted):
                return self._keep(ring, ring.grown(names))
        return self._keep(None, Ring(layer, {}, []).grown(names))

    def _keep(self, old: Ring | None, ring: Ring) -> Ring:
        if old is not None:
            self._kept.remove(old)
        self._kept.append(ring)
        del self._kept[:-RINGS_KEPT]
        return ring


def places(name: str, layer: int) -> list[int]:
    """The places of ``name`` on the circle of ``layer``."""
    found: list[int] = []
    data = name.encode("utf-8", "surrogateescape")
    for part in range(POINTS // 8):
        digest = blake2b(data, digest_size=64, salt=bytes((layer, part)), person=b"ring")
        found += [place >> MEMBER_BITS for place in _EIGHT.unpack(digest.digest())]
    return found


def _laid_out(points: list[int]) -> list[int]:
    """The same numbers as new objects, next to each other in memory in their order.

    Sorting leaves them where hashing made them, and a bisection then misses the cache at every
    step. (Kept in the array they are a fifth of the size, but every step makes an object: a third
    slower for ten backends.)
    """
    return array("Q", points).tolist()
