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


class QueueBench:
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


@pytest.fixture(name="bench")
def _bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueBench]:
    monkeypatch.setattr(queues, "LOOK_SECONDS", 3600.0)
    bench = QueueBench()
    yield bench
    bench.reason = "none_healthy"
    bench.look()
    assert bench.queue._timer is None


def test_first_come_first_served(bench: QueueBench) -> None:
    """Each place that is freed goes to the one who has waited longest."""
    for name in "xyz":
        bench.come(name)
    assert [bench.give("a") for _ in range(4)] == [True, True, True, False]
    assert bench.ended == [("x", "a"), ("y", "a"), ("z", "a")]
    assert bench.free["a"] == 1


def test_a_backend_that_was_tried_is_left_to_the_next(bench: QueueBench) -> None:
    """Who comes first for another one keeps its turn."""
    bench.come("x", "a")
    bench.come("y")
    bench.give("a")
    assert bench.ended == [("y", "a")]
    bench.give("b")
    assert bench.ended == [("y", "a"), ("x", "b")]


def test_places_freed_elsewhere_are_found(bench: QueueBench) -> None:
    """By looking, as many as there are."""
    for name in "xyz":
        bench.come(name)
    bench.free["b"] = 2
    bench.look()
    assert bench.ended == [("x", "b"), ("y", "b")]


def test_the_time_in_the_queue_is_bounded(bench: QueueBench, clock: Clock) -> None:
    """Each request has its own time; over it, it hears that all are full."""
    bench.come("x")
    clock.ns += SECOND
    bench.come("y")
    clock.ns += 2 * SECOND
    bench.look()
    assert bench.ended == [("x", "all_full")]
    bench.give("a")
    assert bench.ended == [("x", "all_full"), ("y", "a")]


def test_the_time_of_the_whole_request_bounds_it_too(bench: QueueBench, clock: Clock) -> None:
    """timeouts.total may be shorter."""
    bench.queue.adopt(Settings(10, 3.0), 0.5)
    bench.come("x")
    clock.ns += SECOND // 2
    bench.look()
    assert bench.ended == [("x", "all_full")]


def test_a_full_queue_refuses_at_once(bench: QueueBench) -> None:
    """The first ones stay."""
    bench.queue.adopt(Settings(2, 3.0), 0.0)
    for name in "xyz":
        bench.come(name)
    assert bench.ended == [("z", "all_full")]
    bench.give("a")
    assert bench.ended[1:] == [("x", "a")]


def test_without_a_queue_nobody_waits(bench: QueueBench) -> None:
    """Neither for places nor for others."""
    bench.queue.adopt(None, 0.0)
    bench.others = [1]
    assert not bench.queue.is_due()
    bench.come("x")
    assert bench.ended == [("x", "all_full")]


def test_a_client_that_has_gone_leaves_no_gap(bench: QueueBench) -> None:
    """The place is the next one's."""
    gone = bench.come("x")
    bench.come("y")
    bench.leave(gone)
    assert bench.settled(bench.ended) == [("x", "gone")]
    bench.give("a")
    assert bench.ended == [("x", "gone"), ("y", "a")]


def test_a_client_that_goes_just_when_it_is_served_gives_the_place_back(bench: QueueBench) -> None:
    """Handed over, but not yet told."""
    gone = bench.come("x")
    bench.leave(gone)  # noticed in the hub's next round
    bench.release("a")
    assert bench.queue.hand_over("a")
    bench.settled(None)
    assert bench.ended == [("x", "gone")]
    assert bench.free["a"] == 1


def test_when_no_backend_is_left_waiting_ends(bench: QueueBench) -> None:
    """With the reason that there is then."""
    bench.come("x")
    bench.come("y", "a")
    bench.reason = "none_healthy"
    bench.look()
    assert bench.ended == [("x", "none_healthy"), ("y", "none_healthy")]


# --- several workers -----------------------------------------------------------------------------


def test_the_oldest_is_announced(bench: QueueBench, clock: Clock) -> None:
    """For other workers to see, and nothing when nobody waits."""
    bench.come("x")
    first = clock.ns
    clock.ns += 5
    bench.come("y")
    assert bench.cells[WAITING_NS] == first
    bench.give("a")
    assert bench.cells[WAITING_NS] == first + 5
    bench.give("a")
    assert bench.cells[WAITING_NS] == 0


def test_who_waits_anywhere_comes_before_who_comes_now(bench: QueueBench) -> None:
    """Of this worker or another one."""
    assert not bench.queue.is_due()
    bench.others = [7]
    assert bench.queue.is_due()
    bench.others = []
    bench.come("x")
    assert bench.queue.is_due()


def test_a_place_is_left_to_the_worker_that_has_waited_longer(
    bench: QueueBench, clock: Clock
) -> None:
    """When that one is served it is our turn."""
    bench.come("x")
    bench.others = [clock.ns - 1]
    assert bench.give("a") is False
    bench.look()
    assert bench.ended == []
    bench.others = [clock.ns + 1]
    bench.look()
    assert bench.ended == [("x", "a")]


