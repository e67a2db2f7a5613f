"""app.worker.client.http2.connection: which streams are served, and what a client may do for nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest
from fakes.http2 import Http2Client, settle
from fakes.stream import END, ScriptedStream
from gevent.event import Event
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from app.errors import NoBackend, ShuttingDown
from app.wire.h2_guard import ENHANCE_YOUR_CALM, UNITS_PER_TURN
from app.wire.response import ResponseHead
from app.worker.client.http2.connection import Http2Connection
from app.worker.client.http2.sender import OUT_BYTES, Signal
from app.worker.client.http2.stream import Http2Stream


def test_reading_stops_while_our_words_are_not_taken(make: Callable[..., Http2Client]) -> None:
    """A client may have earned its pings; their answers are kept in one buffer, not more."""
    client = make(lambda exchange: None)
    client.line.takes.clear()
    for _ in range(45):
        client.connection._guard.sent(1 << 30, True)
        client.say(PingFrame(0, b"12345678").serialize() * 1000)
    assert client.line.has_more
    assert client.connection.sender._size < 6 * OUT_BYTES
    client.line.takes.set()
    settle()


@pytest.mark.parametrize("whose", ["ours", "the client's", "ended"])
@pytest.mark.parametrize("kind", ["data", "head"])
def test_what_comes_for_a_stream_that_is_over_is_charged(
    make: Callable[..., Http2Client], kind: str, whose: str
) -> None:
    """It costs us as much as any other frame, and moves nothing: a burst of it, no more."""
    client = make(lambda exchange: exchange.abort() if whose == "ours" else gevent.sleep(3600))
    client.say(client.ask(1, has_body=whose != "ended"))
    if whose == "the client's":
        client.say(RstStreamFrame(1, error_code=8))
    before = len(client.line.output)
    block = client.encoder.encode([("x-end", "1")])
    frame = DataFrame(1, b"x") if kind == "data" else HeadersFrame(1, block, flags=["END_HEADERS"])
    client.say(frame.serialize() * 40)
    assert not goaways(client), "what may have been on its way"
    if whose == "ours":
        assert len(client.line.output) == before, "it was told, and need not be told again"
    for _ in range(60):
        client.say(frame.serialize() * 40)
    assert goaways(client) == [(1, ENHANCE_YOUR_CALM)]
    assert [error.reason for error in client.proxy.refused] == ["frame_flood"]


def test_one_read_is_no_more_than_a_turn_s_work(make: Callable[..., Http2Client]) -> None:
    """What a client sends in one piece is worked through while others are looked at in between."""
    seen: list[int] = []
    client = make(lambda exchange: gevent.sleep(3600))
    client.say(client.ask(1, has_body=True))
    stream = client.connection.streams[1]
    client.line.say(DataFrame(1, b"x").serialize() * 2000)
    while (have := sum(map(len, stream._pieces))) < 2000:
        gevent.sleep(1e-9)
        seen.append(have)
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) <= UNITS_PER_TURN


def test_requests_of_one_read_take_turns_with_others(make: Callable[..., Http2Client]) -> None:
    """Each costs more than a frame of a body, whether it is forwarded or answered here."""
    served: list[int] = []
    client = make(lambda exchange: served.append(exchange.id))
    client.line.say(b"".join(client.ask(number).serialize() for number in range(1, 200, 2)))
    seen = []
    while len(served) < 100:
        gevent.sleep(1e-9)
        seen.append(len(served))
    assert max(after - before for before, after in pairwise(seen)) <= 8


def test_an_event_stream_may_be_answered_frame_by_frame(make: Callable[..., Http2Client]) -> None:
    """With a window update for the stream and one for the connection each, and a ping now and then."""
    gate = Signal()

    def pour(exchange: Http2Stream) -> None:
        head = ResponseHead()
        head.status, head.lines, head.length, head.has_date = 200, [], -2, True
        exchange.start(head, b"", False, [])
        while True:
            gate.wait()
            for _ in range(100):
                exchange.write(b"data: 1\n\n")

    client = make(pour)
    client.say(client.ask(1))
    both = b"".join(WindowUpdateFrame(n, window_increment=9).serialize() for n in (0, 1))
    for _ in range(30):
        gate.give()
        settle()
        client.say(both * 100 + PingFrame(0, b"12345678").serialize() * 50)
    assert not goaways(client)


def test_a_stream_reset_before_its_turn_costs_no_backend(make: Callable[..., Http2Client]) -> None:
    """Rapid reset: the request is never forwarded, and still has its line."""
    served = []
    client = make(lambda exchange: served.append(exchange.id))
    client.say(client.ask(1), RstStreamFrame(1, error_code=8), client.ask(3))
    assert served == [3]
    assert [error.status for error in client.proxy.dropped] == [499]


def test_the_last_stream_said_is_the_last_one_served(make: Callable[..., Http2Client]) -> None:
    """What was refused as one too many may be sent again, so it must not be named."""
    gate = Event()
    client = make(lambda exchange: gate.wait())
    numbers = range(1, 205, 2)
    client.say(*[client.ask(number) for number in numbers])
    refused = [n for n in numbers if any(isinstance(f, RstStreamFrame) for f in client.of(n))]
    assert refused == [201, 203]
    client.say(b"\xff" * 9)
    gate.set()
    settle()
    last = [frame for frame in client.frames() if isinstance(frame, GoAwayFrame)][-1]
    assert last.last_stream_id == 199


def test_a_malformed_length_is_its_stream_s_affair(make: Callable[..., Http2Client]) -> None:
    """The protocol library would end the connection, and all other streams with it."""
    served: list[int] = []
    client = make(lambda exchange: served.append(exchange.id))
    for number, value in enumerate(("x", "+1", "1, 1", "-1", "", "1e1")):
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
        block = client.encoder.encode([*fields, ("content-length", value)])
        client.say(HeadersFrame(2 * number + 1, block, flags=["END_HEADERS"]))
    client.say(client.ask(101))
    assert served == [101]
    assert len(client.proxy.refused) == 6
    assert not any(isinstance(frame, GoAwayFrame) for frame in client.frames())


# -- the connection's own end ----------------------------------------------------------------------


def goaways(client: Http2Client) -> list[tuple[int, int]]:
    return [(f.last_stream_id, f.error_code) for f in client.frames() if isinstance(f, GoAwayFrame)]


def test_a_drain_says_so_and_serves_what_is_on_its_way(make: Callable[..., Http2Client]) -> None:
    """Until its time is over: what comes after it is refused, and may be sent elsewhere."""
    served: list[int] = []
    client = make(lambda exchange: served.append(exchange.id))
    client.front.drain.is_on = True
    client.front.drain.idle_until = monotonic() + 60
    client.connection.drain()
    settle()
    assert goaways(client) == [(2**31 - 1, 0)]
    client.say(client.ask(1))
    assert served == [1]
    client.front.drain.idle_until = monotonic() - 1
    client.connection.drain()
    client.say(client.ask(3))
    assert served == [1]
    assert [f.error_code for f in client.of(3)] == [7]


def test_a_limit_of_requests_ends_the_connection(make: Callable[..., Http2Client]) -> None:
    """The last one is named; what comes behind it is refused."""
    served: list[int] = []
    client = make(lambda exchange: served.append(exchange.id), requests_per_connection=2)
    client.say(client.ask(1), client.ask(3), client.ask(5))
    assert served == [1, 3]
    assert goaways(client) == [(3, 0)]
    assert [f.error_code for f in client.of(5)] == [7]


def test_a_cut_ends_every_stream_with_an_answer(make: Callable[..., Http2Client]) -> None:
    """What waits is told that the worker goes."""
    never = Event()
    client = make(lambda exchange: never.wait())
    client.say(client.ask(1), client.ask(3))
    gevent.get_hub().loop.run_callback(client.connection.cut)
    settle()
    assert [type(error) for error in client.proxy.failures] == [ShuttingDown] * 2
    for number in (1, 3):
        assert "END_STREAM" in client.of(number)[-1].flags


def test_who_is_turned_away_is_told_that_nothing_was_done(make: Callable[..., Http2Client]) -> None:
    """So that it may try again elsewhere; it has its line in the log."""
    client = make(lambda exchange: None)
    stream: Any = ScriptedStream([END])
    place = client.front.admission.enter()
    context = client.front.context
    connection = Http2Connection(context, place, stream, "192.0.2.1", "https", monotonic(), None)
    error = NoBackend("", reason="too_many_connections")
    gevent.spawn(connection.turn_away, error).join(2)
    assert stream.did == ["shutdown_write", "close"]
    assert client.proxy.refused == [error]
    assert client.front.admission.count == 1
