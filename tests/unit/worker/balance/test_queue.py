"""The queue: who waits, who gets the next place, and what is left when a wait ends otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import pytest

from app.config import Queue as Settings
from app.errors import ClientGone, NoBackend
from app.shared.layout import SLOT_HEADER, WAITING_NS
from app.worker.balance import queue as queues
from app.worker.balance.queue import Queue

SECOND = 1_000_000_000


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.ns = 100 * SECOND

    def __call__(self) -> int:
        return self.ns


@pytest.fixture(autouse=True, name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queues, "monotonic_ns", clock)
    return clock


class House:
    """Backends with a number of free places each, behind a queue whose timer is the test."""

    def __init__(self, size: int = 10, timeout: float = 3.0, total: float = 0.0) -> None:
        self.free = {"a": 0, "b": 0}
        self.others: list[int] = []  # what other workers announce
        self.lost: set[str] = set()
        self.reason = ""  # why there is no backend at all
        self.cells = memoryview(bytearray(8 * SLOT_HEADER)).cast("Q")
        self.queue: Queue[str] = Queue(self, self.cells)
        self.queue.adopt(Settings(size, timeout), total)
        self.ended: list[tuple[str, str]] = []  # who, with what

    def has_room(self, backend: str) -> bool:
        return self.free[backend] > 0

    def claim(self, backend: str) -> bool:
        if self.free[backend] == 0:
            return False
        self.free[backend] -= 1
        return True

    def release(self, backend: str) -> None:
        self.free[backend] += 1

    def waiting_since(self) -> list[int]:
        return [0, *self.others, self.cells[WAITING_NS]]

    def is_lost(self, backend: str) -> bool:
        return backend in self.lost

    def candidates(self) -> Iterable[str]:
        if self.reason:
            raise NoBackend(reason=self.reason)
        return list(self.free)

    def come(self, name: str, *tried: str, only: str | None = None) -> gevent.Greenlet:
        """A request that waits from now on."""

        def wait() -> None:
            try:
                self.ended.append((name, self.queue.wait(tried, only)))
            except NoBackend as error:
                self.ended.append((name, error.reason))
            except ClientGone:
                self.ended.append((name, "gone"))

        greenlet = gevent.spawn(wait)
        gevent.sleep(0)
        return greenlet

    def leave(self, greenlet: gevent.Greenlet) -> None:
        """Its client has gone: the hub throws that into it."""
        gevent.get_hub().loop.run_callback(greenlet.throw, ClientGone())

    def give(self, backend: str) -> bool:
        """A place is freed in this worker."""
        self.release(backend)
        return self.settled(self.queue.hand_over(backend))

    def look(self) -> None:
        """What the timer does."""
        if self.queue._timer is not None:
            self.queue._look()
        self.settled(None)

    def settled(self, value: Any) -> Any:
        for _ in range(3):
            gevent.sleep(0)
        return value


@pytest.fixture(name="house")
def _house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(queues, "LOOK_SECONDS", 3600.0)
    house = House()
    yield house
    house.reason = "none_healthy"
    house.look()
    assert house.queue._timer is None


def test_first_come_first_served(house: House) -> None:
    """Each place that is freed goes to the one who has waited longest."""
    for name in "xyz":
        house.come(name)
    assert [house.give("a") for _ in range(4)] == [True, True, True, False]
    assert house.ended == [("x", "a"), ("y", "a"), ("z", "a")]
    assert house.free["a"] == 1


def test_a_backend_that_was_tried_is_left_to_the_next(house: House) -> None:
    """Who comes first for another one keeps its turn."""
    house.come("x", "a")
    house.come("y")
    house.give("a")
    assert house.ended == [("y", "a")]
    house.give("b")
    assert house.ended == [("y", "a"), ("x", "b")]


def test_places_freed_elsewhere_are_found(house: House) -> None:
    """By looking, as many as there are."""
    for name in "xyz":
        house.come(name)
    house.free["b"] = 2
    house.look()
    assert house.ended == [("x", "b"), ("y", "b")]


def test_the_time_in_the_queue_is_bounded(house: House, clock: Clock) -> None:
    """Each request has its own time; over it, it hears that all are full."""
    house.come("x")
    clock.ns += SECOND
    house.come("y")
    clock.ns += 2 * SECOND
    house.look()
    assert house.ended == [("x", "all_full")]
    house.give("a")
    assert house.ended == [("x", "all_full"), ("y", "a")]


def test_the_time_of_the_whole_request_bounds_it_too(house: House, clock: Clock) -> None:
    """timeouts.total may be shorter."""
    house.queue.adopt(Settings(10, 3.0), 0.5)
    house.come("x")
    clock.ns += SECOND // 2
    house.look()
    assert house.ended == [("x", "all_full")]


def test_a_full_queue_refuses_at_once(house: House) -> None:
    """The first ones stay."""
    house.queue.adopt(Settings(2, 3.0), 0.0)
    for name in "xyz":
        house.come(name)
    assert house.ended == [("z", "all_full")]
    house.give("a")
    assert house.ended[1:] == [("x", "a")]


def test_without_a_queue_nobody_waits(house: House) -> None:
    """Neither for places nor for others."""
    house.queue.adopt(None, 0.0)
    house.others = [1]
    assert not house.queue.is_due()
    house.come("x")
    assert house.ended == [("x", "all_full")]


def test_a_client_that_has_gone_leaves_no_gap(house: House) -> None:
    """The place is the next one's."""
    gone = house.come("x")
    house.come("y")
    house.leave(gone)
    assert house.settled(house.ended) == [("x", "gone")]
    house.give("a")
    assert house.ended == [("x", "gone"), ("y", "a")]


