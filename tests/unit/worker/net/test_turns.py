"""app.worker.net.turns: who has much to do goes on when the loop has looked at the others."""

from __future__ import annotations

import socket
from typing import Any

import gevent
import pytest

from app.telemetry import log
from app.worker.net import turns as module
from app.worker.net.turns import Turns


def test_what_is_ready_comes_before_the_next_turn() -> None:
    """A descriptor with bytes too, which gevent.sleep(0) may leave for milliseconds."""
    near, far = socket.socketpair()
    order: list[str] = []
    watcher = gevent.get_hub().loop.io(near.fileno(), 1)

    def heard() -> None:
        watcher.stop()
        order.append("heard")

    watcher.start(heard)
    far.sendall(b"x")
    turns = Turns()
    turns.next()
    order.append("turn")
    turns.next()
    watcher.close()
    near.close()
    far.close()
    assert order == ["heard", "turn"]


def test_all_go_on_in_their_order() -> None:
    """Who wants another turn waits behind those who had none."""
    turns = Turns()
    order: list[str] = []

    def work(name: str) -> None:
        for _ in range(3):
            turns.next()
            order.append(name)

    gevent.joinall([gevent.spawn(work, name) for name in "abc"], timeout=5, raise_error=True)
    assert "".join(order) == "abcabcabc"
    assert repr(turns) == "<Turns 0 waiting>"


def test_a_turn_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over the rest wait for the next, however many they are."""
    clock = iter(range(1000))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    turns = Turns()
    order: list[str] = []

    def work(name: str) -> None:
        turns.next()
        order.append(name)
        gevent.get_hub().loop.run_callback(order.append, "loop")

    gevent.joinall([gevent.spawn(work, name) for name in "ab"], timeout=5, raise_error=True)
    assert order[:3] == ["a", "loop", "b"]


def test_who_is_interrupted_waits_no_longer() -> None:
    """It is not woken a second time."""
    turns = Turns()
    waiting = gevent.spawn(turns.next)
    gevent.sleep(0)
    waiting.kill()
    assert waiting.dead
    assert repr(turns) == "<Turns 0 waiting>"
    turns.next()


def test_who_fails_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of its greenlet is logged."""
    told: list[Any] = []
    monkeypatch.setattr(log, "uncaught", lambda *words: told.append(words[-1]))
    turns = Turns()

    def fail() -> None:
        turns.next()
        raise ValueError("mine")

    gevent.spawn_raw(fail)
    gevent.sleep(0)
    turns.next()
    turns.next()
    assert [str(error) for error in told] == ["mine"]
