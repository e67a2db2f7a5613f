"""app.worker.client.http2.protocol: what the library says for us, and what of it is changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import process_time
from typing import Any

import pytest
from fakes.http2 import Http2Client, settle
from gevent.event import Event
from h2.settings import SettingCodes
from hpack import Decoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from app.wire.h2_guard import FrameGuard
from app.wire.request import STANDARD
from app.worker.client.http2.protocol import (
    CONNECTION_WINDOW,
    MAX_STREAMS,
    MAX_TABLE_BYTES,
    bound_table,
    greet,
    new_protocol,
)
from app.worker.client.http2.stream import Http2Stream


def protocol() -> Any:
    return new_protocol(FrameGuard(0.0, 65536))


def frames(data: bytes) -> list[Any]:
    found = []
    view = memoryview(data)
    while view:
        frame, length = Frame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


def test_a_client_is_told_our_limits_first() -> None:
    """How many streams, how large a head, and how much it may send ahead on all of them."""
    h2 = protocol()
    greet(h2, STANDARD)
    settings, window = frames(h2.data_to_send())
    assert settings.settings[SettingCodes.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert (
        settings.settings[SettingCodes.MAX_HEADER_LIST_SIZE] == STANDARD.all_fields + STANDARD.line
    )
    assert (window.stream_id, 65535 + window.window_increment) == (0, CONNECTION_WINDOW)


def test_fields_are_written_without_huffman_s_code() -> None:
    """Which the library writes in quadratic time; any client reads them."""
    fields = [(b"x-fill", b"y" * 30_000)]
    started = process_time()
    block = protocol().encoder.encode(fields)
    assert process_time() - started < 0.1
    assert Decoder().decode(block, raw=True) == fields


def test_a_client_does_not_choose_how_large_our_table_is() -> None:
    """It is searched from end to end for each field; a smaller one is the client's to ask for."""
    for asked, size in ((1 << 20, MAX_TABLE_BYTES), (100, 100)):
        h2 = protocol()
        h2.encoder.header_table_size = asked
        bound_table(h2)
        assert h2.encoder.header_table_size == size


# -- RFC 9113: which error is whose -----------------------------------------------------------------
#
# What is expected is ("stream", code), ("connection", code) or "passes". A bystander's stream is open
# meanwhile: it must be served after everything but an error of the connection.

NO_ERROR, PROTOCOL, FLOW_CONTROL, STREAM_CLOSED, FRAME_SIZE, COMPRESSION = 0, 1, 3, 5, 6, 9
PASSES = "passes"
Expected = tuple[str, int] | str
BYSTANDER, NUMBER = 1, 3


