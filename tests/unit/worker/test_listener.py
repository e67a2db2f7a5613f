"""Which worker a new connection is for, and how it is left to another."""

from __future__ import annotations

from typing import Any

import pytest

from app.shared.layout import CONNECTIONS, GOES, LEAVING, PID, STAYS
from app.worker import listener
from app.worker.listener import YIELD_SECONDS, Listener, Share, should_defer


@pytest.mark.parametrize(
    ("mine", "others", "is_deferred"),
    [
        (0, [], False),  # alone
        (500, [], False),
        (8, [0], False),  # even, as far as it matters
        (9, [0], True),
        (17, [8], False),  # an eighth, and eight
        (18, [8], True),
        (1020, [900, 1000], False),
        (1021, [900, 1000], True),  # the one with the fewest counts
        (0, [5, 7], False),
    ],
)
def test_who_has_clearly_more_defers(mine: int, others: list[int], is_deferred: bool) -> None:
    """Small differences are not worth a pause."""
    assert should_defer(mine, others) is is_deferred


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_trickle_is_shared(workers: int) -> None:
    """Whoever is woken first, if the one with the fewest takes what it is left, nobody has much more."""
    counts = [0] * workers
    for number in range(400):
        first = number % 2  # two workers that always are quicker than the others
        others = counts[:first] + counts[first + 1 :]
        taker = counts.index(min(counts)) if should_defer(counts[first], others) else first
        counts[taker] += 1
    assert max(counts) <= min(counts) + 9 + min(counts) // 8


class Clock:
    """Stands for monotonic()."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Accepting(Listener):
    """One without a socket or a loop."""

    def __init__(self, defers: Any) -> None:
        self._defers = defers
        self._waited_until = 0.0
        self.rests = 0
        self.socket: Any = self

    def _accept(self) -> Any:
        raise BlockingIOError  # far enough

    def _rest(self) -> None:
        self.rests += 1


def test_one_pause_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still there after it is taken; the next one, later, is left again."""
    clock = Clock()
    monkeypatch.setattr(listener, "monotonic", clock)
    accepting = Accepting(lambda: True)
    accepting.do_read()
    assert accepting.rests == 1
    clock.now += YIELD_SECONDS
    accepting.do_read()
    assert accepting.rests == 1
    clock.now += 5 * YIELD_SECONDS
    accepting.do_read()
    assert accepting.rests == 2


def test_no_pause_where_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where nobody is to be asked."""
    for defers in (lambda: False, None):
        accepting = Accepting(defers)
        accepting.do_read()
        assert accepting.rests == 0


class Closing(Listener):
    """One on which some connections wait."""

    def __init__(self, waiting: list[Any]) -> None:
        self._defers = lambda: True
        self._waited_until = 0.0
        self.waiting = waiting
        self.handled: list[int] = []
        self.socket: Any = self

    def do_read(self) -> Any:
        assert self._defers is None, "left to another at the end"
        if not self.waiting:
            return None
        if isinstance(one := self.waiting.pop(0), OSError):
            raise one
        return (one,)

    def do_handle(self, *args: Any) -> None:
        self.handled.append(args[0])


@pytest.mark.parametrize(
    ("waiting", "handled"),
    [([], []), ([1, 2, 3], [1, 2, 3]), ([1, OSError(24, "no more"), 2], [1])],
)
def test_what_waits_is_accepted_before_the_end(
    monkeypatch: pytest.MonkeyPatch, waiting: list[Any], handled: list[int]
) -> None:
    """The last process to close the socket would reset it; a second close is none."""
    closed: list[Any] = []

    def close(self: Any) -> None:
        del self.socket
        closed.append(self)

    monkeypatch.setattr(listener.StreamServer, "close", close)
    closing = Closing(waiting)
    closing.close()
    closing.close()
    assert (closing.handled, closed) == (handled, [closing])


class Told:
    """The part of the table in which workers tell each other."""

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def of_each_slot(self, cell: int) -> list[int]:
        assert cell == CONNECTIONS
        return list(self.counts)


@pytest.mark.parametrize(
    ("told", "is_deferred"),
    [
        ((0, 101, 51), True),
        ((0, 101, 0), False),  # takes no more, or is nobody: it is not asked for
        ((0, 101, 100), False),
        ((0, 1, 0), False),
    ],
)
def test_a_worker_knows_its_share(told: tuple[int, ...], is_deferred: bool) -> None:
    """By what the others told; its own number it knows better than the table."""
    table: Any = Told(*told)
    share = Share({}, table, 1, lambda: 100, lambda: True)
    assert share.defers() is is_deferred


@pytest.mark.parametrize(
    ("told", "is_alone"), [((0, 5, 0), True), ((0, 0, 1), False), ((0,), True)]
)
def test_a_worker_knows_whether_others_accept(told: tuple[int, ...], is_alone: bool) -> None:
    """Its own cell, and those of who takes no more, are nobody."""
    table: Any = Told(*told)
    assert Share({}, table, 1, lambda: 0, lambda: False).is_alone() is is_alone


class Slots:
    """The same, with who is there and who goes: a triple for each slot, the first is the ledger's."""

    def __init__(self, *of_workers: tuple[int, int, int]) -> None:
        self.slots = [(0, 0, 0), *of_workers]

    def of_each_slot(self, cell: int) -> list[int]:
        return [slot[(PID, CONNECTIONS, LEAVING).index(cell)] for slot in self.slots]


@pytest.mark.parametrize(
    ("other", "is_awaited"),
    [
        ((77, 0, STAYS), True),
        ((0, 0, STAYS), False),  # nobody
        ((77, 1, STAYS), False),  # accepts
        ((77, 0, GOES), False),
    ],
)
def test_a_worker_knows_whether_one_is_on_its_way(
    other: tuple[int, int, int], is_awaited: bool
) -> None:
    """It has a slot and has not accepted yet. Its own slot says nothing."""
    table: Any = Slots((66, 0, STAYS), other)
    assert Share({}, table, 1, lambda: 0, lambda: False).is_awaited() is is_awaited


def test_a_worker_tells_how_many_it_has_and_whether_it_takes_more() -> None:
    """One more than it has, so that 0 is nobody; as soon as it has to go it is nobody."""
    cells: dict[int, int] = {}
    table: Any = Told()
    takes_more = True
    share = Share(cells, table, 1, lambda: 7, lambda: takes_more)
    share.announce()
    assert cells == {CONNECTIONS: 8}
    takes_more = False
    share.announce(1.0)
    assert cells == {CONNECTIONS: 0}
