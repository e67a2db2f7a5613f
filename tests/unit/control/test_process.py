"""The control process: which proposals it takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.world import World

from app import config as configuration
from app.control.process import proposal
from app.shared import publication


def proposed(world: World, envelope: Any) -> None:
    publication.propose(world.table, json.dumps(envelope).encode(), [])


def test_a_proposal_of_a_newer_release_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it knows beyond us is left out."""
    config = configuration.parse('{"servers": ["http://127.0.0.1:1"]}')
    envelope = json.loads(configuration.to_json(config))
    envelope["brand_new"] = envelope["config"]["brand_new"] = {"of": ["a", {"newer": "release"}]}
    world = World(monkeypatch)
    proposed(world, envelope)
    assert proposal(world.table) == (1, config)
    assert world.events == []


def test_one_that_cannot_be_read_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and what is adopted stays."""
    world = World(monkeypatch)
    proposed(world, {"form": 2})
    assert proposal(world.table) == (1, None)
    problems = ["form: is 2, not one up to 1"]
    assert world.told("logger", "level", "sequence", "problems") == [
        ("control", "error", 1, problems)
    ]
