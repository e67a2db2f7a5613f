"""Whether a failed request speaks against the server that it failed at, or against what was asked.

Owns what this worker knows of kinds of requests that have failed lately: at which servers they failed, and
which of them answers them well. A kind that another server answers well is that server's own failure. One
that fails wherever it was tried, at two servers or more, is at fault itself. And one that was tried nowhere
else says nothing alone: it counts once, and only beside another kind. Requests are of one kind if their
method and target are the same, digits aside (/orders/17 is /orders/18); the very same target says more than
its kind. Where a client may stay at one server (sticky, hash), what it alone has met there proves nothing but
by the very same request. Runs in workers, while anything fails; the time comes in. Must never know what is
counted, or why something failed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_DIGITS = b"0123456789"
# Of so many kinds, and so many targets, that failed lately something is known; what was met longest ago makes
# room.
MOST_KINDS = 64
# For so long after the last failure of all.
REMEMBER_SECONDS = 30.0

Mark = int | None  # of the caller, to whom it means what a failure is counted as


class Asked(NamedTuple):
    """A request, as far as it matters who is to blame.

    ``client`` is the address of one that may stay at its server, "" where each request may go to any.
    """

    kind: bytes
    very: bytes
    client: str = ""


def asked(method: bytes, target: bytes, client: str = "") -> Asked:
    """What was asked, by a client that is bound to its server if it is given."""
    very = b"%b %b" % (method, target)
    return Asked(very.translate(None, _DIGITS), very, client)


class _Kind:
    """One kind of request: rows of the servers whose last answer to it was a ``bad`` or a ``good`` one."""

    __slots__ = ("bad", "good")

    def __init__(self) -> None:
        self.bad: set[int] = set()
        self.good: set[int] = set()


class Blame:
    """The kinds of requests that have failed lately."""

    __slots__ = ("_clients", "_held", "_kinds", "_open", "_unproven", "_until", "_very")

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}  # the one met last is last
        self._very: dict[bytes, _Kind] = {}  # the same of the very requests
        # Very requests of clients that are bound, which only a good answer to them elsewhere can prove.
        self._unproven: dict[bytes, tuple[int, Mark]] = {}
        self._clients: dict[
            int, set[str]
        ] = {}  # of each row two that have met failures there, at most
        # Of each row the kinds that have failed there and nowhere else, with the mark that is not blamed yet.
        self._held: dict[int, dict[bytes, list[Mark]]] = {}
        self._open: set[bytes] = set()  # kinds that no server is known to answer well
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<Blame of {len(self._kinds)} kinds of requests>"

    def __bool__(self) -> bool:
        """Whether it wants to hear of good answers. A failure where there was a good one is told anyway."""
        return bool(self._open)

    def failed(self, asked: Asked, row: int, mark: Mark, now: float) -> list[Mark]:
        """Which failures the server in ``row`` is to be blamed for, now that it has failed such a request.

        ``mark`` is the caller's note of this one. An earlier one is among them where this shows that it was
        the server's too.
        """
        self.forget(now)
        self._until = now + REMEMBER_SECONDS
        kind = asked.kind
        known, very = self._meet(kind), self._meet_very(asked.very)
        for one in (known, very):
            one.good.discard(row)
            one.bad.add(row)
        is_alone = self._is_alone(asked.client, row)
        if very.good or (known.good and not is_alone and len(very.bad) == 1):
            return [mark]
        if not known.good or is_alone:
            self._open.add(kind)
        if len(very.bad) > 1:
            self._unproven.pop(asked.very, None)
            self._excuse(kind, known)
            return []
        if is_alone:
            _make_room(self._unproven)
            self._unproven[asked.very] = row, mark
            return []
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

    def is_at_fault(self, asked: Asked) -> bool:
        """Whether such requests fail wherever they were tried, at two servers or more."""
        return any(
            known is not None and len(known.bad) > 1 and not known.good
            for known in (self._very.get(asked.very), self._kinds.get(asked.kind))
        )

    def answered(self, asked: Asked, row: int) -> list[tuple[int, Mark]]:
        """The server in ``row`` has answered such a request well.

        Rows of the servers whose failures that proves to be their own, each with the mark of one.
        """
        self._held.pop(row, None)
        self._clients.pop(row, None)
        known = self._kinds.get(asked.kind)
        if known is None:
            return []
        for one in (known, self._very.get(asked.very)):
            if one is not None:
                one.bad.discard(row)
                one.good.add(row)
        self._open.discard(asked.kind)
        held = ((one, self._held.get(one, {}).pop(asked.kind, [])) for one in known.bad)
        proven = [(one, mark) for one, marks in held for mark in marks]
        unproven = self._unproven.pop(asked.very, None)
        if unproven is not None and unproven[0] != row:
            proven.append(unproven)
        return proven

    def forget(self, now: float) -> bool:
        """Whether nothing has failed for so long that all of it is forgotten now."""
        if now < self._until:
            return False
        for known in (
            self._kinds,
            self._open,
            self._held,
            self._very,
            self._unproven,
            self._clients,
        ):
            known.clear()
        return True

    def _is_alone(self, client: str, row: int) -> bool:
        """Whether a client that may stay at its server is the only one that has met failures there."""
        if not client:
            return False
        clients = self._clients.setdefault(row, set())
        if len(clients) < 2:
            clients.add(client)
        return len(clients) < 2

    def _excuse(self, kind: bytes, known: _Kind) -> None:
        """What was held against servers that have failed such requests is dropped."""
        for row in known.bad:
            self._held.get(row, {}).pop(kind, None)

    def _meet_very(self, request: bytes) -> _Kind:
        very = self._very.pop(request, None)
        if very is None:
            very = _Kind()
            _make_room(self._very)
        self._very[request] = very
        return very

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


def _make_room(met: dict[bytes, Any]) -> None:
    if len(met) >= MOST_KINDS:
        del met[next(iter(met))]


def _taken(marks: list[Mark]) -> list[Mark]:
    """What was in the list, which is empty then."""
    taken = marks.copy()
    marks.clear()
    return taken
