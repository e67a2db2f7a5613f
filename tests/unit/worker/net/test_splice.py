"""The mark up to which a fast source's bytes gather before they are moved."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from app.worker.net import splice
from app.worker.net.deadlines import NEVER, TICK, Expired
from app.worker.net.splice import GATHERED_BYTES, SinkExpired, _Gathering

MIB = 1 << 20


class Clock:
    """Stands for monotonic()."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Raw:
    """A socket that notes its mark."""

    low = 1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Only the low-water mark is ever set."""
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.low = value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The module's clock."""
    clock = Clock()
    monkeypatch.setattr(splice, "monotonic", clock)
    return clock


def never() -> float:
    """No read timeout."""
    return NEVER


def fast(clock: Clock, raw: Any) -> _Gathering:
    """A source that sent 4 MiB in 50 ms."""
    gathering = _Gathering(raw)
    clock.now += 0.05
    gathering.count(4 * MIB)
    return gathering


def test_slow_source_is_read_at_its_first_byte(clock: Clock) -> None:
    """4 MiB in a fifth of a second is not worth a wait for more."""
    raw: Any = Raw()
    gathering = _Gathering(raw)
    clock.now += 0.2
    gathering.count(4 * MIB)
    assert gathering.before_wait(100 * MIB, never) == NEVER
    assert raw.low == 1
    assert not gathering.give_up()


def test_fast_source_gathers_and_is_waited_for_one_tick(clock: Clock) -> None:
    """The mark is raised, and the wait that it may prolong is short."""
    raw: Any = Raw()
    gathering = fast(clock, raw)
    assert gathering.before_wait(100 * MIB, never) == clock.now + TICK
    assert raw.low == GATHERED_BYTES


def test_read_timeout_that_is_nearer_counts(clock: Clock) -> None:
    """The mark never makes a wait longer than its deadline."""
    gathering = fast(clock, Raw())
    assert gathering.before_wait(100 * MIB, lambda: clock.now + 0.01) == clock.now + 0.01


def test_pause_takes_the_mark_back(clock: Clock) -> None:
    """A tick without enough: what is there is moved, and the next wait is for one byte."""
    raw: Any = Raw()
    gathering = fast(clock, raw)
    gathering.before_wait(100 * MIB, never)
    assert gathering.give_up()
    assert gathering.before_wait(100 * MIB, never) == NEVER
    assert raw.low == 1
    assert not gathering.give_up()


def test_mark_is_never_above_what_is_left(clock: Clock) -> None:
    """The last bytes of a body would never reach it."""
    raw: Any = Raw()
    gathering = fast(clock, raw)
    gathering.before_wait(100 * MIB, never)
    assert gathering.before_wait(GATHERED_BYTES - 1, never) == NEVER
    assert raw.low == 1


def test_socket_is_left_as_it_was(clock: Clock) -> None:
    """The next request on the connection must be read at its first byte."""
    raw: Any = Raw()
    gathering = fast(clock, raw)
    gathering.before_wait(100 * MIB, never)
    gathering.end()
    assert raw.low == 1


def test_what_never_waits_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source and a sink that are both fast move their 10 MiB in five turns."""
    taken: list[int] = []
    monkeypatch.setattr(splice, "turns", SimpleNamespace(next=lambda: taken.append(1)))
    monkeypatch.setattr(os, "splice", lambda source, sink, count, flags: min(count, MIB))
    end: Any = SimpleNamespace(raw=SimpleNamespace(fileno=lambda: -1, setsockopt=lambda *_: None))
    moved: list[int] = []
    deadline: Any = SimpleNamespace(at=NEVER, limit=NEVER)
    splice.splice(end, end, 10 * MIB, deadline, never, never, moved.append)
    assert sum(moved) == 10 * MIB
    assert len(taken) == 4


@pytest.mark.parametrize("patience", [5.0, NEVER])
def test_a_sink_that_takes_byte_by_byte_has_no_longer_than_the_limit(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Of timeouts.total; also where there is no timeouts.client."""
    took = iter(range(100))
    monkeypatch.setattr(splice, "taken", lambda _: next(took))
    deadline: Any = SimpleNamespace(at=NEVER, limit=clock.now + 2)
    waits: list[float] = []

    def wait() -> None:
        """Until the tick behind the wait's end; a byte was taken, but there is no room for more."""
        waits.append(deadline.at)
        clock.now = min(deadline.at, clock.now + 1)
        raise Expired

    def full(*_: Any, **__: Any) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "splice", full)
    sink: Any = SimpleNamespace(raw=SimpleNamespace(fileno=lambda: -1), wait_writable=wait)
    with pytest.raises(SinkExpired):
        splice._empty(-1, 1, sink, deadline, lambda: clock.now + patience, lambda _: None)
    assert waits == [102.0, 102.0]
