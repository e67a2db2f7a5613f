from __future__ import annotations

import time
from pathlib import Path

from app.policies import check_custom, load_custom
from tests.unit.policies.example_policy import NightShift
from tests.unit.policies.samples import sample

PATH = "tests.unit.policies.example_policy.NightShift"
DOCS = Path(__file__).parents[3] / "docs" / "algorithms.md"


def test_the_example_passes_the_check_of_every_custom_policy() -> None:
    """What the documentation shows is accepted at start."""
    check_custom(load_custom(PATH), {"limit": 3}, time.monotonic)


def test_the_example_does_what_it_says() -> None:
    """The first backend up to the limit, then the next, then the least loaded."""
    load = [0, 0]
    policy = NightShift(sample([1, 1], load=load.__getitem__), limit=2)
    picked = []
    for _ in range(6):
        index = policy.pick()
        load[index] += 1
        picked.append(index)
    assert picked == [0, 0, 1, 1, 0, 1]


def test_the_documentation_shows_the_example_as_it_is() -> None:
    """Line for line, so that the two never part."""
    source = Path(__file__).with_name("example_policy.py").read_text("utf-8")
    assert source[source.index("class NightShift") :].strip() in DOCS.read_text("utf-8")
