"""What fuzzing has found stays found: every committed input and every wire case through the targets."""

from __future__ import annotations

import pytest
import seeds
import targets


@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_corpus(target: str) -> None:
    """No input raises anything."""
    inputs = seeds.seeds(target)
    assert len(inputs) > 20
    for data in inputs:
        targets.TARGETS[target](data)
