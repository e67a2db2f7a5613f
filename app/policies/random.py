"""Weighted random: backend i with probability weight i / sum of weights, each request on its own.

Drawn by the alias method (A. J. Walker, "An Efficient Method for Generating Discrete Random
Variables with General Distributions", ACM TOMS 3, 1977, in Vose's O(n) construction, 1991): one
random number, one comparison and one look-up, whatever n is. The construction is done in whole
numbers, so no backend gains or loses by rounding. Pure: randomness is passed in.
"""

from __future__ import annotations

from collections.abc import Callable

from app.policies.protocol import Inputs


class Random:
    """Every pick is an independent draw by weight."""

    __slots__ = ("_draw",)

    def __init__(self, inputs: Inputs) -> None:
        self._draw = weighted_draw(inputs.weights, inputs.random)

    def pick(self, key: bytes | None = None) -> int:
        return self._draw()


def weighted_draw(weights: tuple[int, ...], random: Callable[[], float]) -> Callable[[], int]:
    """A function that draws an index with probability in proportion to its weight, in O(1)."""
    count = len(weights)
    if weights.count(weights[0]) == count:
        return lambda: int(random() * count)
    keep, alias = alias_table(weights)

    def draw() -> int:
        place = random() * count
        index = int(place)
        return index if place - index < keep[index] else alias[index]

    return draw


def alias_table(weights: tuple[int, ...]) -> tuple[list[float], list[int]]:
    """Vose's tables: column i keeps i with probability keep[i] and else gives alias[i]."""
    count, total = len(weights), sum(weights)
    rest = [weight * count for weight in weights]
    small = [index for index, height in enumerate(rest) if height < total]
    large = [index for index, height in enumerate(rest) if height >= total]
    keep = [1.0] * count
    alias = list(range(count))
    while small:
        low, high = small.pop(), large[-1]
        keep[low] = rest[low] / total
        alias[low] = high
        rest[high] -= total - rest[low]
        if rest[high] < total:
            small.append(large.pop())
    return keep, alias
