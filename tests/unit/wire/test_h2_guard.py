"""What a client may do for nothing, and that everything else passes the gate untouched."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.h2_guard import (
    BYTES_PER_IDLE_FRAME,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    IDLE_BURST,
    IDLE_RATE,
    MAX_CONTINUATIONS,
    PROTOCOL_ERROR,
    UNITS_PER_HEADERS,
    UNITS_PER_TURN,
    FrameGuard,
    Refused,
    TokenBucket,
)

MAX_BLOCK_BYTES = 65536
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def opened() -> FrameGuard:
    """A gate behind the preface."""
    gate = FrameGuard(0.0, MAX_BLOCK_BYTES)
    assert gate.feed(PREFACE, 0.0) == PREFACE
    return gate


def headers(data: bytes, *flags: str) -> bytes:
    """A HEADERS frame."""
    return HeadersFrame(1, data, flags=flags).serialize()


def code_of(gate: FrameGuard, data: bytes, now: float = 0.0) -> tuple[int, str] | None:
    """With which code it is refused."""
    try:
        gate.feed(data, now)
        while gate.has_more:
            gate.feed(b"", now)
    except Refused as refused:
        return refused.code, refused.reason
    return None


_frames: st.SearchStrategy[Frame] = st.one_of(
    st.binary(max_size=30).map(lambda data: DataFrame(1, data)),
    st.binary(max_size=30).map(lambda data: HeadersFrame(1, data, flags=("END_HEADERS",))),
    st.just(PingFrame(0, b"12345678")),
    st.just(SettingsFrame(0, settings={4: 100})),
    st.just(GoAwayFrame(0, additional_data=b"bye")),
    st.just(PriorityFrame(1, stream_weight=1)),
    st.just(WindowUpdateFrame(1, window_increment=7)),
    st.just(ExtensionFrame(0x63, 1)),
)


@settings(derandomize=True, max_examples=200)
@given(st.lists(_frames, max_size=8), st.data())
def test_frames_pass_in_whatever_pieces_they_come(frames: list[Frame], data: st.DataObject) -> None:
    """Every byte but those of frames that say nothing to a server, in order."""
    stream = PREFACE + b"".join(frame.serialize() for frame in frames)
    expected = PREFACE + b"".join(
        frame.serialize()
        for frame in frames
        if not isinstance(frame, GoAwayFrame | PriorityFrame | ExtensionFrame)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    gate, passed, at = FrameGuard(0.0, MAX_BLOCK_BYTES), b"", 0
    for end in [*cuts, len(stream)]:
        passed += gate.feed(stream[at:end], 0.0)
        while gate.has_more:
            passed += gate.feed(b"", 0.0)
        at = end
    assert passed == expected
    assert not gate.is_inside
    assert gate.frames == len(frames)


def test_what_passes_is_not_copied() -> None:
    """Bodies cost the gate nothing but a look at their frame headers."""
    data = DataFrame(1, b"x" * 10_000).serialize()
    assert opened().feed(data, 0.0) is data


def test_a_frame_too_large_is_refused_by_its_header() -> None:
    """Before any of it was kept (the library would wait for all of it first)."""
    assert code_of(opened(), b"\x00\x40\x01\x00\x00\x00\x00\x00\x01") == (
        FRAME_SIZE_ERROR,
        "frame_too_large",
    )
    assert code_of(opened(), b"\x00\x40\x00\x00\x00\x00\x00\x00\x01") is None


def test_header_blocks_are_bounded_in_frames_and_bytes() -> None:
    """A flood of continuations, empty or full, ends before it is decoded."""
    gate = opened()
    more = ContinuationFrame(1, b"").serialize()
    assert code_of(gate, headers(b"") + more * MAX_CONTINUATIONS) is None
    assert code_of(gate, more) == (ENHANCE_YOUR_CALM, "header_block_too_large")
    gate = opened()
    full = ContinuationFrame(1, b"x" * 16384).serialize()
    assert code_of(gate, headers(b"x" * 16384) + full * (MAX_BLOCK_BYTES // 16384 - 1)) is None
    assert code_of(gate, ContinuationFrame(1, b"x").serialize()) == (
        ENHANCE_YOUR_CALM,
        "header_block_too_large",
    )
    gate = opened()
    whole = headers(b"x") + ContinuationFrame(1, b"y", flags=("END_HEADERS",)).serialize()
    assert code_of(gate, whole * 100) is None, "each block is measured by itself"


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, b"12345678"),
        SettingsFrame(0),
        SettingsFrame(0, flags=("ACK",)),
        PriorityFrame(1, stream_weight=1),
        WindowUpdateFrame(0, window_increment=1),
        DataFrame(1, b""),
        DataFrame(1, b"", flags=("PADDED",), pad_length=200),
        GoAwayFrame(0),
    ],
    ids=lambda frame: frame.serialize()[:9].hex(),
)
def test_frames_that_move_nothing_are_bounded(frame: Frame) -> None:
    """A burst, then a rate; a connection that moved something has earned more."""
    data = frame.serialize()
    gate = opened()
    sent = 0
    while code_of(gate, data) is None:
        sent += 1
        assert sent <= IDLE_BURST
    assert sent > IDLE_BURST / 2
    gate = opened()
    for tick in range(3 * IDLE_BURST):
        assert code_of(gate, data, tick / (IDLE_RATE / 2)) is None
    gate = opened()
    for _ in range(3 * IDLE_BURST):
        gate.received(2 * BYTES_PER_IDLE_FRAME)
        assert code_of(gate, data) is None


def test_settings_by_the_hundred_count_as_such() -> None:
    """One frame of 2,700 settings costs as much as many frames."""
    data = SettingsFrame(0, settings={1000 + n: 1 for n in range(2700)}).serialize()
    gate = opened()
    assert code_of(gate, data * 3) is None
    assert code_of(gate, data * 3) == (ENHANCE_YOUR_CALM, "frame_flood")


def test_ends_and_bodies_are_not_counted() -> None:
    """An empty frame that ends a stream is what most answers end with."""
    gate = opened()
    end = DataFrame(1, b"", flags=("END_STREAM",)).serialize()
    assert code_of(gate, (end + DataFrame(1, b"x").serialize()) * 3 * IDLE_BURST) is None


def test_what_is_owed_is_known() -> None:
    """The preface, the rest of a frame, the rest of a header block; not the rest of a body's piece."""
    gate = FrameGuard(0.0, MAX_BLOCK_BYTES)
    assert gate.is_inside
    gate.feed(PREFACE, 0.0)
    assert not gate.is_inside
    ping = PingFrame(0, b"12345678").serialize()
    for end in (3, 9, 12):
        gate = opened()
        gate.feed(ping[:end], 0.0)
        assert gate.is_inside, end
        gate.feed(ping[end:], 0.0)
        assert not gate.is_inside, end
    gate.feed(headers(b"x"), 0.0)
    assert gate.is_inside
    gate.feed(ContinuationFrame(1, b"y", flags=("END_HEADERS",)).serialize(), 0.0)
    assert not gate.is_inside
    gate.feed(DataFrame(1, b"x" * 100).serialize()[:50], 0.0)
    assert not gate.is_inside


