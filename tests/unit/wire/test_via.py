"""Via and Max-Forwards: loops are found whoever sends the field, and hops are counted."""

from __future__ import annotations

import pytest

from app.errors import BadRequest
from app.wire import via
from app.wire.request import read_head

OURS = via.mark(0x1234)
THEIRS = via.mark(0xFFFF_FFFF_FFFF_FFFF)


def test_a_line_of_ours() -> None:
    """The version that was received, a pseudonym, and nothing of the inside."""
    assert via.line(1, None, OURS) == b"Via: 1.1 load-balancer-0000000000001234\r\n"
    assert via.line(0, b"1.1 a", OURS) == b"Via: 1.1 a, 1.0 load-balancer-0000000000001234\r\n"
    assert via.line(2, b"1.1 a", OURS) == b"Via: 1.1 a, 2.0 load-balancer-0000000000001234\r\n"
    assert via.is_loop(b"2.0 " + OURS, OURS)


@pytest.mark.parametrize(
    "field",
    [
        b"1.1 " + OURS,
        b"1.0 " + OURS,
        b"HTTP/1.1 " + OURS,
        b"1.1 a, 1.1 " + OURS + b" , 2.0 b:80 (nginx)",
        b"1.1 a (one, two), 1.1 " + OURS,
        b"1.1 " + OURS + b"(said, 1.1 b)",
    ],
)
def test_a_loop_is_found(field: bytes) -> None:
    """Wherever our mark stands in the list."""
    assert via.is_loop(field, OURS)


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"1.1 load-balancer",
        b"1.1 " + THEIRS,
        b"1.1 " + OURS + b"0",
        b"1.1 x" + OURS,
        b"1.1 a (not 1.1 " + OURS + b")",
        b"1.1 a (not, 1.1 " + OURS + b")",
    ],
)
def test_what_is_no_loop(field: bytes) -> None:
    """Another balancer of this kind in front is none."""
    assert not via.is_loop(field, OURS)


def test_marks_are_all_that_a_stranger_can_say() -> None:
    """Two balancers that do not trust each other still find their loop."""
    field = b"1.1 evil, 1.1 " + THEIRS + b", 1.1 admin (x), 1.0 " + OURS
    assert via.marks(field) == [b"1.1 " + THEIRS, b"1.0 " + OURS]


def test_invented_marks_are_bounded_and_hide_none() -> None:
    """The last ones count: what was written later stands further right."""
    field = b", ".join([b"1.1 " + THEIRS] * 500 + [b"1.1 " + OURS])
    assert len(via.marks(field)) == 16
    assert via.is_loop(field, OURS)


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
