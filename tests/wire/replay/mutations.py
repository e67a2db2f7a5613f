"""Hypothesis strategies: whole requests that are fine, and the cases' bytes bent a little."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from . import corpus

TOKEN = "!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What parsers disagree about, more often than chance would bring it.
SHARP = [
    *(
        bytes([code])
        for code in (
            0,
            9,
            10,
            11,
            12,
            13,
            32,
            35,
            43,
            44,
            45,
            48,
            58,
            59,
            64,
            95,
            127,
            133,
            160,
            255,
        )
    ),
    *(
        b"\r\n",
        b"\n\r",
        b"\r\n ",
        b"\r\n\t",
        b"\r\n\r\n",
        b" :",
        b"0x",
        b"chunked",
        b"identity",
        b", ",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b.example\r\n",
        b"_",
        b"%",
    ),
    *(b"HTTP/1.0", b"HTTP/1.1", b"http://", b"Expect: 100-continue\r\n", b"Connection: close\r\n"),
]

_names = st.text(TOKEN, min_size=1, max_size=12).map(lambda text: "X-" + text)
_values = (
    st.binary(max_size=20)
    .map(lambda raw: bytes(b for b in raw if b == 9 or 32 <= b != 127))
    .map(lambda raw: raw.strip(b" \t"))
)
_targets = st.text([chr(code) for code in range(0x21, 0x7F) if chr(code) != "#"], max_size=30).map(
    lambda text: "/" + text
)


@st.composite
def valid(draw: st.DrawFn) -> bytes:
    """A request that is fine."""
    method = draw(
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
    )
    head = f"{method} {draw(_targets)} HTTP/1.1\r\nHost: a.example\r\n".encode()
    for name, value in draw(st.lists(st.tuples(_names, _values), max_size=5)):
        head += name.encode() + b": " + value + b"\r\n"
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        return head + b"\r\n"
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cuts = draw(st.lists(st.integers(0, len(body)), max_size=3))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in corpus.pieces(body, cuts))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@st.composite
def bent(draw: st.DrawFn, sources: SearchStrategy[bytes]) -> bytes:
    """One of ``sources`` with up to four places changed."""
    data = draw(sources)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        width = draw(st.sampled_from([0, 0, 1, 1, 2, 8]))
        patch = draw(st.one_of(st.sampled_from(SHARP), st.just(b""), st.binary(max_size=3)))
        data = data[:at] + patch + data[at + width :]
    return data
