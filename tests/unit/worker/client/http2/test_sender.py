"""app.worker.client.http2.sender: turns, bounds, and whole frames whatever interrupts a stream."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import gevent
import pytest
from fakes.http2 import Http2Client, settle
from gevent.event import Event
from hyperframe.frame import (
    DataFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from app.errors import ClientGone
from app.wire.response import ResponseHead
from app.worker.client.http2 import sender
from app.worker.client.http2.sender import OUT_BYTES, Signal
from app.worker.client.http2.stream import Http2Stream
from app.worker.net.deadlines import Expired, deadlines


def answer_head() -> ResponseHead:
    """A response without a length."""
    head = ResponseHead()
    head.status, head.lines, head.length, head.has_date = 200, [], -2, True
    return head


def test_streams_take_turns(make: Callable[..., Http2Client]) -> None:
    """While all have more to send than the client takes, each gets its share, whoever came first."""

    def pour(exchange: Http2Stream) -> None:
        exchange.start(answer_head(), b"", False, [])
        for _ in range(10):
            exchange.write(b"x" * 40_000)
        exchange.finish([])

    client = make(pour)
    client.line.takes.clear()
    numbers = [1, 3, 5, 7, 9]
    client.say(*[client.ask(number) for number in numbers])
    for _ in range(50):
        client.line.takes.set()
        gevent.sleep(0)
        client.line.takes.clear()
        settle()
        sent = [sum(len(f.data) for f in client.of(n) if isinstance(f, DataFrame)) for n in numbers]
        if max(sent) < 400_000:
            assert max(sent) - min(sent) <= 3 * OUT_BYTES, sent
    assert sent == [400_000] * 5


def test_what_is_made_is_bounded(make: Callable[..., Http2Client]) -> None:
    """A client that takes nothing costs one buffer, however many streams pour."""

    def pour(exchange: Http2Stream) -> None:
        exchange.start(answer_head(), b"", False, [])
        while True:
            exchange.write(b"x" * 100_000)

    client = make(pour)
    client.line.takes.clear()
    client.say(*[client.ask(number) for number in range(1, 101, 2)])
    assert client.connection.sender._size < 3 * OUT_BYTES


def test_heads_are_bounded_too(make: Callable[..., Http2Client]) -> None:
    """They are not flow controlled: a hundred streams' could be megabytes. Nor do they take long."""
    head = answer_head()
    head.lines = [b"X-Fill", b": ", b"y" * 30_000, b"\r\n"]
    client = make(lambda exchange: exchange.start(head, b"", True, []))
    client.line.takes.clear()
    client.say(*[client.ask(number) for number in range(1, 201, 2)])
    assert client.connection.sender._size < 2 * OUT_BYTES
    client.line.takes.set()
    started = process_time()
    for _ in range(20):
        settle()
    assert process_time() - started < 1, "Huffman's code takes the library ten seconds"
    assert {frame.stream_id for frame in client.frames()} == {0, *range(1, 201, 2)}


@pytest.mark.parametrize("is_shut", [True, False])
def test_an_interrupted_stream_leaves_whole_frames(
    make: Callable[..., Http2Client], is_shut: bool
) -> None:
    """Reset by the client or timed out in the middle of sending; the other stream's answer is right."""
    gate = Event()

    def pour(exchange: Http2Stream) -> None:
        if exchange.id == 3:
            gate.wait()
        exchange.start(answer_head(), b"", False, [])
        for _ in range(10):
            exchange.write(b"%d" % exchange.id * 50_000)
        exchange.finish([])

    client = make(pour)
    if is_shut:
        client.line.takes.clear()
    client.say(client.ask(1), client.ask(3), client.ask(5))
    stream = client.connection.streams.get(5)
    if stream is not None:
        gevent.get_hub().loop.run_callback(stream.deadline.greenlet.throw, Expired)
    client.say(RstStreamFrame(1, error_code=8))
    gate.set()
    for _ in range(30):
        client.line.takes.set()
        settle()
    body = b"".join(f.data for f in client.of(3) if isinstance(f, DataFrame))
    assert body == b"3" * 500_000
    assert "END_STREAM" in client.of(3)[-1].flags
    if is_shut:
        assert [type(failure) for failure in client.proxy.failures] == [ClientGone, ClientGone]
        assert isinstance(client.of(5)[-1], RstStreamFrame)
        assert not any("END_STREAM" in frame.flags for frame in client.of(1))


@pytest.mark.parametrize("is_shut", [True, False], ids=["nothing is taken", "no window"])
def test_a_stream_that_waits_ends_by_silence_alone(
    make: Callable[..., Http2Client], monkeypatch: pytest.MonkeyPatch, is_shut: bool
) -> None:
    """What the client takes of the connection is progress, as long as some of it is the stream's own."""
    kernel = {"taken": 0, "pending": 5000}
    monkeypatch.setattr(sender, "taken", lambda raw: kernel["taken"])
    monkeypatch.setattr(sender, "pending", lambda raw: kernel["pending"])

    def pour(exchange: Http2Stream) -> None:
        exchange.start(answer_head(), b"", False, [])
        exchange.write(b"x" * 300_000)

    client = make(pour)
    if is_shut:
        client.line.takes.clear()
    else:
        client.say(SettingsFrame(0, settings={4: 1000}))
    client.say(client.ask(1))
    deadline = client.connection.streams[1].deadline
    assert deadline.outlast is not None
    now = deadlines.now
    for step in range(20):
        kernel["taken"] += 1000
        assert (deadline.outlast(now + 59 * step) > now + 59 * step) == (is_shut or step < 8), step
    if not is_shut:
        client.say(WindowUpdateFrame(1, window_increment=1))
        assert deadline.at <= now + 60, "it begins anew"
        assert deadline.outlast(now + 1) > now + 1
    client.say(RstStreamFrame(1, error_code=8))


def test_a_signal_is_never_lost() -> None:
    """Given before the wait, it ends it; a waiter that was thrown out is not switched to."""
    signal = Signal()
    signal.give()
    signal.wait()
    seen = []

    def wait() -> None:
        try:
            signal.wait()
        except Expired:
            seen.append("thrown")
            gevent.sleep(0.01)  # where a late wake-up would end up
            seen.append("slept")

    waiter = gevent.spawn(wait)
    settle()
    loop = gevent.get_hub().loop
    loop.run_callback(waiter.throw, Expired)
    loop.run_callback(signal.give)
    settle()
    assert seen == ["thrown"]
    waiter.join(1)
    assert seen == ["thrown", "slept"]
