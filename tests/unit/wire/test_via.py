"""Via, CDN-Loop and Max-Forwards: loops are found whoever sends the field, and hops are counted."""

from __future__ import annotations

import pytest

from app.errors import BadRequest
from app.wire import via
from app.wire.request import read_head

OURS = via.mark(0x1234)
THEIRS = via.mark(0xFFFF_FFFF_FFFF_FFFF)


def test_a_via_line() -> None:
    """The version that was received, a pseudonym, and nothing of the inside."""
    assert via.line(None, via.received_by(1)) == b"Via: 1.1 load-balancer\r\n"
    assert via.line(b"1.1 a", via.received_by(0)) == b"Via: 1.1 a, 1.0 load-balancer\r\n"
    assert via.line(b"1.1 a", via.received_by(2)) == b"Via: 1.1 a, 2.0 load-balancer\r\n"
    assert via.line(b"1.1 a", b"") == b"Via: 1.1 a\r\n"
    assert via.line(None, b"") == b""


def test_a_cdn_loop_line() -> None:
    """Ours is added to what was said, of which nothing is removed (RFC 8586 §2)."""
    assert via.loop_line(None, OURS) == b"CDN-Loop: load-balancer-0000000000001234\r\n"
    said = b'a.example; x="1,2", b'
    line = via.loop_line(said, OURS)
    assert line == b"CDN-Loop: " + said + b", " + OURS + b"\r\n"
    assert via.is_loop(line[10:-2], OURS)


@pytest.mark.parametrize(
    "field",
    [
        OURS,
        b"a.example:80, " + OURS + b"\t, b",
        b"a," + OURS + b";v=1",
        b'a;x="y, ' + OURS,  # what was left open in front of it hides nothing
        b"a, " * 64 + b"a",
    ],
)
def test_a_loop_is_found(field: bytes) -> None:
    """Wherever our mark stands in the list; or nobody's, but it is longer than any way there is."""
    assert via.is_loop(field, OURS)


@pytest.mark.parametrize(
    "field",
    [b"", b"load-balancer", THEIRS, OURS + b"0", b"x" + OURS, b"a;by=" + OURS, b"a, " * 63 + b"a"],
)
def test_what_is_no_loop(field: bytes) -> None:
    """Another balancer of this kind in front is none."""
    assert not via.is_loop(field, OURS)


@pytest.mark.parametrize(
    ("value", "left"),
    [(b"0", 0), (b"000", 0), (b"1", 1), (b"10", 10), (b"9" * 5000, 2**31 - 1)],
)
def test_max_forwards(value: bytes, left: int) -> None:
    """A number of any length."""
    assert via.max_forwards(value) == left


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.0", b"1, 2", b"x", b"0x1"])
def test_max_forwards_that_is_no_number(value: bytes) -> None:
    """Whether to forward cannot be told."""
    with pytest.raises(BadRequest):
        via.max_forwards(value)


def test_max_forwards_is_for_options_only() -> None:
    """RFC 9110 §7.6.2: of other methods it may be ignored."""
    for method, sent in ((b"OPTIONS", b"1"), (b"GET", b"2")):
        head = read_head(method + b" / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n")
        assert head is not None
        assert b"Max-Forwards: " + sent + b"\r\n" in b"".join(head.lines)
