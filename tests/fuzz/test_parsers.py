"""The parser in Python reads every message as the C parser does."""

from __future__ import annotations

import random

import pytest
import readings
import seeds
from replay import parsers

COUNT = 20_000


@pytest.mark.skipif(not parsers.HAS_C, reason=parsers.NO_C)
def test_both_parsers_read_the_same(rng: random.Random) -> None:
    """Twenty thousand mutated messages, as requests and as responses, whole and in two pieces."""
    inputs = [data for target in ("request", "response", "chunked") for data in seeds.seeds(target)]
    for _ in range(COUNT):
        data = readings.mutated(rng, inputs)
        cut = rng.randrange(len(data) + 1)
        for agree in (parsers.agree_on_request, parsers.agree_on_response):
            if agree(data[:cut]) is None:
                agree(data, cut)
            agree(data)
