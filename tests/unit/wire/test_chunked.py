"""The chunked coding, beyond what the wire cases say: pieces, bounds, and writing it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.chunked import (
    AnswerDecoder,
    ChunkedDecoder,
    ChunkedError,
    encode_chunk,
    last_chunk,
)

_trailers = st.lists(
    st.tuples(
        st.from_regex(rb"Grpc-[A-Za-z0-9]{1,8}", fullmatch=True),
        st.from_regex(rb"[!-~]{0,8}", fullmatch=True),
    ),
    max_size=3,
)


def decode(data: bytes) -> bytes:
    """The body of a whole message."""
    decoder = ChunkedDecoder()
    body = decoder.feed(data)
    assert decoder.done
    return body


@settings(derandomize=True, max_examples=300)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    _trailers,
    st.binary(max_size=5),
    st.data(),
)
def test_what_is_written_is_read(
    pieces: list[bytes], trailers: list[tuple[bytes, bytes]], rest: bytes, data: st.DataObject
) -> None:
    """In whatever pieces it comes; what follows is not touched."""
    message = b"".join(map(encode_chunk, pieces)) + last_chunk(trailers)
    stream = message + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    decoder = ChunkedDecoder()
    body, at = b"", 0
    for end in [*cuts, len(stream)]:
        if decoder.done:
            break
        body += decoder.feed(stream[at:end])
        at = end
    assert decoder.done
    assert body == b"".join(pieces)
    assert decoder.trailers == trailers
    assert decoder.rest + stream[at:] == rest


def test_data_is_given_as_it_comes() -> None:
    """A large chunk does not wait for its end, and is not copied on the way."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"ffff\r\nabc") == b"abc"
    piece = b"x" * 1000
    assert decoder.feed(piece) is piece


def test_sizes_up_to_63_bits() -> None:
    """What fits any reader's 64 bits with a sign; zeros before it are none of it."""
    for size in (b"7fffffffffffffff", b"0000000000000000007FFFFFFFFFFFFFFF"):
        assert ChunkedDecoder().feed(size + b"\r\nabc") == b"abc"
    for size in (b"8000000000000000", b"ffffffffffffffff", b"1" + b"0" * 200):
        with pytest.raises(ChunkedError, match="over 63 bits"):
            ChunkedDecoder().feed(size + b"\r\n")


def test_what_cannot_end_a_chunk_is_refused_at_once() -> None:
    """One wrong byte is enough: the second is not waited for."""
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(b"1\r\nxY")


@pytest.mark.parametrize("size", [255, 271])
def test_a_size_line_within_its_bound(size: int) -> None:
    """272 bytes, digits and extensions together."""
    assert decode(b"1;" + b"a" * (size - 2) + b"\r\nx\r\n0\r\n\r\n") == b"x"


@pytest.mark.parametrize("tail", [b"", b"\r\n"])
def test_a_size_line_over_its_bound(tail: bytes) -> None:
    """Refused when it is over, not when it ends."""
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(b"1;" + b"a" * 300 + tail)


def test_extensions_are_paid_for_with_data() -> None:
    """Long extensions on large chunks are fine for ever, on tiny ones only for a while."""
    extension = b";signature=" + b"a" * 64
    large = ChunkedDecoder()
    for _ in range(2000):
        large.feed(b"100%b\r\n%b\r\n" % (extension, b"x" * 256))
    tiny = b"1%b\r\nx\r\n" % extension
    assert ChunkedDecoder().feed(tiny * 100) == b"x" * 100
    with pytest.raises(ChunkedError, match="extensions"):
        ChunkedDecoder().feed(tiny * 2000)


def test_trailers_within_their_bounds() -> None:
    """A hundred fields, 8,190 bytes."""
    many = b"".join(b"Grpc-%d: 1\r\n" % number for number in range(100))
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\n" + many + b"\r\n")
    assert len(decoder.trailers) == 100
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(b"0\r\n" + many + b"X: 1\r\n\r\n")
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(b"0\r\nX-A: " + b"a" * 8190)


