"""Consistent hashing: the same key goes to the same backend while that one is available.

Multi-probe consistent hashing (B. Appleton and M. O'Reilly, "Multi-probe consistent hashing",
arXiv:1505.00062, 2015): a key is hashed to ``PROBES`` places of a ring and belongs to the point
that is the shortest way ahead of any of them. When a backend leaves, only its own keys move: the
others' shortest way is still there. When one comes, keys move only to it. No table, so no size
that a pool can outgrow. Rejected: Maglev (NSDI'16), which moves keys of backends that stayed and
whose table of 100 entries a backend takes seconds to fill in Python at 10,000; rendezvous
(Thaler and Ravishankar 1998, weighted: Schindelhauer and Schomaker 2005), exact, but 3 ms a pick
there; a plain ring with 160 points (ketama), five times the points for half the evenness.

Weights: a backend is in layer b of rings if bit b of its weight is set, and ways in layer b count
1/2^b of their length: twice as short is twice as likely to be the shortest. Weights are taken as
they are, not reduced, because what others weigh must not move a key. A pick costs ``PROBES``
look-ups a layer: weights that are all 1, 2 or 4 are cheapest.

Evenness: 8 probes bound the expected share of any backend at 1 + 1/8 of the fair one, 32 points
leave a standard deviation of some 4 % (ketama: 8 %); docs/algorithms.md has the measurement.

``balance_factor``: bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing
with Bounded Loads", SODA 2018; HAProxy ``hash-balance-factor``): no backend holds more requests
than that factor times its fair part of all in flight, rounded up; a key whose backend is full
goes to its next nearest. A pick reads the counts of only the next ``COUNTS_READ`` backends, in
turn, so the sum of all is exact up to that many backends and lags a little behind above.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import chain
from struct import Struct

from app.policies.protocol import Inputs, KeyMissing, Policy
from app.policies.random import Random
from app.policies.ring import CIRCLE, MEMBER_BITS, MEMBER_MASK, PLACE_BITS, Rings
from app.policies.round_robin import round_robin

PROBES = 8
COUNTS_READ = 16

_PROBE_PLACES = Struct(f">{PROBES}Q")
_rings = Rings()


def hash_policy(inputs: Inputs, missing_key: str, balance_factor: float) -> Policy:
    """Consistent hashing; ``missing_key`` is round_robin, random or none (raise KeyMissing)."""
    fallback = _FALLBACKS[missing_key](inputs).pick
    layers = _layers(inputs.weights, inputs.names)
    if balance_factor:
        return BoundedHash(inputs, layers, fallback, balance_factor)
    return Hash(layers, fallback)


class Layer:
    """One ring of points, and which of its members are available, by their index in the snapshot."""

    __slots__ = ("factor", "indexes", "points")

    def __init__(self, factor: int, points: list[int], indexes: list[int]) -> None:
        self.factor = factor
        self.points = points
        self.indexes = indexes

    def ways(self, places: tuple[int, ...]) -> list[tuple[int, int]]:
        """For each place: how far ahead the first available point is, weighted, and whose."""
        points, indexes, factor = self.points, self.indexes, self.factor
        count = len(points)
        found = []
        for place in places:
            at = bisect_left(points, place << MEMBER_BITS)
            if at == count:
                at = 0
            index = indexes[points[at] & MEMBER_MASK]
            while index < 0:
                at += 1
                if at == count:
                    at = 0
                index = indexes[points[at] & MEMBER_MASK]
            found.append((((points[at] >> MEMBER_BITS) - place) % CIRCLE * factor, index))
        return found


class Hash:
    """Sends each key to the backend whose point is nearest to any of the key's probes."""

    __slots__ = ("_fallback", "_layers")

    def __init__(self, layers: tuple[Layer, ...], fallback: Callable[[], int]) -> None:
        self._layers = layers
        self._fallback = fallback

    def pick(self, key: bytes | None = None) -> int:
        if not key:
            return self._fallback()
        places = probes(key)
        return min([min(layer.ways(places)) for layer in self._layers])[1]


