"""Whether the master itself has been asleep, before it judges others by when they were last heard of.

A machine that was suspended or migrated, or a group that was stopped (SIGSTOP), wakes up all at once: every
beat is as old as the sleep was long, and nobody hangs. Runs in the master, which looks about at least once a
second. Knows no child.
"""

from __future__ import annotations

# The master looks once a second, a little later where it forks or checks a configuration.
PAUSE_SECONDS = 5.0


class Wakefulness:
    """Since when somebody has looked about without a pause."""

    __slots__ = ("_looked_at", "_since", "pause")

    def __init__(self) -> None:
        self._since = float("-inf")
        self._looked_at = float("inf")
        self.pause = 0.0

    def __repr__(self) -> str:
        return f"<Wakefulness since {self._since}>"

    def looked(self, now: float) -> None:
        """Also a look, after work that may take long: what it took was no pause."""
        self._looked_at = now

    def seconds(self, now: float) -> float:
        """At every look, in monotonic seconds: how long there has been no pause.

        ``pause`` is the length of the one that has just ended, 0 after any other look.
        """
        pause = now - self._looked_at
        self.pause = pause if pause > PAUSE_SECONDS else 0.0
        if self.pause:
            self._since = now
        self._looked_at = now
        return now - self._since
