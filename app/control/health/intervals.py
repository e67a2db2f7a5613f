"""How long to wait before the next check of a server, as a pure function.

HAProxy's fastinter and downinter in one: fast while a verdict is about to turn or something depends on it,
and of a server that is down twice as slow each time, since most restarts are over soon or take long.
"""

from __future__ import annotations

from typing import NamedTuple

# A check costs some 0.2 ms of CPU: however many servers are in doubt, they are not asked more often in all.
FAST_CHECKS_PER_SECOND = 500


class CheckState(NamedTuple):
    """What of a server says how soon to check it again.

    ``failures``: checks failed since it was found unhealthy.
    """

    is_open: bool = False  # the last result contradicts the verdict, or the server is set aside
    is_unhealthy: bool = False
    failures: int = 0
    nobody_is_healthy: bool = False

    @property
    def hurries(self) -> bool:
        """Whether the next check is to come sooner than an interval."""
        return self.is_open or self.is_unhealthy


def pause(state: CheckState, interval: float, fast: float, crowd: int) -> float:
    """Seconds to the next check. ``crowd``: how many servers, this one among them, are checked sooner."""
    fast = min(interval, max(fast, crowd / FAST_CHECKS_PER_SECOND))
    if state.is_open or (state.is_unhealthy and state.nobody_is_healthy):
        return fast
    if state.is_unhealthy:
        return min(interval, fast * 2.0 ** min(state.failures, 30))
    return interval
