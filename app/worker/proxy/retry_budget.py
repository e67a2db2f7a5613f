"""How many retries are allowed lately: a share of the requests, so that retries never become a storm.

When servers fail because they have too much to do, every retry gives them more; with two attempts for each
request, failing servers would get twice their load just then (Google's SRE book, ch. 21 and 22). Each worker
publishes what it had in the last WINDOW seconds, so a new one knows at once what the others have, and one
that is killed takes its part with it. Pure: counts and the time come in; ten times a second, not by requests.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10.0


class GrowthWindow:
    """How much a count that only grows has grown in the last WINDOW seconds."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque([(float("-inf"), 0)])

    def observe(self, now: float, total: int) -> int:
        """Take the count as it is now; the growth up to now."""
        samples = self._samples
        samples.append((now, total))
        while samples[1][0] <= now - WINDOW:
            samples.popleft()
        return total - samples[0][1]

    def __repr__(self) -> str:
        return f"<GrowthWindow {self._samples[-1][1] - self._samples[0][1]}>"


def limit(requests: int, share: float, per_second: float) -> float:
    """How many retries there may be for that many requests of the last WINDOW seconds."""
    return max(share * requests, per_second * WINDOW)
