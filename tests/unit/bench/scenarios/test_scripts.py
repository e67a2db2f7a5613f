"""The scripts of the scenario bench, as data."""

from __future__ import annotations

import pytest

from bench.scenarios.scripts import ALL, SHORT, Scenario


@pytest.mark.parametrize("scenario", [*ALL, SHORT], ids=lambda scenario: scenario.name)
def test_scripts_are_sound(scenario: Scenario) -> None:
    """Phases in order from 0, orders and judging inside of the run, servers that exist."""
    starts = [start for start, _ in scenario.phases]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] < scenario.seconds
    for order in scenario.orders:
        assert 0 < order.at < scenario.seconds
        assert order.server < scenario.servers
    if scenario.repaired:
        assert scenario.repair_at + 3 < scenario.until <= scenario.seconds
