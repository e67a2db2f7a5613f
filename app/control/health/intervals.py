"""How long to wait before the next check of a server, as a pure function.

HAProxy's fastinter and downinter in one: fast while a verdict is about to turn or something depends on it,
and of a server that is down twice as slow each time, since most restarts are over soon or take long.
"""

from __future__ import annotations

from typing import NamedTuple

from app.shared.check_pace import fast_pause


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
    fast = fast_pause(interval, fast, crowd)
    if state.is_open or (state.is_unhealthy and state.nobody_is_healthy):
        return fast
    if state.is_unhealthy:
        return min(interval, fast * 2.0 ** min(state.failures, 30))
    return interval
