"""app.worker.client.http2.stream: the body of one request, its windows and its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes.http2 import Http2Client, settle
from gevent.event import Event
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from app.errors import ProxyError
from app.worker.client.http2.stream import FIRST_WINDOW, LARGEST_WINDOW, Http2Stream


def test_a_body_that_nobody_reads_keeps_its_window_shut(make: Callable[..., Http2Client]) -> None:
    """And one that is read opens it, wider as it goes, up to a bound."""
    gate = Event()
    taken = bytearray()

    def take(exchange: Http2Stream) -> None:
        gate.wait()
        taken.extend(exchange.body)
        while exchange.read_body is not None and (piece := exchange.read_body(exchange.deadline)):
            taken.extend(piece)

    def opened() -> int:
        return sum(f.window_increment for f in client.of(1) if isinstance(f, WindowUpdateFrame))

    client = make(take)
    client.say(client.ask(1, has_body=True))
    client.say(DataFrame(1, b"x" * 16000), DataFrame(1, b"x" * 16000))
    first = opened()
    client.say(DataFrame(1, b"x" * 16000), DataFrame(1, b"x" * 16000))
    assert opened() == first
    gate.set()
    settle()
    sent = 64_000
    for _ in range(200):
        client.say(DataFrame(1, b"x" * 16000))
        sent += 16_000
        assert FIRST_WINDOW + opened() >= sent
    assert FIRST_WINDOW + opened() - sent <= LARGEST_WINDOW
    assert FIRST_WINDOW + opened() - sent > LARGEST_WINDOW // 2
    assert len(client.of(1)) < 50, "not one for each piece"
    client.say(DataFrame(1, b"", flags=["END_STREAM"]))
    assert len(taken) == sent


def test_a_body_in_the_smallest_frames_takes_no_more_memory(
    make: Callable[..., Http2Client],
) -> None:
    """An object for each frame would be fifty bytes for two of the body, with a hundred streams 180 MB."""
    gate = Event()
    taken = bytearray()

    def take(exchange: Http2Stream) -> None:
        gate.wait()
        taken.extend(exchange.body)
        while exchange.read_body is not None and (piece := exchange.read_body(exchange.deadline)):
            taken.extend(piece)

    client = make(take)
    client.say(client.ask(1, has_body=True))
    pieces = [b"%05d" % number for number in range(400)]
    pieces[200] = b"y" * 4096
    for piece in pieces:
        client.line.say(DataFrame(1, piece).serialize())
    settle()
    while client.line.has_more:
        settle()
    assert len(client.connection.streams[1]._pieces) <= 4
    gate.set()
    client.say(DataFrame(1, b"", flags=["END_STREAM"]))
    assert taken == b"".join(pieces)


def test_padding_is_given_back_too(make: Callable[..., Http2Client]) -> None:
    """It counts in windows: a padded body would shut them for ever."""

    def take(exchange: Http2Stream) -> None:
        while exchange.read_body is not None and exchange.read_body(exchange.deadline):
            pass

    client = make(take)
    client.say(client.ask(1, has_body=True))
    sent = 0
    for _ in range(100):
        client.say(DataFrame(1, b"x" * 100, flags=["PADDED"], pad_length=255).serialize() * 40)
        sent += 40 * 356
    opened = sum(f.window_increment for f in client.of(1) if isinstance(f, WindowUpdateFrame))
    assert sent > LARGEST_WINDOW + sent * 100 // 356, "else the window alone would do"
    assert FIRST_WINDOW + opened >= sent
    client.say(DataFrame(1, b"", flags=["END_STREAM"]))


def test_a_small_body_is_here_at_once(make: Callable[..., Http2Client]) -> None:
    """So that it can be sent again to another backend."""
    seen: list[tuple[bytes, Any]] = []
    client = make(lambda exchange: seen.append((exchange.body, exchange.read_body)))
    client.say(client.ask(1, has_body=True), DataFrame(1, b"small", flags=["END_STREAM"]))
    assert seen == [(b"small", None)]


def test_bad_trailers_are_the_requests_failure(make: Callable[..., Http2Client]) -> None:
    """As in a chunked body: the backend never sees an end."""
    failures = []

    def take(exchange: Http2Stream) -> None:
        assert exchange.read_body is not None
        try:
            while exchange.read_body(exchange.deadline):
                pass
        except ProxyError as error:
            failures.append(error.reason)

    client = make(take)
    client.say(client.ask(1, has_body=True), DataFrame(1, b"x"))
    block = client.encoder.encode([("connection", "close")])
    client.say(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    assert failures == ["malformed_request"]


# -- a body is as long as its head says (RFC 9113 §8.1.1) --------------------------------------------


ENDINGS = ("with data", "empty data", "trailers")
BODIES = [(0, "with the head"), *((size, ending) for size in (0, 1, 10) for ending in ENDINGS)]


def body_of(
    client: Http2Client, size: int, announced: int | None, ending: str, step: int
) -> list[Any]:
    """The frames of stream 1: a body of that size in pieces of ``step``, ended in one of the ways."""
    if ending == "with the head":
        return [client.ask(1, length=announced)]
    frames: list[Any] = [client.ask(1, has_body=True, length=announced)]
    pieces = [min(step, size - at) for at in range(0, size, step)]
    for number, piece in enumerate(pieces, 1):
        is_last = ending == "with data" and number == len(pieces)
        # Padding is no part of the body.
        flags = ["PADDED", "END_STREAM"] if is_last else ["PADDED"]
        frames.append(DataFrame(1, b"x" * piece, flags=flags, pad_length=7))
    if ending == "trailers":
        block = client.encoder.encode([("x-sum", "1")])
        frames.append(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    elif ending == "empty data" or not pieces:
        frames.append(DataFrame(1, b"", flags=["END_STREAM"]))
    return frames


@pytest.mark.parametrize("apart", [False, True], ids=["one read", "frame by frame"])
@pytest.mark.parametrize("announced", [None, 0, 1, 9, 10, 11, 32])
@pytest.mark.parametrize(("size", "ending"), BODIES)
def test_what_is_told_of_a_body_is_what_comes(
    make: Callable[..., Http2Client], size: int, announced: int | None, ending: str, apart: bool
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

    client = make(forward)
    frames = body_of(client, size, announced, ending, step=4)
    if apart:
        for frame in frames:
            client.say(frame)
    else:
        client.say(*frames)
    is_good = announced is None or announced == size
    resets = [frame.error_code for frame in client.of(1) if isinstance(frame, RstStreamFrame)]
    failures = [*client.proxy.failures, *client.proxy.refused, *client.proxy.dropped]
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
    client.say(client.ask(3))
    assert whole == [b""]
    assert not any(isinstance(frame, GoAwayFrame) for frame in client.frames())
