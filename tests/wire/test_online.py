"""Every case through a real balancer over real sockets, whole and cut: what client and backend saw."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from harness import Balancer
from replay import corpus, online
from replay.corpus import Case
from replay.judge import judge

CASES = corpus.load()
CUTS = 3


@pytest.fixture(scope="module", name="backend")
def _backend() -> Iterator[online.RawBackend]:
    with online.RawBackend() as backend:
        yield backend


@pytest.fixture(scope="module", name="balancer", params=["auto", "python"])
def _balancer(request: pytest.FixtureRequest, backend: online.RawBackend) -> Iterator[Balancer]:
    """With the parser of heads that is installed, and with the one in Python."""
    servers, parser = [f"http://127.0.0.1:{backend.port}"], {"LB_PARSER": request.param}
    with Balancer(servers, retries={"attempts": 1}, env=parser) as balancer:
        yield balancer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.identity)
def test_case(case: Case, balancer: Balancer, backend: online.RawBackend) -> None:
    """What the files say is what happens on the wire, and the next client is not touched by it."""
    rng = random.Random(str(case))

    def whole(data: bytes) -> list[bytes]:
        return [data] if data else []

    def cut(data: bytes) -> list[bytes]:
        return corpus.pieces(data, [rng.randint(0, len(data)) for _ in range(CUTS)])

    for way in (whole, cut):
        transcript, problem = online.replay(balancer.address, backend, case, way)
        problems = judge(case, transcript) + ([problem] if problem else [])
        assert not problems, f"{case}, {way.__name__}: {problems}"
