"""When a client that got a 503 of our own should come back: the number in its Retry-After.

Functions over values: what is known goes in, seconds come out. Runs in workers. Reads no clock, draws no
random number, never knows why there is nowhere to send a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from app.shared.check_pace import fast_pause

# Who was refused together must not come back together: the answers spread over as long as the wait itself,
# and over this at least, since they are whole seconds (RFC 9110 §10.2.3).
SPREAD_MIN = 2.0
# Nobody knows that much of the future, and a client that takes it literally should try again some day.
LONGEST = 300.0


def seconds(estimate: float, draw: float) -> int:
    """What Retry-After says: the estimate and up to as much again, at least 1. ``draw``: random, below 1."""
    estimate = min(max(estimate, 0.0), LONGEST)
    return max(1, ceil(estimate + draw * max(SPREAD_MIN, estimate)))


def until_healthy(checks: Iterable[int], interval: float, fast: float, now_ms: int) -> float:
    """How soon one of some servers, of which none is healthy, can be healthy.

    ``checks``: for each the time of its last check (ms, same clock as ``now_ms``; 0: never). While there is
    no healthy one all are checked fast, and one pass is enough (app.control.health).
    """
    checked = list(checks)
    pause = fast_pause(interval, fast, len(checked))
    return min((_until_due(checked_ms, pause, now_ms) for checked_ms in checked), default=pause)


def _until_due(checked_ms: int, interval: float, now_ms: int) -> float:
    """How soon a server is checked next: at once if that is late, and within one interval."""
    return min(max(0.0, (checked_ms - now_ms) / 1000 + interval), interval)