def raw(kind: int, stream: int, body: bytes = b"", flags: int = 0) -> bytes:
    """A frame whatever it says."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def head(
    client: Http2Client, *fields: tuple[str, str], number: int = NUMBER, end: bool = True
) -> bytes:
    """A request, and more fields of it."""
    start = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
    return block(client, [*start, *fields], number, end)


def block(client: Http2Client, fields: Any, number: int = NUMBER, end: bool = True) -> bytes:
    """A field section."""
    return raw(1, number, client.encoder.encode(fields), 4 | end)


def is_idle(client: Http2Client) -> None:
    """Nothing has been said of the stream."""


def is_open(client: Http2Client) -> None:
    """The request is not whole."""
    client.say(head(client, end=False))


def is_half_closed(client: Http2Client) -> None:
    """The request is whole, its answer is not."""
    client.say(head(client))


def is_answered(client: Http2Client) -> None:
    """Both sides have ended."""
    client.say(head(client, ("x-now", "1")))


def is_given_up(client: Http2Client) -> None:
    """The client has reset it."""
    client.say(head(client, end=False))
    client.say(raw(3, NUMBER, b"\0\0\0\x08"))


def is_reset(client: Http2Client) -> None:
    """We have reset it, and the client may not know yet."""
    client.say(head(client, ("connection", "x"), end=False))


FRAMES: dict[str, Callable[[Http2Client], bytes]] = {
    "DATA": lambda client: raw(0, NUMBER, b"x"),
    "HEADERS that end": lambda client: block(client, [("x-end", "1")]),
    "HEADERS": lambda client: block(client, [("x-end", "1")], end=False),
    "PRIORITY": lambda client: raw(2, NUMBER, b"\0\0\0\0\x01"),
    "PRIORITY of itself": lambda client: raw(2, NUMBER, b"\0\0\0\x03\x01"),
    "PRIORITY too short": lambda client: raw(2, NUMBER, b"\0\0\0\0"),
    "RST_STREAM": lambda client: raw(3, NUMBER, b"\0\0\0\x08"),
    "PUSH_PROMISE": lambda client: raw(5, NUMBER, b"\0\0\0\x02" + client.encoder.encode([]), 4),
    "WINDOW_UPDATE": lambda client: raw(8, NUMBER, b"\0\0\0\x01"),
    "WINDOW_UPDATE of 0": lambda client: raw(8, NUMBER, b"\0\0\0\0"),
    "WINDOW_UPDATE of too much": lambda client: raw(8, NUMBER, b"\x7f\xff\xff\xff"),
    "CONTINUATION": lambda client: raw(9, NUMBER, b"", 4),
    "ALTSVC": lambda client: raw(10, NUMBER, b"\xff"),
    "unknown": lambda client: raw(0x63, NUMBER, b"?"),
}
STATES = (is_idle, is_open, is_half_closed, is_answered, is_given_up, is_reset)
_closed = ("stream", STREAM_CLOSED)
_fault, _broken = ("stream", PROTOCOL), ("connection", PROTOCOL)
# In the order of STATES (RFC 9113 §5.1, §6.1–6.10); one entry is for all.
BY_STATE: dict[str, tuple[Expected, ...]] = {
    "DATA": (_broken, PASSES, _closed, _closed, _closed, PASSES),
    "HEADERS that end": (_fault, PASSES, _closed, ("connection", STREAM_CLOSED), _closed, PASSES),
    "HEADERS": (_fault, _fault, _closed, ("connection", STREAM_CLOSED), _closed, PASSES),
    "PRIORITY": (PASSES,),
    "PRIORITY of itself": (PASSES,),  # no error any more (§5.3.1)
    "PRIORITY too short": (
        ("connection", FRAME_SIZE),
        ("stream", FRAME_SIZE),
        ("stream", FRAME_SIZE),
        PASSES,
        PASSES,
        PASSES,
    ),
    "RST_STREAM": (_broken, PASSES, PASSES, PASSES, PASSES, PASSES),
    "PUSH_PROMISE": (_broken,),
    "WINDOW_UPDATE": (_broken, PASSES, PASSES, PASSES, PASSES, PASSES),
    "WINDOW_UPDATE of 0": (_broken, _fault, _fault, PASSES, PASSES, PASSES),
    "WINDOW_UPDATE of too much": (
        _broken,
        ("stream", FLOW_CONTROL),
        ("stream", FLOW_CONTROL),
        PASSES,
        PASSES,
        PASSES,
    ),
    "CONTINUATION": (_broken,),
    "ALTSVC": (PASSES,),  # a server ignores it (RFC 7838 §4)
    "unknown": (PASSES,),
}
CELLS = [
    pytest.param(
        state, frame, expected[at % len(expected)], id=f"{frame} where it {state.__name__}"
    )
    for frame, expected in BY_STATE.items()
    for at, state in enumerate(STATES)
]


@pytest.mark.parametrize(("enter", "frame", "expected"), CELLS)
def test_a_frame_in_each_state_of_its_stream(
    make: Callable[..., Http2Client],
    enter: Callable[[Http2Client], None],
    frame: str,
    expected: Expected,
) -> None:
    """As RFC 9113 §5.1 and §6 have it, and the other stream is none the wiser."""
    judge(make, enter, FRAMES[frame], expected)


_lone = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
# What makes a message malformed (RFC 9113 §8.1.1–8.3.1): frames behind the bystander's.
MALFORMED: dict[str, Callable[[Http2Client], bytes]] = {
    "a length without a body": lambda client: head(client, ("content-length", "5")),
    "too little": lambda client: (
        head(client, ("content-length", "5"), end=False) + raw(0, NUMBER, b"1234", 1)
    ),
    "too much": lambda client: (
        head(client, ("content-length", "5"), end=False) + raw(0, NUMBER, b"123456")
    ),
    "too little, and trailers": lambda client: (
        head(client, ("content-length", "5"), end=False) + block(client, [("x-end", "1")])
    ),
    "trailers that do not end": lambda client: (
        head(client, end=False) + block(client, [("x-end", "1")], end=False) * 3
    ),
    "a pseudo-header field in trailers": lambda client: (
        head(client, end=False) + block(client, [(":path", "/x")])
    ),
    "a status in trailers": lambda client: (
        head(client, end=False) + block(client, [(":status", "100")])
    ),
    "a status": lambda client: block(client, [(":status", "200"), *_lone]),
    "an interim status": lambda client: block(client, [(":status", "100"), *_lone]),
    "an interim status, unended": lambda client: block(client, [(":status", "103")], end=False),
    "unknown pseudo-header field": lambda client: block(client, [*_lone, (":x", "y")]),
    "a protocol": lambda client: block(client, [*_lone, (":protocol", "websocket")]),
    "repeated pseudo-header field": lambda client: block(client, [*_lone, (":path", "/")]),
    "pseudo-header field behind others": lambda client: block(
        client, [*_lone[:3], ("x", "y"), _lone[3]]
    ),
    "no method": lambda client: block(client, _lone[1:]),
    "no scheme": lambda client: block(client, [_lone[0], *_lone[2:]]),
    "no path": lambda client: block(client, _lone[:3]),
    "empty path": lambda client: block(client, [*_lone[:3], (":path", "")]),
    "no fields": lambda client: block(client, []),
    "capitals": lambda client: head(client, ("X", "y")),
    "no name": lambda client: head(client, ("", "y")),
    "a space in a name": lambda client: head(client, ("x y", "y")),
    "a colon in a name": lambda client: head(client, ("x:y", "y")),
    "a line end in a value": lambda client: head(client, ("x", "y\r\nz: 1")),
    "NUL in a value": lambda client: head(client, ("x", "y\0")),
    "a space before a value": lambda client: head(client, ("x", " y")),
    **{
        name: partial(lambda name, client: head(client, (name, "close")), name)
        for name in (
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "te",
        )
    },
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_message_is_an_error_of_its_stream(
    make: Callable[..., Http2Client], what: str
) -> None:
    """RFC 9113 §8.1.1; nothing of it is served."""
    client = judge(make, is_idle, MALFORMED[what], ("stream", PROTOCOL))
    assert len(client.proxy.served) <= 2


@pytest.mark.parametrize(
    "values",
    [["x"], [""], ["-1"], ["+1"], ["1, 1"], ["1e1"], ["1.0"], ["0x1"], ["9" * 5000], ["1", "2"]],
    ids=lambda values: "+".join(values)[:9],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_bad_length_is_refused_on_its_stream(
    make: Callable[..., Http2Client], values: list[str], is_whole: bool
) -> None:
    """With an answer, as a server may (RFC 9113 §8.1.1); what else comes on it is not wanted."""
    fields = [("content-length", value) for value in values]
    expected = PASSES if is_whole else ("stream", NO_ERROR)
    client = judge(make, is_idle, lambda client: head(client, *fields, end=is_whole), expected)
    assert [error.status for error in client.proxy.refused] == [400]
    assert len(client.proxy.served) == 1


# And what is wrong with the connection itself (RFC 9113 §4–6).
BROKEN: dict[str, tuple[Callable[[Http2Client], bytes], int]] = {
    "HPACK": (lambda client: raw(1, NUMBER, b"\xff\xff\xff\xff\xff\xff", 5), COMPRESSION),
    "HPACK of a stream that was reset": (
        lambda client: (
            head(client, ("connection", "x"), end=False) + raw(1, NUMBER, b"\xff" * 6, 5)
        ),
        COMPRESSION,
    ),
    "a frame too large": (lambda client: raw(0, BYSTANDER, b"x" * 16385), FRAME_SIZE),
    "padding too long": (lambda client: raw(0, BYSTANDER, b"\x09x", 8), PROTOCOL),
    "DATA of the connection": (lambda client: raw(0, 0, b"x"), PROTOCOL),
    "HEADERS of the connection": (lambda client: head(client, number=0), PROTOCOL),
    "PRIORITY of the connection": (lambda client: raw(2, 0, b"\0\0\0\0\x01"), PROTOCOL),
    "RST_STREAM of the connection": (lambda client: raw(3, 0, b"\0\0\0\x08"), PROTOCOL),
    "RST_STREAM too short": (lambda client: raw(3, BYSTANDER, b"\0\0\0"), FRAME_SIZE),
    "SETTINGS of a stream": (lambda client: raw(4, BYSTANDER), PROTOCOL),
    "SETTINGS in pieces": (lambda client: raw(4, 0, b"\0\0\0"), FRAME_SIZE),
    "SETTINGS acknowledged at length": (lambda client: raw(4, 0, b"\0" * 6, 1), FRAME_SIZE),
    "SETTINGS_ENABLE_PUSH": (lambda client: raw(4, 0, b"\0\2\0\0\0\2"), PROTOCOL),
    "SETTINGS_INITIAL_WINDOW_SIZE": (lambda client: raw(4, 0, b"\0\4\x80\0\0\0"), FLOW_CONTROL),
    "SETTINGS_MAX_FRAME_SIZE": (lambda client: raw(4, 0, b"\0\5\0\0\0\1"), PROTOCOL),
    "PING of a stream": (lambda client: raw(6, BYSTANDER, b"12345678"), PROTOCOL),
    "PING too short": (lambda client: raw(6, 0, b"1"), FRAME_SIZE),
    "GOAWAY of a stream": (lambda client: raw(7, BYSTANDER, b"\0" * 8), PROTOCOL),
    "GOAWAY too short": (lambda client: raw(7, 0, b"\0" * 7), FRAME_SIZE),
    "WINDOW_UPDATE too short": (lambda client: raw(8, BYSTANDER, b"\0"), FRAME_SIZE),
    "WINDOW_UPDATE too long": (lambda client: raw(8, BYSTANDER, b"\0" * 5), FRAME_SIZE),
    "WINDOW_UPDATE of 0": (lambda client: raw(8, 0, b"\0\0\0\0"), PROTOCOL),
    "WINDOW_UPDATE of too much": (lambda client: raw(8, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL),
    "a block interrupted": (
        lambda client: raw(1, NUMBER, b"", 1) + raw(6, 0, b"12345678"),
        PROTOCOL,
    ),
    "a block interrupted by advice": (
        lambda client: raw(1, NUMBER, b"", 1) + raw(2, BYSTANDER, b"\0\0\0\0\x01"),
        PROTOCOL,
    ),
    "a block interrupted by the unknown": (
        lambda client: raw(1, NUMBER, b"", 1) + raw(0x63, 0),
        PROTOCOL,
    ),
    "a block of two streams": (
        lambda client: raw(1, NUMBER, b"", 1) + raw(9, 5, b"", 4),
        PROTOCOL,
    ),
    "an even number": (lambda client: head(client, number=4), PROTOCOL),
    "a number that was passed over": (
        lambda client: head(client, number=9) + head(client, number=5),
        PROTOCOL,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_with_the_connection_ends_it(
    make: Callable[..., Http2Client], what: str
) -> None:
    """With the code that RFC 9113 names."""
    frames, code = BROKEN[what]
    judge(make, is_idle, frames, ("connection", code))


def test_more_than_its_window_is_an_error_of_the_stream(make: Callable[..., Http2Client]) -> None:
    """Of the connection's window it takes nothing for good."""
    full = raw(0, NUMBER, b"x" * 16384)
    client = judge(make, is_open, lambda client: full * 4, ("stream", FLOW_CONTROL))
    for number in range(NUMBER + 2, NUMBER + 80, 2):
        client.say(head(client, number=number, end=False))
        client.say(raw(0, number, b"x" * 16384) * 4)
    assert client.connection._h2.inbound_flow_control_window > CONNECTION_WINDOW // 4