class BoundedHash:
    """As ``Hash``, but a backend that holds more than its bound is passed over."""

    __slots__ = (
        "_all_weights",
        "_counts",
        "_factor",
        "_fallback",
        "_in_flight",
        "_layers",
        "_next",
        "_total",
        "_weights",
    )

    def __init__(
        self,
        inputs: Inputs,
        layers: tuple[Layer, ...],
        fallback: Callable[[], int],
        balance_factor: float,
    ) -> None:
        self._layers = layers
        self._fallback = fallback
        self._weights = inputs.weights
        self._in_flight = inputs.in_flight
        self._all_weights = sum(inputs.weights)
        self._factor = balance_factor
        self._counts = list(map(inputs.in_flight, range(len(inputs.weights))))
        self._total = sum(self._counts)
        self._next = 0

    def pick(self, key: bytes | None = None) -> int:
        if not key:
            return self._fallback()
        nearest = self._by_nearness(probes(key))
        index = next(nearest)
        # One request is within any bound.
        if self._in_flight(index) == 0:
            return index
        self._read_counts()
        for candidate in chain((index,), nearest):
            if self._has_room(candidate):
                return candidate
        # All that the key meets are full: rare with 8 probes, so this may cost O(n).
        return min(range(len(self._weights)), key=self._load)

    def _by_nearness(self, places: tuple[int, ...]) -> Iterator[int]:
        """The backends that the key's probes meet, nearest first, with repeats."""
        ways = sorted(chain.from_iterable(layer.ways(places) for layer in self._layers))
        return (index for _, index in ways)

    def _has_room(self, index: int) -> bool:
        # load + 1 <= ceil(bound) is load < bound; times all weights, it does not round at 1.25.
        share = self._factor * self._weights[index] * (self._total + 1)
        return self._in_flight(index) * self._all_weights < share

    def _load(self, index: int) -> float:
        return self._in_flight(index) / self._weights[index]

    def _read_counts(self) -> None:
        """Bring the next few counts, and with them the sum, up to date."""
        counts, at = self._counts, self._next
        for _ in range(min(COUNTS_READ, len(counts))):
            count = self._in_flight(at)
            self._total += count - counts[at]
            counts[at] = count
            at = at + 1 if at + 1 < len(counts) else 0
        self._next = at


class _Refuse:
    """In the place of a fallback: raises KeyMissing, where a request without a key is to be refused."""

    __slots__ = ()

    def __init__(self, inputs: Inputs) -> None:
        pass

    def pick(self, key: bytes | None = None) -> int:
        raise KeyMissing("no key to hash")


_FALLBACKS: dict[str, Callable[[Inputs], Policy]] = {
    "round_robin": round_robin,
    "random": Random,
    "none": _Refuse,
}


def probes(key: bytes) -> tuple[int, ...]:
    """The places of ``key``, the same for every layer: points differ from layer to layer."""
    digest = blake2b(key, digest_size=8 * PROBES, person=b"probe").digest()
    return tuple([place >> (64 - PLACE_BITS) for place in _PROBE_PLACES.unpack(digest)])


def _layers(weights: tuple[int, ...], names: tuple[str, ...]) -> tuple[Layer, ...]:
    present = 0
    for weight in set(weights):
        present |= weight
    top = present.bit_length() - 1
    bits = [bit for bit in range(top + 1) if present >> bit & 1]
    return tuple(_layer(bit, top, weights, names) for bit in bits)


def _layer(bit: int, top: int, weights: tuple[int, ...], names: tuple[str, ...]) -> Layer:
    members = {name: at for at, name in enumerate(names) if weights[at] >> bit & 1}
    ring = _rings.holding(bit, tuple(members))
    indexes = [-1] * len(ring.numbers)
    for name, index in members.items():
        indexes[ring.numbers[name]] = index
    # A way of layer b is divided by 2^b; times 2^top keeps it whole and compares the same.
    return Layer(1 << (top - bit), ring.points, indexes)