def test_a_budget_is_a_burst_and_a_rate() -> None:
    """It never holds more than the burst."""
    budget = TokenBucket(3, 2, now=0.0)
    assert [budget.spend(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(1, 1.0)
    assert not budget.spend(1, 1.0)
    budget.earn(100)
    assert budget.spend(3, 1.0)
    assert not budget.spend(1, 1.0)
    kept = TokenBucket(3, 2, now=0.0, most=6)
    kept.earn(100)
    assert kept.spend(5, 10.0), "time takes nothing of what was earned away"
    assert not kept.spend(2, 10.0)


def test_a_turn_s_work_is_bounded() -> None:
    """What one read brings is worked through in pieces, a request being more than a frame of a body."""
    small, request = DataFrame(1, b"x").serialize(), headers(b"x", "END_HEADERS")
    for frame, units in ((small, 1), (request, UNITS_PER_HEADERS)):
        gate = opened()
        data = frame * 3 * UNITS_PER_TURN
        passed = gate.feed(data, 0.0)
        turns = 1
        while gate.has_more:
            assert gate.is_inside, "the rest is not waited for in vain"
            piece = gate.feed(b"", 0.0)
            assert 0 < len(piece) <= len(frame) * (UNITS_PER_TURN // units)
            passed += piece
            turns += 1
        assert passed == data
        assert turns >= 3 * units


def test_reactions_that_we_provoke_are_free() -> None:
    """An event stream's small frames are answered with a window update each for stream and connection."""
    gate = opened()
    reaction = WindowUpdateFrame(1, window_increment=50).serialize() * 2
    for _ in range(10):
        for _ in range(2000):
            gate.sent(50, True)
        assert code_of(gate, reaction * 2000) is None, "they may come late, all together"


def test_small_frames_that_a_small_window_makes_pay_for_nothing() -> None:
    """A client that opens its window byte by byte has us send a frame for each (CVE-2019-9511)."""
    gate = opened()
    sent = 0
    while code_of(gate, WindowUpdateFrame(1, window_increment=1).serialize()) is None:
        gate.sent(1, False)
        sent += 1
        assert sent < 1.1 * IDLE_BURST


def test_what_was_on_its_way_to_a_stream_that_we_reset_is_free() -> None:
    """As far as the stream's window goes; what turns out to move nothing is charged otherwise."""
    gate = opened()
    gate.was_reset(65535)
    for _ in range(IDLE_BURST + 63):
        gate.spend(1)
    with pytest.raises(Refused):
        gate.spend(1)


def test_faults_of_a_stream_are_told_apart_from_those_of_the_connection() -> None:
    """The library would end the connection for either."""
    none = b"\x00\x00\x04\x08\x00\x00\x00\x00%c\x00\x00\x00\x00"
    short = b"\x00\x00\x04\x02\x00\x00\x00\x00%c\x00\x00\x00\x00"
    for frame, code in ((none, PROTOCOL_ERROR), (short, FRAME_SIZE_ERROR)):
        gate = opened()
        assert gate.feed((frame % 3)[:-2], 0.0) == b""
        assert gate.feed((frame % 3)[-2:], 0.0) == b""
        assert gate.faults == [(3, code)]
        assert not gate.is_inside
        gate = opened()
        assert gate.feed(frame % 0, 0.0) == frame % 0
        assert not gate.faults
    assert code_of(opened(), ContinuationFrame(1, b"").serialize()) == (PROTOCOL_ERROR, "bad_http2")
