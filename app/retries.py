"""Whether one request may be sent once more.

Decisions as functions over values: what of the request left, what it is, what was tried, how late it is. Runs
in workers. Never picks a backend, never sends, reads no clock.
"""

from __future__ import annotations

# RFC 9110 §9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


def is_over(made: int, attempts: int, now: float, expires_at: float) -> bool:
    """Whether there is no attempt, or no time, left."""
    return made >= attempts or now >= expires_at


def is_safe(was_sent: bool, is_repeatable: bool, is_replayable: bool) -> bool:
    """Whether sending again can do no harm, by what left the building.

    Nothing taken by the backend's kernel: always. Otherwise it may have been acted upon, so the request
    must be repeatable. A body of which a part is gone from our memory cannot be sent again.
    """
    return is_replayable and (is_repeatable or not was_sent)
