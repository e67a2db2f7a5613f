"""The body of an answer to a check: how much of it is read, and what cannot be."""

from __future__ import annotations

import pytest
from fakes.connections import Pieces

from app.control.health import probe_body as bodies
from app.wire.response import CHUNKED, UNTIL_CLOSE


@pytest.mark.parametrize(
    ("length", "pieces", "expected"),
    [
        (5, [b"he", b"llo", b"more"], "hello"),
        (0, [b""], ""),
        (CHUNKED, [b"3\r\nabc\r", b"\n1\r\nd\r\n0\r\n\r\n"], "abcd"),
        (UNTIL_CLOSE, [b"till ", b"the ", b"end"], "till the end"),
        (UNTIL_CLOSE, [b"\xff"], "\ufffd"),
        (1_000_000, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
        (UNTIL_CLOSE, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
    ],
    ids=["length", "none", "chunked", "until closed", "not UTF-8", "long", "endless"],
)
def test_a_body_is_read_to_its_end_or_the_bound(
    length: int, pieces: list[bytes], expected: str
) -> None:
    first, *rest = pieces
    assert bodies.read_body(Pieces(*rest), length, first) == expected


@pytest.mark.parametrize(
    ("length", "data", "error"),
    [
        (5, b"hel", ConnectionResetError),
        (CHUNKED, b"5\r\nhel", ConnectionResetError),
        (CHUNKED, b"nonsense\r\n", bodies.BadBody),
    ],
)
def test_a_body_that_is_cut_or_unreadable_does_not_pass(
    length: int, data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bodies.read_body(Pieces(), length, data)
