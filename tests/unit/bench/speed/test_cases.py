"""Which rows the cases have."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.policies import POLICIES
from bench import peers
from bench.peers.aiohttp import Aiohttp
from bench.peers.candidate import Candidate
from bench.peers.ours import Ours
from bench.speed.cases import ALL, Case, expand, lacks

CASES = {case.name: case for case in ALL}


def made(kind: type[Candidate]) -> Candidate:
    return kind(Path("/project"), Path("/project/build"))


def test_names_are_used_once() -> None:
    """They are keys of saved results."""
    assert len(CASES) == len(ALL)


@pytest.mark.parametrize("kind", peers.SPEED, ids=lambda kind: kind.name)
def test_a_candidate_is_for_cases_that_exist(kind: type[Candidate]) -> None:
    """Else it would silently be in none."""
    assert set(kind.only) <= set(CASES)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_who_cannot_do_tls_is_left_out_with_a_reason(case: Case) -> None:
    """And is in all the other cases."""
    assert lacks(case, made(Aiohttp)) == ("the aiohttp peer does no TLS" if case.tls else None)
    assert lacks(case, made(Ours)) is None


def test_a_case_has_a_row_for_each_candidate() -> None:
    """Under its name."""
    assert [name for name, _ in expand(CASES["small"], made(Aiohttp))] == ["aiohttp"]


def test_the_algorithms_have_a_row_each() -> None:
    """Round robin first, as ours, with which the others are compared."""
    names = [name for name, _ in expand(CASES["algorithms"], made(Ours))]
    assert names[0] == "ours"
    assert set(names[1:]) <= set(POLICIES) - {"round_robin"}
    assert {"random", "least_connections", "peak_ewma"} <= set(names)
