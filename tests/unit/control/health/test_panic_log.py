"""Panic: when it is logged, and when its end is."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.world import World

from app.control.health.panic_log import PanicLog
from app.shared.layout import CHECKED, HEALTHY, STATE, UNCHECKED, UNHEALTHY


class PanicBench(World):
    """Three servers, and the log about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **check: Any) -> None:
        super().__init__(monkeypatch)
        self.log = PanicLog(self.table)
        self.adopt(**check)
        self.turn(HEALTHY, HEALTHY, HEALTHY)

    def adopt(self, **check: Any) -> None:
        """All of them have had their first check."""
        sequence, config = self.propose(1, 2, 3, health_check=check)
        self.table.cells[CHECKED] = sequence
        self.log.adopt(config)

    @property
    def said(self) -> list[tuple[Any, ...]]:
        return self.told("logger", "level", "reason", "healthy", "ready")

    def turn(self, *states: int) -> None:
        for port, state in enumerate(states, 1):
            self.write(port, STATE, state)
        self.log.tick(0)


def test_panic_is_logged_once_and_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often anything changes between."""
    bench = PanicBench(monkeypatch, panic_threshold=50)
    bench.turn(HEALTHY, HEALTHY, UNHEALTHY)
    assert bench.said == []
    bench.turn(HEALTHY, UNHEALTHY, UNHEALTHY)
    bench.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert bench.said == [("pool", "warning", "panic", 1, 3)]
    bench.turn(HEALTHY, HEALTHY, UNHEALTHY)
    bench.turn(HEALTHY, HEALTHY, HEALTHY)
    assert bench.said[1:] == [("pool", "info", "healthy_again", 2, 3)]


def test_before_all_have_been_checked_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that nobody has asked yet is not one that has failed."""
    bench = PanicBench(monkeypatch, panic_threshold=50)
    bench.table.cells[CHECKED] -= 1
    bench.turn(HEALTHY, UNCHECKED, UNCHECKED)
    assert bench.said == []
    bench.table.cells[CHECKED] += 1
    bench.log.tick(0)
    assert [line[2] for line in bench.said] == ["panic"]


def test_switched_off_in_the_middle_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload says so too."""
    bench = PanicBench(monkeypatch, panic_threshold=50)
    bench.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    bench.adopt()
    bench.log.tick(0)
    assert [line[2] for line in bench.said] == ["panic", "healthy_again"]
    bench.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert len(bench.said) == 2


def test_without_a_threshold_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by default."""
    bench = PanicBench(monkeypatch)
    bench.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert bench.said == []
