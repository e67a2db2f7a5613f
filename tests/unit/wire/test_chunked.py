"""The chunked coding, beyond what the wire cases say: pieces, bounds, and writing it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.chunked import ChunkedDecoder, ChunkedError, encode_chunk, last_chunk

_trailers = st.lists(
    st.tuples(
        st.from_regex(rb"X-[A-Za-z0-9]{1,8}", fullmatch=True),
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


def test_sizes_up_to_an_exabyte() -> None:
    """Fifteen digits fit any reader's 64 bits, sixteen do not."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"fffffffffffffff\r\nabc") == b"abc"
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(b"0fffffffffffffff\r\n")


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
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(100))
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


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_no_more_chunks_are_decoded_at_once_than_was_said(cut: int) -> None:
    """The rest by feeding nothing, or more; it is the same body however it was cut."""
    data = b"1\r\na\r\n" * 50 + b"0\r\nX-A: b\r\n\r\nrest"
    decoder = ChunkedDecoder(8)
    pieces: list[bytes] = []
    for at in range(0, len(data), cut):
        if not decoder.done:
            pieces.append(decoder.feed(data[at : at + cut]))
    while decoder.has_more:
        pieces.append(decoder.feed(b""))
    assert max(map(len, pieces)) <= 8
    assert b"".join(pieces) == b"a" * 50
    assert (decoder.done, decoder.trailers) == (True, [(b"X-A", b"b")])
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
