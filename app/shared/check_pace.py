"""How soon a server is checked when it is checked soon, as both the control process and workers reckon.

Owns the bound on all such checks together. Runs in both, pure: never knows which servers those are.
"""

from __future__ import annotations

# A check costs some 0.2 ms of CPU: however many servers are in doubt, they are not asked more often in all.
FAST_CHECKS_PER_SECOND = 500


def fast_pause(interval: float, fast: float, crowd: int) -> float:
    """Seconds between two fast checks of a server while ``crowd`` of them, this one too, have them."""
    return min(interval, max(fast, crowd / FAST_CHECKS_PER_SECOND))