def judge(
    make: Callable[..., Http2Client],
    enter: Callable[[Http2Client], None],
    frames: Callable[[Http2Client], bytes],
    expected: Expected,
) -> Http2Client:
    """Say something beside a bystander's stream, and see whose error it is."""
    gate = Event()

    def wait(exchange: Http2Stream) -> None:
        if not any(name == b"x-now" for name, _value in exchange.head.fields):
            gate.wait()
        exchange.answer(200, [], b"")

    client = make(wait)
    client.say(raw(4, 0, b"\0\4\0\0\xff\xff"))  # windows that can be made wider
    client.say(head(client, number=BYSTANDER, end=False))
    enter(client)
    before = len(client.line.output)
    client.say(frames(client))
    settle()
    said = client.line.output
    client.line.sent = [said[before:]]
    codes = [f.error_code for f in client.of(NUMBER) if isinstance(f, RstStreamFrame)]
    ends = [f.error_code for f in client.of(0) if isinstance(f, GoAwayFrame)]
    gate.set()
    client.say(raw(0, BYSTANDER, b"", 1) if not ends else b"")
    settle()
    is_served = any(isinstance(f, HeadersFrame) for f in client.of(BYSTANDER))
    client.line.sent = [said, *client.line.sent[1:]]
    if expected == PASSES:
        assert (codes, ends, is_served) == ([], [], True)
    elif expected[0] == "stream":
        assert (codes, ends, is_served) == ([expected[1]], [], True)
    else:
        assert ends == [expected[1]]
    return client
