"""Power of two choices: two backends drawn by weight, the less loaded of the two is picked.

M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001:
the longest queue is exponentially shorter than with one random choice, at O(1) where the least
loaded of all costs O(n), and without the herd that all run to the one idle backend that several
balancers see at once. Load is requests in flight over all workers divided by weight, as in
least_connections and in nginx's ``random two least_conn``. The first draw wins a tie, so a pool
at rest gets exactly the shares of ``random``.
"""

from __future__ import annotations

from collections.abc import Callable

from app.policies.protocol import Inputs
from app.policies.random import weighted_draw


class RandomTwo:
    """The less loaded of two different backends."""

    __slots__ = ("_draw_two", "_in_flight", "_weights")

    def __init__(self, inputs: Inputs) -> None:
        self._draw_two = two_draws(inputs.weights, inputs.random)
        self._in_flight = inputs.in_flight
        self._weights = inputs.weights

    def pick(self, key: bytes | None = None) -> int:
        first, second = self._draw_two()
        load = self._in_flight(first)
        # Nothing is less than idle, and a sum over all workers' cells is the dearest step here.
        if load == 0:
            return first
        weights = self._weights
        # The quotients load/weight compared without dividing.
        if self._in_flight(second) * weights[first] < load * weights[second]:
            return second
        return first


def two_draws(
    weights: tuple[int, ...], random: Callable[[], float]
) -> Callable[[], tuple[int, int]]:
    """A function that draws two different indexes by weight (the same one twice if there is one).

    When the second draw repeats the first it is replaced by any other, all alike: redrawing until
    it differs has no bound where one weight is nearly everything.
    """
    count = len(weights)
    if count == 1:
        return lambda: (0, 0)
    draw = weighted_draw(weights, random)

    def draw_two() -> tuple[int, int]:
        first = draw()
        second = draw()
        if second == first:
            second = (first + 1 + int(random() * (count - 1))) % count
        return first, second

    return draw_two
