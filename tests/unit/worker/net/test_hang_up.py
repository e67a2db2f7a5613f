"""app.worker.net.hang_up: the end of a peer behind what it has said. Over Unix sockets."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import gevent
import pytest

from app.worker.net.hang_up import HangUps, has_hung_up

pytestmark = pytest.mark.skipif(not hasattr(select, "EPOLLRDHUP"), reason="Linux alone tells")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


def turn() -> None:
    """Let the loop look at its descriptors."""
    gevent.sleep(0.001)


def test_an_end_shows_behind_what_is_unread(pair: Pair) -> None:
    """Of bytes alone nothing shows."""
    near, far = pair
    far.sendall(b"early")
    assert has_hung_up(near.fileno()) is False
    far.shutdown(socket.SHUT_WR)
    assert has_hung_up(near.fileno()) is True
    assert near.recv(9) == b"early", "nothing was read"


def test_who_watches_is_told_once(pair: Pair) -> None:
    """Of the end, not of bytes; and can watch again."""
    near, far = pair
    told: list[int] = []
    watched = HangUps()
    watched.watch(near.fileno(), lambda: told.append(1))
    far.sendall(b"early")
    turn()
    assert told == []
    far.shutdown(socket.SHUT_WR)
    turn()
    far.close()
    turn()
    assert told == [1]
    watched.watch(near.fileno(), lambda: told.append(2))
    turn()
    assert told == [1, 2]
    watched.forget(near.fileno())


def test_who_forgets_is_told_nothing(pair: Pair) -> None:
    """Nor is whoever is given the same number."""
    near, far = pair
    told: list[int] = []
    watched = HangUps()
    watched.watch(near.fileno(), lambda: told.append(1))
    watched.forget(near.fileno())
    watched.forget(near.fileno())
    far.close()
    turn()
    assert told == []