def test_a_worker_that_does_not_take_its_turn_is_not_waited_for(
    bench: QueueBench, clock: Clock
) -> None:
    """Killed or stopped, or it has tried what is free: for 10 ms once, not for every place."""
    bench.come("x")
    bench.come("y")
    bench.others = [clock.ns - 1]
    assert bench.give("a") is False
    clock.ns += queues.PATIENCE_NS
    bench.look()
    assert bench.ended == [("x", "a")]
    bench.give("a")
    assert bench.ended == [("x", "a"), ("y", "a")]


def test_patience_is_new_for_another_one(bench: QueueBench, clock: Clock) -> None:
    """One that has given up on one worker still lets the next go first."""
    bench.come("x")
    bench.come("y")
    bench.others = [clock.ns - 1]
    bench.give("a")
    clock.ns += queues.PATIENCE_NS
    bench.look()
    bench.others = [clock.ns - SECOND, bench.others[0]]
    assert bench.give("a") is False


def test_who_was_given_up_on_is_not_waited_for_again(bench: QueueBench, clock: Clock) -> None:
    """Also when another one has come in between, and has been served."""
    bench.come("x")
    bench.come("y")
    stuck, passing = clock.ns - SECOND, clock.ns - 1
    bench.others = [stuck]
    bench.give("a")
    clock.ns += queues.PATIENCE_NS
    bench.look()
    assert bench.ended == [("x", "a")]
    bench.others = [stuck, passing]
    assert bench.give("a") is False
    bench.others = [stuck]
    bench.look()
    assert bench.ended == [("x", "a"), ("y", "a")]


# --- how long --------------------------------------------------------------------------------------


def test_the_wait_is_estimated_by_the_rate_of_service(bench: QueueBench, clock: Clock) -> None:
    """A place every half second and three in front: two seconds. Unknown: the longest there is."""
    for number in range(5):
        bench.come(str(number))
    assert bench.queue.seconds_to_a_place() == 3.0
    bench.give("a")
    clock.ns += SECOND // 2
    bench.give("a")
    clock.ns += SECOND // 2
    assert bench.queue.seconds_to_a_place() == 2.0


def test_the_rate_of_an_earlier_rush_says_nothing(bench: QueueBench, clock: Clock) -> None:
    """It was measured while others waited."""
    bench.come("x")
    bench.give("a")
    bench.look()
    clock.ns += 60 * SECOND
    bench.come("y")
    assert bench.queue.seconds_to_a_place() == 3.0


@pytest.mark.parametrize("act", [repr, lambda queue: queue.hand_over("a")], ids=["repr", "give"])
def test_an_empty_queue_is_quiet(bench: QueueBench, act: Callable[[Any], object]) -> None:
    """Nobody to give a place to."""
    act(bench.queue)
    assert bench.ended == []


# --- requests that want one backend only ---------------------------------------------------------


def test_who_wants_one_backend_waits_for_that(bench: QueueBench) -> None:
    """And leaves other places to those who came later."""
    bench.come("x", only="b")
    bench.come("y")
    bench.give("a")
    assert bench.ended == [("y", "a")]
    bench.free["b"] = 1
    bench.look()
    assert bench.ended == [("y", "a"), ("x", "b")]


def test_nobody_waits_behind_one_who_wants_one_backend(bench: QueueBench) -> None:
    """Neither in this worker nor in others; but it waits behind all that came before it."""
    bench.come("x", only="b")
    assert not bench.queue.is_due()
    assert bench.cells[WAITING_NS] == 0
    bench.come("y")
    assert bench.queue.is_due()
    bench.come("z", only="b")
    for expected in ("x", "y", "z"):
        bench.give("b")
        assert bench.ended[-1] == (expected, "b")
    assert bench.cells[WAITING_NS] == 0


def test_other_workers_do_not_hold_up_who_wants_one_backend(
    bench: QueueBench, clock: Clock
) -> None:
    """What they announce is about places that any of theirs could use."""
    bench.others = [clock.ns - SECOND]
    bench.come("x", only="b")
    bench.come("y")
    bench.give("b")
    assert bench.ended == [("x", "b")]
    bench.give("b")
    assert bench.ended == [("x", "b")]  # the other's turn
    bench.others = []
    bench.look()


def test_a_wait_ends_when_its_backend_is_lost(bench: QueueBench) -> None:
    """At the next look, not at the end of its time."""
    bench.come("x", only="b")
    bench.come("y")
    bench.lost.add("b")
    bench.look()
    assert bench.ended == [("x", "none_healthy")]


def test_a_wait_for_one_backend_has_its_time_too(bench: QueueBench, clock: Clock) -> None:
    """As any other."""
    bench.come("x", only="b")
    clock.ns += 3 * SECOND
    bench.look()
    assert bench.ended == [("x", "all_full")]