def test_no_trailers() -> None:
    """The plain end, for a response and for a request."""
    assert last_chunk([]) == b"0\r\n\r\n"
    assert encode_chunk(b"x" * 16) == b"10\r\n" + b"x" * 16 + b"\r\n"


def test_what_a_client_may_not_say_in_a_trailer_is_discarded() -> None:
    """Its body is whole all the same, and what follows is where it was."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"1\r\nx\r\n0\r\nHost: a\r\nETag: b\r\nX-Any: c\r\n\r\nGET") == b"x"
    assert (decoder.done, decoder.trailers, decoder.rest) == (True, [(b"ETag", b"b")], b"GET")


@pytest.mark.parametrize("line", [b"5 ", b"5\t ", b"5;", b"5 ;a b", b'5;a="', b"05;\xe9"])
def test_of_answers_more_sizes_are_read(line: bytes) -> None:
    """Clients see none of it; of requests it is refused."""
    data = line + b"\r\nhello\r\n0\r\n\r\n"
    decoder = AnswerDecoder()
    assert (decoder.feed(data), decoder.done) == (b"hello", True)
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(data)


@pytest.mark.parametrize(
    "line", [b" 5", b"", b";a", b"5;\0", b"5\r", b"5\n", b"5;a\nb", b"-5", b"5 5"]
)
def test_what_is_no_size_is_none_of_an_answer_either(line: bytes) -> None:
    """Where the next chunk begins would be a guess."""
    with pytest.raises(ChunkedError):
        AnswerDecoder().feed(line + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("line", [b"nonsense", b": 1", b"X Y: 1", b" folded", b"X: \0"])
def test_a_trailer_of_an_answer_that_is_no_field_costs_the_section(line: bytes) -> None:
    """Not the answer, whose content is whole."""
    decoder = AnswerDecoder()
    assert decoder.feed(b"1\r\nx\r\n0\r\nA: 1\r\n" + line + b"\r\nB: 2\r\n\r\nrest") == b"x"
    assert (decoder.done, decoder.trailers, decoder.rest) == (True, [], b"rest")


@pytest.mark.parametrize("line", [b"A\nB: 1", b"A: 1\rB", b"A: 1\n", b"nonsense\r\nA: 1\n"])
def test_where_the_trailers_of_an_answer_end_is_no_guess(line: bytes) -> None:
    """A bare CR or LF may end a line to one reader and not to another."""
    with pytest.raises(ChunkedError):
        AnswerDecoder().feed(b"0\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_no_more_chunks_are_decoded_at_once_than_was_said(cut: int) -> None:
    """The rest by feeding nothing, or more; it is the same body however it was cut."""
    data = b"1\r\na\r\n" * 50 + b"0\r\nETag: b\r\n\r\nrest"
    decoder = ChunkedDecoder(8)
    pieces: list[bytes] = []
    for at in range(0, len(data), cut):
        if not decoder.done:
            pieces.append(decoder.feed(data[at : at + cut]))
    while decoder.has_more:
        pieces.append(decoder.feed(b""))
    assert max(map(len, pieces)) <= 8
    assert b"".join(pieces) == b"a" * 50
    assert (decoder.done, decoder.trailers) == (True, [(b"ETag", b"b")])
    assert b"rest".startswith(decoder.rest)


def test_a_body_whose_chunks_are_all_decoded_has_no_more() -> None:
    """Also at the very number, and with a part of the next one here."""
    decoder = ChunkedDecoder(2)
    assert decoder.feed(b"1\r\na\r\n1\r\nb\r\n") == b"ab"
    assert not decoder.has_more
    assert decoder.feed(b"1\r\nc\r\n1\r\nd\r\n1") == b"cd"
    assert decoder.has_more
    assert decoder.feed(b"") == b""
    assert not decoder.has_more
    assert decoder.feed(b"\r\ne\r\n0\r\n\r\n") == b"e"
    assert decoder.done
