"""An HTTP/2 connection over a stream of a script: turns, bounds, interruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, process_time
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from app import config
from app.errors import ClientGone, ProxyError
from app.wire.request import STANDARD
from app.wire.response import ResponseHead
from app.worker.admission import Admission
from app.worker.client.contract import ConnectionContext, DrainState
from app.worker.client.http2.connection import Http2Connection
from app.worker.client.http2.sender import OUT_BYTES, Signal
from app.worker.client.http2.stream import FIRST_WINDOW, LARGEST_WINDOW, Http2Stream
from app.worker.net.deadlines import Expired, deadlines
from app.worker.parking import Parking

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WIDE = 2**31 - 1
CONFIG = config.parse("{}")


class Line:
    """The client's end: what it sends is put, what it was sent is kept. It takes nothing while ``shut``."""

    has_events = True

    def __init__(self) -> None:
        self.said: Queue[bytes] = Queue()
        self.writes: list[bytes] = []
        self.open = Event()
        self.open.set()
        self.is_closed = False

    def read(self, size: int = 0) -> bytes:
        return self.said.get()

    def write(self, data: bytes) -> None:
        self.open.wait()
        self.writes.append(data)

    def shutdown_write(self) -> None:
        self.said.put(b"")

    def close(self) -> None:
        self.is_closed = True

    def frames(self) -> Iterator[Frame]:
        """All that was sent; a piece of a frame fails here."""
        data = memoryview(b"".join(self.writes))
        while data:
            frame, length = Frame.parse_frame_header(data[:9])
            assert len(data) >= 9 + length
            frame.parse_body(data[9 : 9 + length])
            data = data[9 + length :]
            yield frame

    def of(self, number: int) -> list[Frame]:
        """What was sent on a stream."""
        return [frame for frame in self.frames() if frame.stream_id == number]


class World:
    """A connection with its worker, whose proxy runs ``handle`` for each request."""

    def __init__(self, handle: Callable[[Http2Stream], None]) -> None:
        self.line = Line()
        self.failures: list[ProxyError] = []
        self.refused: list[ProxyError] = []
        self.dropped: list[ProxyError] = []
        self._handle = handle
        proxy = SimpleNamespace(
            is_trusted=lambda peer: False,
            body_limit=0,
            handle=self._serve,
            refuse=self._refuse,
            drop=lambda _, error: self.dropped.append(error),
        )
        self.admission = Admission()
        double: Any = proxy
        context = ConnectionContext(
            double, CONFIG.timeouts, CONFIG.limits, STANDARD, 60.0, DrainState(), Parking(75.0)
        )
        line: Any = self.line
        place = self.admission.enter()
        self.connection = Http2Connection(
            context, place, line, "192.0.2.1", "https", monotonic(), None
        )
        self.encoder = Encoder()
        self.greenlet = gevent.spawn(self.connection.run)
        self.say(PREFACE, SettingsFrame(0, settings={4: WIDE}))
        self.say(WindowUpdateFrame(0, window_increment=WIDE - FIRST_WINDOW))

    def _serve(self, exchange: Http2Stream) -> None:
        try:
            self._handle(exchange)
        except ProxyError as error:
            self.failures.append(error)
            exchange.abort()

    def _refuse(self, peer: str, error: ProxyError, started: float) -> bytes:
        self.refused.append(error)
        return b"refused"

    def say(self, *frames: Frame | bytes) -> None:
        """Let the client send this."""
        self.line.said.put(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))
        settle()

    def ask(
        self, number: int, path: str = "/", has_body: bool = False, length: int | None = None
    ) -> HeadersFrame:
        """A request's frame."""
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", path)]
        if length is not None:
            fields.append(("content-length", str(length)))
        block = self.encoder.encode(fields)
        flags = ["END_HEADERS"] if has_body else ["END_HEADERS", "END_STREAM"]
        return HeadersFrame(number, block, flags=flags)


def settle() -> None:
    """Let everything happen that can."""
    for _ in range(30):
        gevent.sleep(0)


def answer_head() -> ResponseHead:
    """A response without a length."""
    head = ResponseHead()
    head.status, head.lines, head.length, head.has_date = 200, [], -2, True
    return head


