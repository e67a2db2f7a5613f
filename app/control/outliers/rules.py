"""The rules of outlier detection: what failed requests say about a server, as pure functions.

A streak is a number of failures in a row that one worker has counted, ended by a good answer; here the
streaks of all workers are judged together. Streaks and ejection times that grow are Envoy's
(outlier_detection.proto), the trial with one request at a time is that of circuit breakers. "At most half,
never the last, but one of two or three" is ours: Envoy's share lets a small cluster eject nobody. Pure:
counts in, decisions out; no clock, no table, no log.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.shared.outcome_bits import WINDOW

# Kinds of trouble: the first three in the order of their streaks.
CONNECT, RESET, ERROR, RATE = range(4)
REASONS = ("connect_failures", "resets", "server_errors", "failure_rate")
# Fewer failures than this are no rate, whatever their share.
RATE_MINIMUM = 5
# A server that fails like all others is not the one to blame.
TIMES_OTHERS = 3
# Good answers that end a trial. Every second answer of a server that was ejected for its answers may be good;
# one that was ejected because nobody could connect has shown all with the first.
TRIAL_ANSWERS = {REASONS[CONNECT]: 1}
TRIAL_ANSWERS_OTHERWISE = 3


class Suspicion:
    """The streaks of one server in all workers, judged as one.

    The streak of one worker counts as it is. Those of several workers are added up only as far as they have
    grown since any of them last had a good answer: what failed before that is not in a row with what failed
    after.
    """

    __slots__ = ("_counted", "_excused", "_recoveries")

    def __init__(self) -> None:
        self._recoveries: int | None = None
        self._excused: dict[tuple[int, int], int] = {}  # (kind, slot): failures from before a trial
        self._counted: dict[tuple[int, int], int] = {}  # the same, from before a good answer

    def judge(
        self, streaks: Sequence[Sequence[int]], recoveries: int, limits: Sequence[int]
    ) -> tuple[int, int] | None:
        """The kind of trouble whose limit is reached, and how many failures in a row; None if there is none.

        ``streaks[kind][slot]`` are failures in a row, ``recoveries`` counts the good answers after failures
        in all workers, ``limits`` has one number for each kind, 0 for none.
        """
        if self._recoveries not in (None, recoveries):
            self._counted = _positive(streaks)
        self._recoveries = recoveries
        for kind, limit in enumerate(limits):
            row = streaks[kind]
            longest = max(self._since(self._excused, kind, row), default=0)
            together = sum(self._since(self._counted, kind, row))
            reached = max(longest, together)
            if limit and reached >= limit:
                return kind, reached
        return None

    def excuse(self, streaks: Sequence[Sequence[int]]) -> None:
        """Forget what was counted up to now: only further failures count."""
        self._excused = _positive(streaks)
        self._counted = dict(self._excused)

    def _since(
        self, before: dict[tuple[int, int], int], kind: int, row: Sequence[int]
    ) -> list[int]:
        """How much each worker's streak of a kind has grown since ``before``, which is kept up to date."""
        grown = []
        for slot, count in enumerate(row):
            known = before.get((kind, slot), 0)
            if count < known:  # that streak has ended: the one now is a new one
                del before[kind, slot]
                known = 0
            grown.append(count - known)
        return grown


def _positive(streaks: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    return {
        (kind, slot): count
        for kind, row in enumerate(streaks)
        for slot, count in enumerate(row)
        if count
    }


def are_failing_alike(mine: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    """Whether most servers fail more than a third as often as this one, by number and by share.

    Then what they are asked is to blame, or what all of them depend on. Arguments as of is_failing_often.
    """
    if not others:
        return False
    seen, bad = mine
    seen_there, bad_there = sorted(others, key=_bad)[(len(others) - 1) // 2]
    worst = bad_there * TIMES_OTHERS
    return worst > bad and worst * seen > bad * seen_there


def _bad(outcomes: tuple[int, int]) -> int:
    return outcomes[1]


def is_failing_often(
    percent: int, mine: tuple[int, int], others: Sequence[tuple[int, int]]
) -> bool:
    """Whether at least so many percent of a server's last outcomes were bad, and others do much better.

    ``mine`` and each of ``others`` are (outcomes, bad ones among them). A server that had none counts as one
    with good ones only.
    """
    seen, bad = mine
    if not percent or bad < RATE_MINIMUM or bad * 100 < percent * seen:
        return False
    others_seen = sum(max(seen, WINDOW) for seen, _ in others)
    others_bad = sum(bad for _, bad in others)
    return bad * others_seen >= TIMES_OTHERS * others_bad * seen


def may_eject(servers: int, out: int, others_available: int) -> bool:
    """Whether one more of ``servers`` may be set aside while ``out`` are: at most half, one of two or three.

    Never the last one that could serve: a server that fails is better than none.
    """
    return others_available > 0 and out < max(1, servers // 2)


def ejection_ms(times: int, base: float, most: float) -> int:
    """How long the ``times``-th ejection lasts, in milliseconds; ``base`` and ``most`` are seconds."""
    return int(min(base * times, max(base, most)) * 1000)


def times_ejected(times: int, trusted_ms: int, base: float) -> int:
    """How often a server counts as ejected: once less for each ``base`` seconds in service since the last."""
    return max(0, times - int(trusted_ms / (base * 1000)))
