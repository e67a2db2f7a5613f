"""Slow start: the steps, when they are taken, and who is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import config as configuration
from app.control.health import slow_start as module
from app.control.health.slow_start import SlowStart, step_after
from app.shared import publication
from app.shared.layout import EPOCH, FULL_RAMP, RAMP, SINCE_MS
from app.shared.table import Table, identity_of

URLS = [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]


class House:
    """Three servers, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 10.0) -> None:
        self.ms = 50_000
        monkeypatch.setattr(module.time, "monotonic_ns", lambda: self.ms * 1_000_000)
        self.table = Table.create(rows=4, slots=2, blob_bytes=20_000)
        publication.propose(self.table, b"", [identity_of(url) for url in URLS])
        self.slow_start = self.controller(seconds)

    def controller(self, seconds: float) -> SlowStart:
        """A control process that has just started."""
        made = SlowStart(self.table)
        self.adopt(made, seconds)
        return made

    def adopt(self, slow_start: SlowStart, seconds: float) -> None:
        document: dict[str, Any] = {"servers": URLS, "slow_start": seconds}
        slow_start.adopt(configuration.parse(json.dumps(document)))

    def after(self, seconds: float) -> int:
        """The bumps until then, at 20 ticks a second."""
        bumps = 0
        for _ in range(round(seconds * 20)):
            self.ms += 50
            before = self.table.cells[EPOCH]
            self.slow_start.tick(self.ms)
            bumps += self.table.cells[EPOCH] != before
        return bumps

    def ramps(self) -> list[int]:
        return [self.table.cells[self.table.server(row) + RAMP] for row in range(3)]


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(0, 1), (1999, 1), (2000, 2), (9999, 9), (10_000, 10), (99_999, 10)]
)
def test_the_steps_are_tenths_of_the_window(elapsed: int, expected: int) -> None:
    """Never none, never more than all."""
    assert step_after(elapsed, 10_000) == expected


def test_a_server_climbs_to_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a tenth, over the window, alone; full weight is no ramp."""
    house = House(monkeypatch)
    house.slow_start.begin(1)
    seen = []
    for _ in range(22):
        seen.append(house.ramps()[1])
        house.after(0.5)
    assert seen[-1] == 0
    climbing = [step for step in seen if step]
    assert climbing == sorted(climbing)
    assert set(climbing) == set(range(1, FULL_RAMP))
    assert house.ramps() == [0, 0, 0]


def test_many_servers_cost_few_rebuilds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bump is a new snapshot for each worker."""
    house = House(monkeypatch)
    for row in range(3):
        house.slow_start.begin(row)
        house.after(0.15)
    assert house.after(12) <= module.LOOKS
    assert house.ramps() == [0, 0, 0]
    assert house.after(10) == 0


def test_beginning_again_begins_at_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ill in between."""
    house = House(monkeypatch)
    house.slow_start.begin(0)
    house.after(6)
    assert house.ramps()[0] > 4
    house.slow_start.begin(0)
    assert house.ramps()[0] == 1


def test_off_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default."""
    house = House(monkeypatch, seconds=0)
    house.slow_start.begin(0)
    assert house.ramps() == [0, 0, 0]
    assert house.after(1) == 0


def test_switched_off_all_have_their_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and the workers are told."""
    house = House(monkeypatch)
    house.slow_start.begin(2)
    before = house.table.cells[EPOCH]
    house.ms += 1
    house.adopt(house.slow_start, 0)
    assert house.ramps() == [0, 0, 0]
    assert house.table.cells[EPOCH] != before


def test_another_control_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is in the table."""
    house = House(monkeypatch)
    house.slow_start.begin(2)
    house.after(5)
    house.slow_start = house.controller(10.0)
    assert house.ramps()[2] > 1
    house.after(5.5)
    assert house.ramps() == [0, 0, 0]


def test_a_row_that_was_given_away_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new server has not begun."""
    house = House(monkeypatch)
    house.slow_start.begin(0)
    for cell in (RAMP, SINCE_MS):
        house.table.cells[house.table.server(0) + cell] = 0
    assert house.after(3) == 0
    assert house.ramps() == [0, 0, 0]