@pytest.fixture(name="make")
def _make() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(handle: Callable[[Http2Stream], None]) -> World:
        worlds.append(World(handle))
        settle()
        return worlds[-1]

    yield make
    for world in worlds:
        world.line.open.set()
        world.line.said.put(b"")
        world.greenlet.join(2)
        assert world.greenlet.successful(), "the connection ends"
        assert world.line.is_closed
        assert not world.admission.count
    assert not deadlines._deadlines, "every deadline was given back"


def test_streams_take_turns(make: Callable[..., World]) -> None:
    """While all have more to send than the client takes, each gets its share, whoever came first."""

    def pour(exchange: Http2Stream) -> None:
        exchange.start(answer_head(), b"", False, [])
        for _ in range(10):
            exchange.write(b"x" * 40_000)
        exchange.finish([])

    world = make(pour)
    world.line.open.clear()
    numbers = [1, 3, 5, 7, 9]
    world.say(*[world.ask(number) for number in numbers])
    for _ in range(50):
        world.line.open.set()
        gevent.sleep(0)
        world.line.open.clear()
        settle()
        sent = [
            sum(len(f.data) for f in world.line.of(n) if isinstance(f, DataFrame)) for n in numbers
        ]
        if max(sent) < 400_000:
            assert max(sent) - min(sent) <= 3 * OUT_BYTES, sent
    assert sent == [400_000] * 5


def test_what_is_made_is_bounded(make: Callable[..., World]) -> None:
    """A client that takes nothing costs one buffer, however many streams pour."""

    def pour(exchange: Http2Stream) -> None:
        exchange.start(answer_head(), b"", False, [])
        while True:
            exchange.write(b"x" * 100_000)

    world = make(pour)
    world.line.open.clear()
    world.say(*[world.ask(number) for number in range(1, 101, 2)])
    assert world.connection.sender._size < 3 * OUT_BYTES


def test_heads_are_bounded_too(make: Callable[..., World]) -> None:
    """They are not flow controlled: a hundred streams' could be megabytes. Nor do they take long."""
    head = answer_head()
    head.lines = [b"X-Fill", b": ", b"y" * 30_000, b"\r\n"]
    world = make(lambda exchange: exchange.start(head, b"", True, []))
    world.line.open.clear()
    world.say(*[world.ask(number) for number in range(1, 201, 2)])
    assert world.connection.sender._size < 2 * OUT_BYTES
    world.line.open.set()
    started = process_time()
    for _ in range(20):
        settle()
    assert process_time() - started < 1, "Huffman's code takes the library ten seconds"
    assert {frame.stream_id for frame in world.line.frames()} == {0, *range(1, 201, 2)}


def test_reading_stops_while_our_words_are_not_taken(make: Callable[..., World]) -> None:
    """Data on a stream that is gone is answered with a reset each: not more than a buffer of them."""
    world = make(lambda exchange: exchange.abort())
    world.say(world.ask(1, has_body=True))
    world.line.open.clear()
    for _ in range(45):
        world.say(DataFrame(1, b"x").serialize() * 1000)
    assert not world.line.said.empty()
    assert world.connection.sender._size < 6 * OUT_BYTES
    world.line.open.set()
    settle()


