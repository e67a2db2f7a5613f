"""Slow start: the steps, when they are taken, and who is told."""

from __future__ import annotations

import pytest
from fakes.world import World

from app.control.health import slow_start as module
from app.control.health.slow_start import SlowStart, step_after
from app.shared.layout import EPOCH, FULL_RAMP, RAMP, SINCE_MS


class SlowStartBench(World):
    """Three servers, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 10.0) -> None:
        super().__init__()
        self.ms = 50_000
        monkeypatch.setattr(module.time, "monotonic_ns", lambda: self.ms * 1_000_000)
        self.slow_start = self.controller(seconds)

    def controller(self, seconds: float) -> SlowStart:
        """A control process that has just started."""
        made = SlowStart(self.table)
        self.adopt(made, seconds)
        return made

    def adopt(self, slow_start: SlowStart, seconds: float) -> None:
        _, config = self.propose(1, 2, 3, slow_start=seconds)
        slow_start.adopt(config)

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
        return [self.read(port, RAMP) for port in (1, 2, 3)]


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(0, 1), (1999, 1), (2000, 2), (9999, 9), (10_000, 10), (99_999, 10)]
)
def test_the_steps_are_tenths_of_the_window(elapsed: int, expected: int) -> None:
    """Never none, never more than all."""
    assert step_after(elapsed, 10_000) == expected


def test_a_server_climbs_to_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a tenth, over the window, alone; full weight is no ramp."""
    bench = SlowStartBench(monkeypatch)
    bench.slow_start.begin(1)
    seen = []
    for _ in range(22):
        seen.append(bench.ramps()[1])
        bench.after(0.5)
    assert seen[-1] == 0
    climbing = [step for step in seen if step]
    assert climbing == sorted(climbing)
    assert set(climbing) == set(range(1, FULL_RAMP))
    assert bench.ramps() == [0, 0, 0]


def test_many_servers_cost_few_rebuilds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bump is a new snapshot for each worker."""
    bench = SlowStartBench(monkeypatch)
    for row in range(3):
        bench.slow_start.begin(row)
        bench.after(0.15)
    assert bench.after(12) <= module.LOOKS
    assert bench.ramps() == [0, 0, 0]
    assert bench.after(10) == 0


def test_beginning_again_begins_at_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ill in between."""
    bench = SlowStartBench(monkeypatch)
    bench.slow_start.begin(0)
    bench.after(6)
    assert bench.ramps()[0] > 4
    bench.slow_start.begin(0)
    assert bench.ramps()[0] == 1


def test_off_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default."""
    bench = SlowStartBench(monkeypatch, seconds=0)
    bench.slow_start.begin(0)
    assert bench.ramps() == [0, 0, 0]
    assert bench.after(1) == 0


def test_switched_off_all_have_their_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and the workers are told."""
    bench = SlowStartBench(monkeypatch)
    bench.slow_start.begin(2)
    before = bench.table.cells[EPOCH]
    bench.ms += 1
    bench.adopt(bench.slow_start, 0)
    assert bench.ramps() == [0, 0, 0]
    assert bench.table.cells[EPOCH] != before


def test_another_control_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is in the table."""
    bench = SlowStartBench(monkeypatch)
    bench.slow_start.begin(2)
    bench.after(5)
    bench.slow_start = bench.controller(10.0)
    assert bench.ramps()[2] > 1
    bench.after(5.5)
    assert bench.ramps() == [0, 0, 0]


def test_a_row_that_was_given_away_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new server has not begun."""
    bench = SlowStartBench(monkeypatch)
    bench.slow_start.begin(0)
    for cell in (RAMP, SINCE_MS):
        bench.table.cells[bench.table.server(0) + cell] = 0
    assert bench.after(3) == 0
    assert bench.ramps() == [0, 0, 0]
