"""Whether a failed request speaks against the server that it failed at, or against what was asked.

Owns what this worker knows of kinds of requests that have failed lately: at which servers they failed, and
which of them answers them well. A kind that another server answers well is that server's own failure. One
that fails wherever it was tried, at two servers or more, is at fault itself. And one that was tried nowhere
else says nothing alone: it counts once, and only beside another kind. Requests are alike if their method and
target are, digits aside (/orders/17 is /orders/18). Runs in workers, while anything fails; the time comes in.
Must never know what is counted, or why something failed.
"""

from __future__ import annotations

_DIGITS = b"0123456789"
# Of so many kinds that failed lately something is known; the one that was met longest ago makes room.
MOST_KINDS = 64
# For so long after the last failure of all.
REMEMBER_SECONDS = 30.0

Mark = int | None  # of the caller, to whom it means what a failure is counted as


def asked(method: bytes, target: bytes) -> bytes:
    """What kind of request it is."""
    return b"%b %b" % (method, target.translate(None, _DIGITS))


class _Kind:
    """One kind of request: rows of the servers whose last answer to it was a ``bad`` or a ``good`` one."""

    __slots__ = ("bad", "good")

    def __init__(self) -> None:
        self.bad: set[int] = set()
        self.good: set[int] = set()


class Blame:
    """The kinds of requests that have failed lately."""

    __slots__ = ("_held", "_kinds", "_open", "_until")

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}  # the one met last is last
        # Of each row the kinds that have failed there and nowhere else, with the mark that is not blamed yet.
        self._held: dict[int, dict[bytes, list[Mark]]] = {}
        self._open: set[bytes] = set()  # kinds that no server is known to answer well
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<Blame of {len(self._kinds)} kinds of requests>"

    def __bool__(self) -> bool:
        """Whether it wants to hear of good answers. A failure where there was a good one is told anyway."""
        return bool(self._open)

    def failed(self, kind: bytes, row: int, mark: Mark, now: float) -> list[Mark]:
        """Which failures the server in ``row`` is to be blamed for, now that it has failed such a request.

        ``mark`` is the caller's note of this one. An earlier one is among them where this shows that it was
        the server's too.
        """
        self.forget(now)
        self._until = now + REMEMBER_SECONDS
        known = self._meet(kind)
        known.good.discard(row)
        known.bad.add(row)
        if known.good:
            return [mark]
        self._open.add(kind)
        if len(known.bad) > 1:
            self._excuse(kind, known)
            return []
        held = self._held.setdefault(row, {})
        if kind in held:
            return []
        held[kind] = [mark]
        if len(held) < 2:
            return []
        return [one for marks in held.values() for one in _taken(marks)]

    def is_at_fault(self, kind: bytes) -> bool:
        """Whether requests of this kind fail wherever they were tried, at two servers or more."""
        known = self._kinds.get(kind)
        return known is not None and len(known.bad) > 1 and not known.good

    def answered(self, kind: bytes, row: int) -> list[tuple[int, Mark]]:
        """The server in ``row`` has answered such a request well.

        Rows of the servers whose failures that proves to be their own, each with the mark of one.
        """
        self._held.pop(row, None)
        known = self._kinds.get(kind)
        if known is None:
            return []
        known.bad.discard(row)
        known.good.add(row)
        self._open.discard(kind)
        held = ((one, self._held.get(one, {}).pop(kind, [])) for one in known.bad)
        return [(one, mark) for one, marks in held for mark in marks]

    def forget(self, now: float) -> bool:
        """Whether nothing has failed for so long that all of it is forgotten now."""
        if now < self._until:
            return False
        self._kinds.clear()
        self._open.clear()
        self._held.clear()
        return True

    def _excuse(self, kind: bytes, known: _Kind) -> None:
        """What was held against servers that have failed such requests is dropped."""
        for row in known.bad:
            self._held.get(row, {}).pop(kind, None)

    def _meet(self, kind: bytes) -> _Kind:
        known = self._kinds.pop(kind, None)
        if known is None:
            known = _Kind()
            if len(self._kinds) >= MOST_KINDS:
                oldest = next(iter(self._kinds))
                self._excuse(oldest, self._kinds.pop(oldest))
                self._open.discard(oldest)
        self._kinds[kind] = known
        return known


def _taken(marks: list[Mark]) -> list[Mark]:
    """What was in the list, which is empty then."""
    taken = marks.copy()
    marks.clear()
    return taken