def test_a_client_that_goes_just_when_it_is_served_gives_the_place_back(house: House) -> None:
    """Handed over, but not yet told."""
    gone = house.come("x")
    house.leave(gone)  # noticed in the hub's next round
    house.release("a")
    assert house.queue.hand_over("a")
    house.settled(None)
    assert house.ended == [("x", "gone")]
    assert house.free["a"] == 1


def test_when_no_backend_is_left_waiting_ends(house: House) -> None:
    """With the reason that there is then."""
    house.come("x")
    house.come("y", "a")
    house.reason = "none_healthy"
    house.look()
    assert house.ended == [("x", "none_healthy"), ("y", "none_healthy")]


# --- several workers -----------------------------------------------------------------------------


def test_the_oldest_is_announced(house: House, clock: Clock) -> None:
    """For other workers to see, and nothing when nobody waits."""
    house.come("x")
    first = clock.ns
    clock.ns += 5
    house.come("y")
    assert house.cells[WAITING_NS] == first
    house.give("a")
    assert house.cells[WAITING_NS] == first + 5
    house.give("a")
    assert house.cells[WAITING_NS] == 0


def test_who_waits_anywhere_comes_before_who_comes_now(house: House) -> None:
    """Of this worker or another one."""
    assert not house.queue.is_due()
    house.others = [7]
    assert house.queue.is_due()
    house.others = []
    house.come("x")
    assert house.queue.is_due()


def test_a_place_is_left_to_the_worker_that_has_waited_longer(house: House, clock: Clock) -> None:
    """When that one is served it is our turn."""
    house.come("x")
    house.others = [clock.ns - 1]
    assert house.give("a") is False
    house.look()
    assert house.ended == []
    house.others = [clock.ns + 1]
    house.look()
    assert house.ended == [("x", "a")]


def test_a_worker_that_does_not_take_its_turn_is_not_waited_for(house: House, clock: Clock) -> None:
    """Killed or stopped, or it has tried what is free: for 10 ms once, not for every place."""
    house.come("x")
    house.come("y")
    house.others = [clock.ns - 1]
    assert house.give("a") is False
    clock.ns += queues.PATIENCE_NS
    house.look()
    assert house.ended == [("x", "a")]
    house.give("a")
    assert house.ended == [("x", "a"), ("y", "a")]


