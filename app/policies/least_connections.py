"""Least connections: the backend with the fewest requests in flight for its weight.

Load is requests in flight over all workers divided by weight (nginx ``least_conn``; what the name
calls connections are requests since connections are reused, as in Caddy and Envoy). Ties are
shared by weight: the backend whose turn it is in smooth weighted round robin is taken if it is
among the least loaded, else one of those by weighted draw. So a pool at rest is plain round
robin, and the backend after a busy stretch gets no more than its share, which a scan that starts
at a rotating place would give it.

Cost: O(1) while the backend whose turn it is idles, else O(n), as each count has to be read;
random_two is nearly as even at O(1) and is the better choice above some hundred backends.
"""

from __future__ import annotations

from itertools import accumulate
from operator import truediv

from app.policies.protocol import Inputs
from app.policies.round_robin import round_robin


class LeastConnections:
    """The least loaded of all backends; ties are shared by weight."""

    __slots__ = ("_in_flight", "_indexes", "_random", "_turn", "_weights")

    def __init__(self, inputs: Inputs) -> None:
        self._in_flight = inputs.in_flight
        self._random = inputs.random
        self._weights = inputs.weights
        self._indexes = range(len(inputs.weights))
        self._turn = round_robin(inputs).pick

    def pick(self, key: bytes | None = None) -> int:
        turn = self._turn()
        if self._in_flight(turn) == 0:
            return turn
        # Division rounds equal quotients to equal floats, so 1/3 and 2/6 do tie.
        loads = list(map(truediv, map(self._in_flight, self._indexes), self._weights))
        least = min(loads)
        if loads[turn] == least:
            return turn
        return self._among([index for index in self._indexes if loads[index] == least])

    def _among(self, ties: list[int]) -> int:
        if len(ties) == 1:
            return ties[0]
        ends = list(accumulate(self._weights[index] for index in ties))
        place = self._random() * ends[-1]
        return next(index for index, end in zip(ties, ends, strict=True) if place < end)
