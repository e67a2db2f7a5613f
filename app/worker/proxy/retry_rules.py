"""Whether one request may be sent once more, and how long to wait before that.

Decisions as functions over values: what of the request left, what it is, what was tried, how late it is.
Runs in workers. Never picks a backend, never sends, reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# RFC 9110 §9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
# A refused connect takes one round trip and nobody's work: that many servers may refuse one request before
# they count as attempts. nginx by default asks every server there is.
FREE_REFUSALS = 8
# Before a server is asked again: long enough for a process that is just starting to listen, and doubled,
# with a random part, so that the requests that failed together do not come back together (Envoy: 25–250 ms).
FIRST_PAUSE = 0.025
LONGEST_PAUSE = 0.25


class Facts(NamedTuple):
    """What decides whether there is another attempt, gathered after one that brought no answer.

    ``was_sent``: the backend may have acted on the request. ``was_unusable``: it has answered, in a way that
    cannot be passed on. ``is_repeatable``: twice is as good as once.
    ``is_replayable``: its body, if it has one, can be sent (again). ``costs``: see ``costs``. ``counted`` of
    the allowed ``attempts`` were made. ``now`` and ``expires_at`` are monotonic seconds.
    """

    was_sent: bool
    was_unusable: bool
    is_repeatable: bool
    is_replayable: bool
    costs: bool
    has_budget: bool
    counted: int
    attempts: int
    now: float
    expires_at: float


def refusal(facts: Facts) -> str:
    """Why there may be no other attempt, as the slug that the access line has; "" if there may.

    By what left the building: what no backend's kernel has taken may always be sent again. The rest may have
    been carried out, so it must be repeatable. A body of which a part is gone cannot be sent again. An answer
    that we refuse is one: the request was carried out, and another server, with the same program, would
    answer alike.
    """
    if facts.counted >= facts.attempts:
        return "attempts_used"
    if facts.now >= facts.expires_at:
        return "out_of_time"
    if facts.was_unusable:
        return "bad_response"
    if facts.was_sent and not facts.is_repeatable:
        return "not_repeatable"
    if not facts.is_replayable:
        return "body_gone"
    return "over_budget" if facts.costs and not facts.has_budget else ""


def is_repeatable(method: bytes, lines: Sequence[bytes]) -> bool:
    """Whether a request that was carried out may be sent again: by its method, or because its client says so.

    Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): the server knows a second one for what it is.
    So it must be among the fields that are sent on: ``lines``, as flat pieces (name, separator, value, CRLF).
    """
    return method in IDEMPOTENT or any(
        lines[at + 2] and lines[at].lower() == b"idempotency-key" for at in range(0, len(lines), 4)
    )


def counted(made: int, stale: int, refused: int, attempts: int) -> int:
    """How many of the attempts made count against ``attempts``.

    One stale connection is free: where its backend has died, the next attempt may be refused there too, and
    another backend must still get its chance. Refusals are free, unless no other server is wanted at all.
    """
    free = min(stale, 1)
    if attempts > 1:
        free += min(refused, FREE_REFUSALS)
    return made - free


def costs(was_sent: bool, status: int) -> bool:
    """Whether sending it again is work for servers that have enough of it already: the budget's affair.

    A refused connect and bytes that nobody took are not. A timed-out connect (``status`` 504) is: a full
    queue looks like it.
    """
    return was_sent or status == 504


def pause(was_answered: bool, status: int, rounds: int, chance: float) -> float:
    """Seconds until servers that were all tried may be tried again; negative for never.

    An answer is better than a repetition of it, and who took too long once (504) is not asked again.
    ``rounds`` were made before; ``chance`` is in [0, 1).
    """
    if was_answered or status == 504:
        return -1.0
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**rounds)
    return longest * (1.0 + chance) / 2.0