def test_patience_is_new_for_another_one(house: House, clock: Clock) -> None:
    """One that has given up on one worker still lets the next go first."""
    house.come("x")
    house.come("y")
    house.others = [clock.ns - 1]
    house.give("a")
    clock.ns += queues.PATIENCE_NS
    house.look()
    house.others = [clock.ns - SECOND, house.others[0]]
    assert house.give("a") is False


def test_who_was_given_up_on_is_not_waited_for_again(house: House, clock: Clock) -> None:
    """Also when another one has come in between, and has been served."""
    house.come("x")
    house.come("y")
    stuck, passing = clock.ns - SECOND, clock.ns - 1
    house.others = [stuck]
    house.give("a")
    clock.ns += queues.PATIENCE_NS
    house.look()
    assert house.ended == [("x", "a")]
    house.others = [stuck, passing]
    assert house.give("a") is False
    house.others = [stuck]
    house.look()
    assert house.ended == [("x", "a"), ("y", "a")]


# --- how long --------------------------------------------------------------------------------------


def test_the_wait_is_estimated_by_the_rate_of_service(house: House, clock: Clock) -> None:
    """A place every half second and three in front: two seconds. Unknown: the longest there is."""
    for number in range(5):
        house.come(str(number))
    assert house.queue.seconds_to_a_place() == 3.0
    house.give("a")
    clock.ns += SECOND // 2
    house.give("a")
    clock.ns += SECOND // 2
    assert house.queue.seconds_to_a_place() == 2.0


def test_the_rate_of_an_earlier_rush_says_nothing(house: House, clock: Clock) -> None:
    """It was measured while others waited."""
    house.come("x")
    house.give("a")
    house.look()
    clock.ns += 60 * SECOND
    house.come("y")
    assert house.queue.seconds_to_a_place() == 3.0


@pytest.mark.parametrize("act", [repr, lambda queue: queue.hand_over("a")], ids=["repr", "give"])
def test_an_empty_queue_is_quiet(house: House, act: Callable[[Any], object]) -> None:
    """Nobody to give a place to."""
    act(house.queue)
    assert house.ended == []


# --- requests that want one backend only ---------------------------------------------------------


def test_who_wants_one_backend_waits_for_that(house: House) -> None:
    """And leaves other places to those who came later."""
    house.come("x", only="b")
    house.come("y")
    house.give("a")
    assert house.ended == [("y", "a")]
    house.free["b"] = 1
    house.look()
    assert house.ended == [("y", "a"), ("x", "b")]


def test_nobody_waits_behind_one_who_wants_one_backend(house: House) -> None:
    """Neither in this worker nor in others; but it waits behind all that came before it."""
    house.come("x", only="b")
    assert not house.queue.is_due()
    assert house.cells[WAITING_NS] == 0
    house.come("y")
    assert house.queue.is_due()
    house.come("z", only="b")
    for expected in ("x", "y", "z"):
        house.give("b")
        assert house.ended[-1] == (expected, "b")
    assert house.cells[WAITING_NS] == 0


def test_other_workers_do_not_hold_up_who_wants_one_backend(house: House, clock: Clock) -> None:
    """What they announce is about places that any of theirs could use."""
    house.others = [clock.ns - SECOND]
    house.come("x", only="b")
    house.come("y")
    house.give("b")
    assert house.ended == [("x", "b")]
    house.give("b")
    assert house.ended == [("x", "b")]  # the other's turn
    house.others = []
    house.look()


def test_a_wait_ends_when_its_backend_is_lost(house: House) -> None:
    """At the next look, not at the end of its time."""
    house.come("x", only="b")
    house.come("y")
    house.lost.add("b")
    house.look()
    assert house.ended == [("x", "none_healthy")]


def test_a_wait_for_one_backend_has_its_time_too(house: House, clock: Clock) -> None:
    """As any other."""
    house.come("x", only="b")
    clock.ns += 3 * SECOND
    house.look()
    assert house.ended == [("x", "all_full")]
