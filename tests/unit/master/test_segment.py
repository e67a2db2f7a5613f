"""The segment: its sizes, and how the next master takes it over."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from app import config as configuration
from app.master import hooks, segment
from app.shared import publication
from app.shared.layout import PUBLISHED
from app.shared.table import Table
from tests.unit.master.master_bench import (
    Arbiter,
    MasterBench,
    booted,
    handed_over,
)


def test_there_are_slots_for_two_generations_of_the_workers_that_gunicorn_starts(
    bench: MasterBench,
) -> None:
    bench.start(Arbiter(workers=5))
    assert bench.table.slots == 4 * 5 + 16


def test_more_workers_than_there_are_slots_for_are_a_refusal(bench: MasterBench) -> None:
    """The new ones boot beside the old ones, so that half of the slots is all that a reload may ask for."""
    booted(bench)
    one = hooks._the_master()
    room = (one.table.slots - 1) // 2
    segment.refuse_misfit(one.table, replace(one.config, workers=room), blob_bytes=100)
    with pytest.raises(
        configuration.ConfigError, match=f"workers: too many for a reload .room for {room}."
    ):
        segment.refuse_misfit(one.table, replace(one.config, workers=room + 1), blob_bytes=100)


def test_the_next_generation_goes_on_with_the_same_table(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(bench, monkeypatch)
    ticket = old.ticket()
    bench.start()
    assert bench.table is not old
    assert bench.table.ticket() == ticket + 1
    assert bench.table.cells[PUBLISHED] == 1
    assert "LB_TABLE_FD" not in os.environ
    assert not os.get_inheritable(bench.table.fd)


def test_a_table_too_small_for_the_next_generation_is_left_behind(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(bench, monkeypatch)
    ticket = old.ticket()
    bench.start(Arbiter(workers=50))
    assert bench.table.slots == 216
    assert bench.table.ticket() != ticket + 1
    assert ("warning", "the old master's table is left behind") in bench.events


@pytest.mark.parametrize("value", ["", "x", "99999"])
def test_a_descriptor_that_is_no_table_is_left_alone(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LB_TABLE_FD", value)
    monkeypatch.setenv("GUNICORN_PID", "1")
    bench.start()
    assert bench.published_servers() == 1


def test_only_a_re_executed_master_looks_for_a_table(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(bench, monkeypatch)
    monkeypatch.delenv("GUNICORN_PID")
    ticket = old.ticket()
    bench.start()
    assert bench.table.ticket() != ticket + 1


@pytest.mark.parametrize(
    ("secret", "is_taken_over"),
    [("made at start: 0123", True), ("chosen by the operator", False), (None, False)],
)
def test_a_secret_of_sticky_sessions_is_taken_over_if_a_master_made_it(
    secret: str | None, is_taken_over: bool
) -> None:
    """One that an operator chose, and has taken out since, is not to be used again."""
    config = configuration.parse(json.dumps({"sticky": {"secret": secret}}))
    table = Table.create(rows=1, slots=1, blob_bytes=10_000)
    assert segment.secret_of(table) is None
    publication.publish(table, publication.propose(table, configuration.to_json(config), []))
    assert segment.secret_of(table) == (secret if is_taken_over else None)


def test_a_secret_of_another_release_s_configuration_is_left_alone() -> None:
    table = Table.create(rows=1, slots=1, blob_bytes=10_000)
    publication.publish(table, publication.propose(table, b'{"form": 99, "config": {}}', []))
    assert segment.secret_of(table) is None
