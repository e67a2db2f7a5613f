"""The micro-benchmarks follow the product: a step that no longer fits it would silently be left out."""

from __future__ import annotations

import pytest

from bench.steps import STEPS, Step

# What is below us is not ours to change, and needs a socket.
OURS = [one for one in STEPS if one.part != "floor"]


@pytest.mark.parametrize("step", OURS, ids=[f"{one.part}: {one.name}" for one in OURS])
def test_every_step_runs(step: Step) -> None:
    """Prepared once and called twice, as a measurement does many times."""
    call = step.prepare()
    call()
    call()
