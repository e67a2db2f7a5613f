"""When a server has stopped answering altogether, as pure functions over what the workers wait for.

No peer has this rule. A hung process keeps its connections, and its kernel goes on taking requests, so that
neither a refused connect nor a reset tells of it: others learn by the read timeout or the third failed
check. Here silence does, measured by what this server usually takes, and only while others answer. No clock,
no table, no log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Well beyond usual: the slowest answer of the last minute, and three times as long on top.
TIMES_USUAL = 4
# Without a check that confirms it, silence must be longer still.
TIMES_UNCONFIRMED = 3
# The share of the limit after which the server is asked: unanswered when the limit is reached, it is stalled.
ASK_SHARE = 0.5


class Silence(NamedTuple):
    """What one worker, or all of them, know of a server. Times are monotonic milliseconds, 0 for never."""

    waiting: int = 0  # requests without a byte of an answer
    oldest_ms: int = 0  # since when the first of them waits
    heard_ms: int = 0  # when the last answer began
    usual_ms: int = 0  # the slowest answer of late

    def lasts_ms(self, now_ms: int) -> int:
        """For how long somebody has waited and nobody was answered."""
        return now_ms - max(self.oldest_ms, self.heard_ms) if self.waiting else 0


def together(parts: Iterable[Silence]) -> Silence:
    """What all workers know: an answer to any of them ends the silence."""
    known = list(parts)
    return Silence(
        waiting=sum(one.waiting for one in known),
        oldest_ms=min((one.oldest_ms for one in known if one.waiting), default=0),
        heard_ms=max((one.heard_ms for one in known), default=0),
        usual_ms=max((one.usual_ms for one in known), default=0),
    )


def limit_ms(usual_ms: int, after: float, can_ask: bool) -> int:
    """The silence that makes a server stalled; 0 while nothing is known of what is usual."""
    if not usual_ms:
        return 0
    limit = max(int(after * 1000), TIMES_USUAL * usual_ms)
    return limit if can_ask else limit * TIMES_UNCONFIRMED
