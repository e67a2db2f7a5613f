"""Every case through all of the product's code between two sockets, in memory, cut at every kind of place."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from replay import corpus, offline, parsers
from replay.corpus import Case
from replay.judge import judge

from app.worker.client import http1
from app.worker.upstream.request import UpstreamRequest

CASES = corpus.load()
# Cutting a body of 200 kB at each byte says nothing that its first and last bytes do not.
WHOLE_TAIL = 4096
RANDOM_CUTS = 8


def whole(data: bytes) -> list[bytes]:
    """One piece."""
    return [data] if data else []


def bytewise(data: bytes) -> list[bytes]:
    """A piece a byte, as far as the head and the beginning of the body go."""
    head = [data[at : at + 1] for at in range(min(len(data), WHOLE_TAIL))]
    return head + whole(data[WHOLE_TAIL:])


def randomly(rng: random.Random) -> Callable[[bytes], list[bytes]]:
    """A few pieces."""

    def cut(data: bytes) -> list[bytes]:
        count = rng.randint(1, 6)
        return corpus.pieces(data, [rng.randint(0, len(data)) for _ in range(count)])

    return cut


@pytest.fixture(name="parser", params=["auto", "python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are read over the parser in use, or over the one in Python."""
    if request.param == "python":
        readers = parsers.readers("python")
        monkeypatch.setattr(http1, "read_head", readers.request.read_head)
        monkeypatch.setattr(UpstreamRequest, "read_head", staticmethod(readers.response.read_head))


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.identity)
def test_case(case: Case) -> None:
    """The same outcome, however the bytes arrive."""
    rng = random.Random(str(case))
    ways = [(whole, whole), (bytewise, whole), (whole, bytewise)]
    ways += [(randomly(rng), randomly(rng)) for _ in range(RANDOM_CUTS)]
    for number, (request, response) in enumerate(ways):
        problems = judge(case, offline.replay(case, request, response))
        assert not problems, f"{case}, way {number}: {problems}"