@pytest.mark.parametrize("is_shut", [True, False])
def test_an_interrupted_stream_leaves_whole_frames(
    make: Callable[..., World], is_shut: bool
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

    world = make(pour)
    if is_shut:
        world.line.open.clear()
    world.say(world.ask(1), world.ask(3), world.ask(5))
    stream = world.connection.streams.get(5)
    if stream is not None:
        gevent.get_hub().loop.run_callback(stream.deadline.greenlet.throw, Expired)
    world.say(RstStreamFrame(1, error_code=8))
    gate.set()
    for _ in range(30):
        world.line.open.set()
        settle()
    body = b"".join(f.data for f in world.line.of(3) if isinstance(f, DataFrame))
    assert body == b"3" * 500_000
    assert "END_STREAM" in world.line.of(3)[-1].flags
    if is_shut:
        assert [type(failure) for failure in world.failures] == [ClientGone, ClientGone]
        assert isinstance(world.line.of(5)[-1], RstStreamFrame)
        assert not any("END_STREAM" in frame.flags for frame in world.line.of(1))


def test_a_body_that_nobody_reads_keeps_its_window_shut(make: Callable[..., World]) -> None:
    """And one that is read opens it, wider as it goes, up to a bound."""
    gate = Event()
    taken = bytearray()

    def take(exchange: Http2Stream) -> None:
        gate.wait()
        taken.extend(exchange.body)
        while exchange.read_body is not None and (piece := exchange.read_body(exchange.deadline)):
            taken.extend(piece)

    def opened() -> int:
        return sum(f.window_increment for f in world.line.of(1) if isinstance(f, WindowUpdateFrame))

    world = make(take)
    world.say(world.ask(1, has_body=True))
    world.say(DataFrame(1, b"x" * 16000), DataFrame(1, b"x" * 16000))
    first = opened()
    world.say(DataFrame(1, b"x" * 16000), DataFrame(1, b"x" * 16000))
    assert opened() == first
    gate.set()
    settle()
    sent = 64_000
    for _ in range(200):
        world.say(DataFrame(1, b"x" * 16000))
        sent += 16_000
        assert FIRST_WINDOW + opened() >= sent
    assert FIRST_WINDOW + opened() - sent <= LARGEST_WINDOW
    assert FIRST_WINDOW + opened() - sent > LARGEST_WINDOW // 2
    assert len(world.line.of(1)) < 50, "not one for each piece"
    world.say(DataFrame(1, b"", flags=["END_STREAM"]))
    assert len(taken) == sent


def test_padding_is_given_back_too(make: Callable[..., World]) -> None:
    """It counts in windows: a padded body would shut them for ever."""

    def take(exchange: Http2Stream) -> None:
        while exchange.read_body is not None and exchange.read_body(exchange.deadline):
            pass

    world = make(take)
    world.say(world.ask(1, has_body=True))
    sent = 0
    for _ in range(100):
        world.say(DataFrame(1, b"x" * 100, flags=["PADDED"], pad_length=255).serialize() * 40)
        sent += 40 * 356
    opened = sum(f.window_increment for f in world.line.of(1) if isinstance(f, WindowUpdateFrame))
    assert sent > LARGEST_WINDOW + sent * 100 // 356, "else the window alone would do"
    assert FIRST_WINDOW + opened >= sent
    world.say(DataFrame(1, b"", flags=["END_STREAM"]))


def test_a_stream_reset_before_its_turn_costs_no_backend(make: Callable[..., World]) -> None:
    """Rapid reset: the request is never forwarded, and still has its line."""
    served = []
    world = make(lambda exchange: served.append(exchange.id))
    world.say(world.ask(1), RstStreamFrame(1, error_code=8), world.ask(3))
    assert served == [3]
    assert [error.status for error in world.dropped] == [499]


def test_a_small_body_is_here_at_once(make: Callable[..., World]) -> None:
    """So that it can be sent again to another backend."""
    seen: list[tuple[bytes, Any]] = []
    world = make(lambda exchange: seen.append((exchange.body, exchange.read_body)))
    world.say(world.ask(1, has_body=True), DataFrame(1, b"small", flags=["END_STREAM"]))
    assert seen == [(b"small", None)]


def test_bad_trailers_are_the_requests_failure(make: Callable[..., World]) -> None:
    """As in a chunked body: the backend never sees an end."""
    failures = []

    def take(exchange: Http2Stream) -> None:
        assert exchange.read_body is not None
        try:
            while exchange.read_body(exchange.deadline):
                pass
        except ProxyError as error:
            failures.append(error.reason)

    world = make(take)
    world.say(world.ask(1, has_body=True), DataFrame(1, b"x"))
    block = world.encoder.encode([("host", "evil")])
    world.say(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    assert failures == ["malformed_request"]


def test_the_last_stream_said_is_the_last_one_served(make: Callable[..., World]) -> None:
    """What was refused as one too many may be sent again, so it must not be named."""
    gate = Event()
    world = make(lambda exchange: gate.wait())
    numbers = range(1, 205, 2)
    world.say(*[world.ask(number) for number in numbers])
    refused = [n for n in numbers if any(isinstance(f, RstStreamFrame) for f in world.line.of(n))]
    assert refused == [201, 203]
    world.say(b"\xff" * 9)
    gate.set()
    settle()
    last = [frame for frame in world.line.frames() if isinstance(frame, GoAwayFrame)][-1]
    assert last.last_stream_id == 199


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


# -- a body is as long as its head says (RFC 9113 §8.1.1) --------------------------------------------


ENDINGS = ("with data", "empty data", "trailers")
BODIES = [(0, "with the head"), *((size, ending) for size in (0, 1, 10) for ending in ENDINGS)]


def body_of(world: World, size: int, announced: int | None, ending: str, step: int) -> list[Any]:
    """The frames of stream 1: a body of that size in pieces of ``step``, ended in one of the ways."""
    if ending == "with the head":
        return [world.ask(1, length=announced)]
    frames: list[Any] = [world.ask(1, has_body=True, length=announced)]
    pieces = [min(step, size - at) for at in range(0, size, step)]
    for number, piece in enumerate(pieces, 1):
        is_last = ending == "with data" and number == len(pieces)
        # Padding is no part of the body.
        flags = ["PADDED", "END_STREAM"] if is_last else ["PADDED"]
        frames.append(DataFrame(1, b"x" * piece, flags=flags, pad_length=7))
    if ending == "trailers":
        block = world.encoder.encode([("x-sum", "1")])
        frames.append(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    elif ending == "empty data" or not pieces:
        frames.append(DataFrame(1, b"", flags=["END_STREAM"]))
    return frames


@pytest.mark.parametrize("apart", [False, True], ids=["one read", "frame by frame"])
@pytest.mark.parametrize("announced", [None, 0, 1, 9, 10, 11, 32])
@pytest.mark.parametrize(("size", "ending"), BODIES)
def test_what_is_told_of_a_body_is_what_comes(
    make: Callable[..., World], size: int, announced: int | None, ending: str, apart: bool
) -> None:
    """Else its stream is reset, whenever that shows, and the connection's next one is served."""
    whole: list[bytes] = []

    def forward(exchange: Http2Stream) -> None:
        if exchange.failure is not None:
            raise exchange.failure
        body = exchange.body
        while exchange.read_body is not None and (piece := exchange.read_body(exchange.deadline)):
            body += piece
        whole.append(body)
        exchange.answer(200, [], b"")

    world = make(forward)
    frames = body_of(world, size, announced, ending, step=4)
    if apart:
        for frame in frames:
            world.say(frame)
    else:
        world.say(*frames)
    is_good = announced is None or announced == size
    resets = [frame.error_code for frame in world.line.of(1) if isinstance(frame, RstStreamFrame)]
    failures = [*world.failures, *world.refused, *world.dropped]
    if announced == 0 and apart and ending != "with the head":
        # It is complete with its head, and answered: the rest is declined (RFC 9113 §8.1).
        assert (whole, resets[0]) == ([b""], 0)
    elif is_good:
        assert (whole, resets) == ([b"x" * size], [])
    else:
        assert (whole, resets[0]) == ([], 1)
        assert {error.reason for error in failures} == {"malformed_request"}
    assert set(resets[1:]) <= {5}, "what still comes on a stream that was reset"
    whole.clear()
    world.say(world.ask(3))
    assert whole == [b""]
    assert not any(isinstance(frame, GoAwayFrame) for frame in world.line.frames())


def test_a_malformed_length_is_its_stream_s_affair(make: Callable[..., World]) -> None:
    """The protocol library would end the connection, and all other streams with it."""
    served: list[int] = []
    world = make(lambda exchange: served.append(exchange.id))
    for number, value in enumerate(("x", "+1", "1, 1", "-1", "", "1e1")):
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
        block = world.encoder.encode([*fields, ("content-length", value)])
        world.say(HeadersFrame(2 * number + 1, block, flags=["END_HEADERS"]))
    world.say(world.ask(101))
    assert served == [101]
    assert len(world.refused) == 6
    assert not any(isinstance(frame, GoAwayFrame) for frame in world.line.frames())
