"""The mark up to which a fast source's bytes gather before they are moved."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
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
    deadline: Any = SimpleNamespace(at=NEVER)
    splice.splice(end, end, 10 * MIB, deadline, never, never, moved.append)
    assert sum(moved) == 10 * MIB
    assert len(taken) == 4


@pytest.mark.parametrize(("limit", "waits"), [(NEVER, 3), (99.0, 1)])
def test_a_slow_sink_has_time_up_to_the_limit_of_all_waits(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: float, waits: int
) -> None:
    """It takes a little whenever it is looked at, and nothing fits yet: that is no silence."""
    waited: list[int] = []

    def wait() -> None:
        waited.append(len(waited))
        if len(waited) < 3:
            raise Expired

    def move(source: int, sink: int, count: int, flags: int) -> int:
        if sink == 2 and len(waited) < 3:
            raise BlockingIOError
        return count

    monkeypatch.setattr(os, "splice", move)
    monkeypatch.setattr(splice, "_open_pipe", lambda: (os.dup(0), os.dup(0)))
    monkeypatch.setattr(splice, "_pipes", [])
    monkeypatch.setattr(splice, "taken", lambda raw: len(waited))
    raw = SimpleNamespace(fileno=lambda: 2, setsockopt=lambda *_: None)
    end: Any = SimpleNamespace(raw=raw, wait_writable=wait)
    deadline: Any = SimpleNamespace(at=NEVER, limit=limit)
    moved: list[int] = []
    with nullcontext() if limit == NEVER else pytest.raises(SinkExpired):
        splice.splice(end, end, MIB, deadline, never, never, moved.append)
    assert len(waited) == waits
    assert sum(moved) == (MIB if limit == NEVER else 0)
