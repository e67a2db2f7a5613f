"""What the result of a check means for a server, as one pure function.

Several results in a row must contradict the verdict before it turns (HAProxy's fall and rise). The first
result ever decides alone, so that a start neither sends traffic to a dead server nor keeps a living one
waiting. Pure: no clock, no table, no log.
"""

from __future__ import annotations

from typing import NamedTuple

from app.shared.layout import HEALTHY, UNCHECKED, UNHEALTHY


class Thresholds(NamedTuple):
    """How many results in a row turn a verdict."""

    healthy: int
    unhealthy: int


class Health(NamedTuple):
    """What is known of a server.

    ``streak``: results in a row that contradict the verdict. ``changed_ms``: when the verdict last turned,
    in ms, by the same clock as ``now_ms``.
    """

    verdict: int = UNCHECKED
    streak: int = 0
    changed_ms: int = 0


def observe(health: Health, ok: bool, now_ms: int, thresholds: Thresholds) -> tuple[Health, bool]:
    """Take one result into account: the new health, and whether the verdict turned."""
    result = HEALTHY if ok else UNHEALTHY
    if result == health.verdict:
        return Health(health.verdict, 0, health.changed_ms), False
    streak = health.streak + 1
    needed = thresholds.healthy if ok else thresholds.unhealthy
    if health.verdict == UNCHECKED or streak >= needed:
        return Health(result, 0, now_ms), True
    return Health(health.verdict, streak, health.changed_ms), False
