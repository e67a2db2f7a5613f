"""Round robin: each backend in turn, in proportion to its weight, over all workers together.

Equal weights: ticket modulo n. Unequal weights: nginx's smooth weighted round robin (nginx
commit 52327e062, "Upstream: smooth weighted round-robin balancing"): at each pick every
backend's current value rises by its weight, the largest is picked (the first of equals) and
falls by the sum of all weights. Weights 5, 1, 1 give a a b a c a a. The order repeats after
sum(weights)/gcd picks, so it is computed once for each distinct tuple of weights and a pick is
an index into it: exact over any number of workers, because tickets are.

Where that cycle would be too long to keep or to compute (``STEPS_MAX``) the same
proportions come from a walk over the weights laid end to end, by a stride near the golden
section: still exact over every sum(weights)/gcd picks in a row, O(n) to build, and at no point
further from the exact share than ``Stride.deviation`` requests (stated there, tested). Nothing
is rounded and no weight is scaled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from math import gcd

from app.policies.protocol import Inputs, Policy

# Picks times distinct weights, at most 0.15 µs each: the longest build takes 20 ms, once. Unequal
# weights are two at least, so this also bounds a cycle to 65,536 indexes, 512 KiB.
STEPS_MAX = 131_072
# A flapping backend alternates between two tuples of weights; 8 cycles are at most 4 MiB.
CYCLES_KEPT = 8
# 1/golden ratio: the stride whose multiples spread most evenly (its continued fraction is all
# ones).
GOLDEN_SECTION = 0.6180339887498949
STRIDES_TRIED = 64


class RoundRobin:
    """Equal weights: the next ticket modulo n."""

    __slots__ = ("_count", "_ticket")

    def __init__(self, inputs: Inputs) -> None:
        self._ticket = inputs.ticket
        self._count = len(inputs.weights)

    def pick(self, key: bytes | None = None) -> int:
        return self._ticket() % self._count


class Cycle:
    """Unequal weights: the next ticket's place in the precomputed smooth cycle."""

    __slots__ = ("_cycle", "_length", "_ticket")

    def __init__(self, ticket: Callable[[], int], cycle: tuple[int, ...]) -> None:
        self._ticket = ticket
        self._cycle = cycle
        self._length = len(cycle)

    def pick(self, key: bytes | None = None) -> int:
        return self._cycle[self._ticket() % self._length]


class Stride:
    """Unequal weights with a long cycle: tickets walk over the weights laid end to end.

    Ticket t stands on ``t * stride mod total``; the backend whose stretch that is gets the
    request. The stride has no factor in common with the total, so any ``total`` tickets in a
    row stand on every place exactly once. Between, no run of requests is further from a
    backend's exact share than ``deviation``: the sum of (quotient + 1) over the continued
    fraction of stride/total (Kuipers and Niederreiter, Uniform Distribution of Sequences, ch. 2,
    in the proof of theorem 3.4). It grows with the logarithm of the total; what is measured is
    about a tenth of it.
    """

    __slots__ = ("_ends", "_stride", "_ticket", "_total", "deviation")

    def __init__(self, ticket: Callable[[], int], weights: tuple[int, ...]) -> None:
        self._ticket = ticket
        self._ends = tuple(accumulate(weights))
        self._total = self._ends[-1]
        self._stride, self.deviation = even_stride(self._total)

    def pick(self, key: bytes | None = None) -> int:
        return bisect_right(self._ends, self._ticket() * self._stride % self._total)


def round_robin(inputs: Inputs) -> Policy:
    """The cheapest of the three forms that gives these weights their exact shares."""
    weights = inputs.weights
    if weights.count(weights[0]) == len(weights):
        return RoundRobin(inputs)
    divisor = gcd(*weights)
    if divisor > 1:
        weights = tuple(weight // divisor for weight in weights)
    total = sum(weights)
    if total * len(set(weights)) > STEPS_MAX:
        return Stride(inputs.ticket, weights)
    return Cycle(inputs.ticket, smooth_cycle(weights))


@lru_cache(maxsize=CYCLES_KEPT)
def smooth_cycle(weights: tuple[int, ...]) -> tuple[int, ...]:
    """nginx's order of picks for ``weights``, as indexes, in O(total × distinct weights) rather
    than × n.

    After t picks, c of them its own, a backend's current value is t × weight - c × total.
    Backends of one weight rise together, so among them the fewest picks win and, between
    equals, the first: they take turns, and only the one whose turn it is has to be compared
    with the other weights.
    """
    total = sum(weights)
    members: dict[int, list[int]] = {}
    for index, weight in enumerate(weights):
        members.setdefault(weight, []).append(index)
    classes = [_Class(weight, indexes) for weight, indexes in members.items()]
    picked = []
    for _ in range(total):
        best = classes[0]
        for one in classes:
            one.current += one.weight
            if one.current > best.current or (
                one.current == best.current and one.front < best.front
            ):
                best = one
        picked.append(best.front)
        best.take(total)
    return tuple(picked)


class _Class:
    """The backends of one weight; ``front`` is the one whose turn it is, ``current`` its
    current value."""

    __slots__ = ("current", "front", "members", "turn", "weight")

    def __init__(self, weight: int, members: list[int]) -> None:
        self.weight = weight
        self.members = members
        self.turn = 0
        self.front = members[0]
        self.current = 0

    def take(self, total: int) -> None:
        """The front was picked: the next one has its turn; after the last, all are down by one
        total."""
        self.turn += 1
        if self.turn == len(self.members):
            self.turn = 0
            self.current -= total
        self.front = self.members[self.turn]


@lru_cache(maxsize=CYCLES_KEPT)
def even_stride(total: int) -> tuple[int, int]:
    """The stride near the golden section of ``total`` that spreads best, and its deviation."""
    middle = int(total * GOLDEN_SECTION)
    nearby = range(max(1, middle - STRIDES_TRIED // 2), middle + STRIDES_TRIED // 2)
    coprime = [stride for stride in nearby if gcd(stride, total) == 1]
    return min(
        ((stride, _deviation(stride, total)) for stride in coprime), key=lambda pair: pair[1]
    )


def _deviation(stride: int, total: int) -> int:
    """The sum of (quotient + 1) over the continued fraction of stride/total."""
    deviation = 0
    while stride:
        deviation += total // stride + 1
        total, stride = stride, total % stride
    return deviation
