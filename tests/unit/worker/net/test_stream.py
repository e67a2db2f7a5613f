"""Messages that are posted: they leave in order, and nobody waits for them unasked. Over Unix sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from app.telemetry import log
from app.worker.net.stream import Outbox, RawSocket, Stream, reset_at_close

SOME = b"x" * 4096


class Pair:
    """A stream, and the other end of its connection."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream = Stream(RawSocket(fileno=ours.detach()))
        self.peer.settimeout(5)

    def fill(self) -> bytes:
        """Post more than the peer's kernel takes; all that was posted."""
        posted = b""
        while not (self.stream.posted and len(posted) > 1 << 20):
            message = b"%08d" % len(posted) + SOME
            self.stream.post(message)
            posted += message
            gevent.sleep(0)
        return posted

    def take(self, size: int) -> bytes:
        """What comes at the other end, while the stream's loop runs."""
        data = b""
        self.peer.setblocking(False)
        with gevent.Timeout(5):
            while len(data) < size:
                try:
                    data += self.peer.recv(65536)
                except BlockingIOError:
                    gevent.sleep(0)
        return data


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.stream.close()
    pair.peer.close()


def in_hub(function: Any) -> list[BaseException]:
    """Call it where nothing may wait; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    gevent.get_hub().loop.run_callback(run)
    gevent.sleep(0)
    gevent.sleep(0)
    return raised


def test_what_is_posted_to_one_that_takes_nothing_is_kept_in_order(pair: Pair) -> None:
    """Also in the hub: posting never waits."""
    posted = pair.fill()
    assert in_hub(lambda: pair.stream.post(b"last")) == []
    assert pair.take(len(posted) + 4) == posted + b"last"
    assert not pair.stream.posted


def test_posting_to_one_that_has_gone_raises_nothing(pair: Pair) -> None:
    """The reader finds out."""
    pair.fill()
    pair.peer.close()
    assert in_hub(lambda: [pair.stream.post(SOME) for _ in range(3)]) == []
    with gevent.Timeout(5):
        while pair.stream.posted:
            gevent.sleep(0)


def test_a_flush_waits_until_all_has_left(pair: Pair) -> None:
    """And a write comes behind what was posted."""
    posted = pair.fill()
    flushed: list[Any] = []

    def flush() -> None:
        pair.stream.flush()
        flushed.append(pair.stream.posted)
        pair.stream.write(b"behind")

    greenlet = gevent.spawn(flush)
    gevent.sleep(0)
    assert flushed == []
    assert pair.take(len(posted) + 6) == posted + b"behind"
    greenlet.join()
    assert flushed == [b""]


def test_what_is_posted_while_another_greenlet_writes_comes_behind(pair: Pair) -> None:
    """Never in the middle of its message."""
    message = b"%08d" % 7 + SOME * 1000
    writer = gevent.spawn(pair.stream.write, message)
    gevent.sleep(0)
    pair.stream.post(b"behind")
    pair.stream.post(b" it")
    gevent.sleep(0)
    assert pair.take(len(message) + 9) == message + b"behind it"
    writer.get(timeout=5)
    assert not pair.stream.posted


def test_what_was_posted_behind_a_write_that_failed_is_not_sent(pair: Pair) -> None:
    """It would be taken for a part of it."""
    writer = gevent.spawn(pair.stream.write, SOME * 1000)
    gevent.sleep(0)
    pair.stream.post(b"behind")
    writer.kill()
    assert not pair.stream.posted
    pair.peer.setblocking(False)
    while True:
        try:
            data = pair.peer.recv(1 << 20)
        except BlockingIOError:
            break
        assert set(data) == {ord("x")}


def test_a_flush_to_one_that_has_gone_raises(pair: Pair) -> None:
    """Who waits for it is told."""
    pair.fill()
    greenlet = gevent.spawn(pair.stream.flush)
    gevent.sleep(0)
    pair.peer.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        greenlet.get(timeout=5)


@pytest.mark.parametrize("is_gone", [False, True])
def test_closing_waits_for_nobody(pair: Pair, is_gone: bool) -> None:
    """Whoever closes, and whether the peer takes nothing or has gone."""
    pair.fill()
    if is_gone:
        pair.peer.close()
    assert in_hub(pair.stream.close) == []
    assert in_hub(pair.stream.close) == []


def test_a_stream_that_cannot_send_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was posted in one turn leaves together; whatever goes wrong with one of them is logged."""
    told: list[str] = []
    monkeypatch.setattr(log, "uncaught", lambda _, __, error: told.append(str(error)))

    class Message:
        def __init__(self, error: Exception | None) -> None:
            self.error = error
            self.is_sent = False

        def send_posted(self) -> None:
            if self.error is not None:
                raise self.error
            self.is_sent = True

    messages: list[Any] = [Message(None), Message(ValueError("no descriptor")), Message(None)]
    outbox = Outbox()
    for message in messages:
        outbox.add(message, gevent.get_hub().loop)
    outbox.flush()
    assert [message.is_sent for message in messages] == [True, False, True]
    assert told == ["no descriptor"]


def test_a_socket_is_set_to_be_reset() -> None:
    """One that has broken already is let be."""

    class Raw:
        options: list[Any]

        def __init__(self, error: OSError | None = None) -> None:
            self.options, self._error = [], error

        def setsockopt(self, *option: Any) -> None:
            if self._error is not None:
                raise self._error
            self.options.append(option)

    raw = Raw()
    reset_at_close(raw)
    reset_at_close(Raw(OSError(9, "closed")))
    linger = struct.pack("ii", 1, 0)  # on, and no time for it
    assert raw.options == [(socket.SOL_SOCKET, socket.SO_LINGER, linger)]
