"""The rule of stall detection: when a server has stopped answering altogether, as pure functions.

A process that hangs keeps its connections, and its kernel goes on taking requests, so that neither a refused
connect nor a reset tells of it; other balancers learn of it by the read timeout, or the third failed check.
Here its silence tells: compared with what this server usually takes, and only while others answer
(docs/decisions/0008-stalled-by-silence.md). Pure: no clock, no table, no log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Silence is a stall from so many times the slowest answer of the last minute.
TIMES_USUAL = 4
# And from so many times the longest pause of any server lately: they run the same program.
TIMES_PAUSE = 2
# A server that answers again within this time has paused (a garbage collection, a snapshot of its machine):
# that is worth waiting for. What lasts longer was a hang, and waiting it out would teach nothing.
LONGEST_PAUSE_MS = 2_000
# Where no check can confirm it, silence must last so many times longer.
TIMES_UNCONFIRMED = 3
# The share of the limit after which the server is sent a check: it has the rest of the time to answer that.
ASK_SHARE = 0.5


class Silence(NamedTuple):
    """What one worker, or all of them, know of a server. Times are monotonic milliseconds, 0 for never."""

    waiting: int = 0  # requests without a byte of an answer
    oldest_ms: int = 0  # since when the first of them waits
    heard_ms: int = 0  # when an answer last began
    usual_ms: int = 0  # what its slowest answer of late took

    def lasts_ms(self, now_ms: int) -> int:
        """For how long requests have waited and none was answered; 0 if none waits."""
        return now_ms - max(self.oldest_ms, self.heard_ms) if self.waiting else 0


def together(parts: Iterable[Silence]) -> Silence:
    """What all workers know together: an answer to any of them ends the silence."""
    known = list(parts)
    return Silence(
        waiting=sum(one.waiting for one in known),
        oldest_ms=min((one.oldest_ms for one in known if one.waiting), default=0),
        heard_ms=max((one.heard_ms for one in known), default=0),
        usual_ms=max((one.usual_ms for one in known), default=0),
    )


def limit_ms(usual_ms: int, pause_ms: int, after: float, can_ask: bool) -> int:
    """After how many ms of silence a server is stalled; 0 while it is not known what is usual.

    ``pause_ms``: the longest pause of late. ``after`` is the least, in seconds; ``can_ask``: a check can
    confirm it.
    """
    if not usual_ms:
        return 0
    limit = max(int(after * 1000), TIMES_USUAL * usual_ms)
    if not can_ask:
        limit *= TIMES_UNCONFIRMED
    return max(limit, TIMES_PAUSE * pause_ms)


def check_limit_ms(limit: int, usual_ms: float) -> int:
    """How long checks must go unanswered in a stall of ``limit``, where they usually take so long."""
    return int(max(limit * ASK_SHARE, TIMES_USUAL * usual_ms))
