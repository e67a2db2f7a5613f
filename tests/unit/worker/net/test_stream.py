"""A stream: what is read, what is posted, what its peer does while nobody looks. Over Unix sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.telemetry import log
from app.worker.net.hang_up import hang_ups
from app.worker.net.stream import Outbox, RawSocket, Stream, connect, reset_at_close

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


# --- read ----------------------------------------------------------------------------------------


def test_a_read_gives_what_is_here_and_no_more_than_asked(pair: Pair) -> None:
    """It waits for the first byte only, and an end is an end each time."""
    reader = gevent.spawn(pair.stream.read, 4)
    gevent.sleep(0)
    assert not reader.dead
    pair.peer.send(b"hello")
    assert reader.get(timeout=5) == b"hell"
    assert pair.stream.read() == b"o"
    pair.peer.close()
    assert [pair.stream.read(), pair.stream.read()] == [b"", b""]


def test_what_is_here_is_seen_without_being_taken(pair: Pair) -> None:
    """By who has to know whether a connection has spoken, or has ended."""
    assert (pair.stream.peek(), pair.stream.is_silent(), pair.stream.read_now()) == (
        None,
        True,
        None,
    )
    pair.peer.send(b"ab")
    assert (pair.stream.peek(), pair.stream.is_silent()) == (b"a", False)
    assert pair.stream.read_now() == b"ab"
    assert pair.stream.is_silent()
    pair.peer.close()
    assert (pair.stream.peek(), pair.stream.is_silent(), pair.stream.read_now()) == (
        b"",
        False,
        b"",
    )


@pytest.mark.parametrize("is_gone", [False, True])
def test_who_watches_is_told_once_and_nothing_is_lost(pair: Pair, is_gone: bool) -> None:
    """Bytes that wait for later must not have the loop spin; watched again, they are told again."""
    told: list[str] = []
    pair.stream.on_event = lambda: told.append("event")
    pair.stream.watch()
    turn(3)
    assert told == []
    if is_gone:
        pair.peer.close()
    else:
        pair.peer.send(b"unasked")
    turn(5)
    assert told == ["event"]
    pair.stream.watch()
    turn(5)
    assert told == ["event", "event"]
    assert pair.stream.read() == (b"" if is_gone else b"unasked")


def test_who_reads_has_the_bytes_and_no_watch_is_told(pair: Pair) -> None:
    told: list[str] = []
    pair.stream.on_event = lambda: told.append("event")
    pair.stream.watch()
    reader = gevent.spawn(pair.stream.read)
    turn(2)
    pair.peer.send(b"asked")
    assert reader.get(timeout=5) == b"asked"
    turn(3)
    assert told == []


def test_a_wait_that_was_ended_is_not_woken_later(pair: Pair) -> None:
    """A greenlet whose time is over does something else by then."""

    class Over(Exception):
        pass

    def wait() -> str:
        try:
            pair.stream.read()
        except Over:
            gevent.get_hub().switch()  # whatever wakes it now is not the stream's affair
        return "woken"

    reader = gevent.spawn(wait)
    turn(2)
    gevent.get_hub().loop.run_callback(reader.throw, Over())
    turn(3)
    pair.peer.send(b"late")
    turn(5)
    assert not reader.dead
    assert pair.stream.read() == b"late"
    reader.kill(block=False)


def test_the_end_of_what_is_sent_leaves_what_comes(pair: Pair) -> None:
    """And what was posted goes before it."""
    pair.stream.post(b"last words")
    pair.stream.shutdown_write()
    assert pair.peer.recv(100) == b"last words"
    assert pair.peer.recv(100) == b""
    pair.peer.send(b"answer")
    assert pair.stream.read() == b"answer"


def test_a_shutdown_ends_the_read_of_another_greenlet(pair: Pair) -> None:
    reader = gevent.spawn(pair.stream.read)
    turn(2)
    pair.stream.shutdown()
    assert reader.get(timeout=5) == b""


def test_a_connection_that_is_given_away_stays_open(pair: Pair) -> None:
    """Its new owner has it, and the stream hears no more of it."""
    told: list[str] = []
    pair.stream.on_event = lambda: told.append("event")
    pair.stream.watch()
    given = socket.socket(fileno=pair.stream.detach())
    pair.peer.send(b"for the new owner")
    turn(3)
    assert given.recv(100) == b"for the new owner"
    assert told == []
    pair.stream.close()
    given.send(b"open")
    assert pair.peer.recv(100) == b"open"
    given.close()


# --- opened --------------------------------------------------------------------------------------


def test_connecting_reaches_who_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stream = connect(socket.AF_UNIX, path)
        peer, _ = listener.accept()
        stream.write(b"hello")
        assert peer.recv(100) == b"hello"
        stream.close()
        peer.close()


def test_where_nobody_listens_the_error_says_so_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Stream] = []
    close = Stream.close
    monkeypatch.setattr(Stream, "close", lambda self: (closed.append(self), close(self)))
    with pytest.raises(FileNotFoundError):
        connect(socket.AF_UNIX, str(tmp_path / "nobody"))
    assert [stream.raw.fileno() for stream in closed] == [-1]


def turn(count: int) -> None:
    """So many turns of the loop in which it asks the kernel: a sleep(0) need not be one."""
    hub: Any = gevent.get_hub()
    ours, theirs = socket.socketpair()
    for _ in range(count):
        with hub.loop.io(ours.fileno(), 2) as always_writable:
            hub.wait(always_writable)
    ours.close()
    theirs.close()


def _wait_for(heard: list[bool], count: int) -> None:
    """Let the loop turn until so much was heard."""
    with gevent.Timeout(10):
        while len(heard) < count:
            gevent.sleep(0.001)


def test_an_end_is_an_event_behind_what_nobody_reads(pair: Pair) -> None:
    """The bytes are one event, then the end is; who reads has all of them."""
    heard: list[bool] = []

    def hear() -> None:
        heard.append(pair.stream.has_ended())
        if not heard[-1]:
            pair.stream.watch_end()

    pair.stream.on_event = hear
    pair.stream.watch()
    pair.peer.sendall(b"early")
    _wait_for(heard, 1)
    pair.peer.sendall(b" bytes")
    pair.peer.shutdown(socket.SHUT_WR)
    _wait_for(heard, 2)
    assert heard == [False, True]
    assert [pair.stream.read(), pair.stream.read()] == [b"early bytes", b""]


def test_the_end_is_no_event_for_who_has_closed(pair: Pair) -> None:
    """Nor for whoever gets its descriptor's number next."""
    heard: list[str] = []
    pair.stream.on_event = lambda: heard.append("event")
    pair.stream.watch_end()
    pair.stream.close()
    pair.peer.close()
    gevent.sleep(0.001)
    assert heard == []
    assert not hang_ups._callbacks
