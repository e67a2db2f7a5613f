"""The body of an answer to a check: how much of it is read, and what cannot be."""

from __future__ import annotations

import pytest
from fakes.connections import Pieces

from app.control.health import probe_body as bodies


@pytest.mark.parametrize(
    ("head", "pieces", "expected"),
    [
        ({"Content-Length": "5"}, [b"he", b"llo", b"more"], "hello"),
        ({"content-length": "0"}, [b""], ""),
        ({"Transfer-Encoding": "chunked"}, [b"3\r\nabc\r", b"\n1\r\nd\r\n0\r\n\r\n"], "abcd"),
        ({}, [b"till ", b"the ", b"end"], "till the end"),
        ({}, [b"\xff"], "\ufffd"),
        ({"Content-Length": "1000000"}, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
        ({}, [b"x" * 30_000] * 9, "x" * bodies.BODY_LIMIT),
    ],
    ids=["length", "none", "chunked", "until closed", "not UTF-8", "long", "endless"],
)
def test_a_body_is_read_to_its_end_or_the_bound(
    head: dict[str, str], pieces: list[bytes], expected: str
) -> None:
    first, *rest = pieces
    assert bodies.read_body(Pieces(*rest), head, first) == expected


@pytest.mark.parametrize(
    ("head", "data", "error"),
    [
        ({"Content-Length": "5"}, b"hel", ConnectionResetError),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhel", ConnectionResetError),
        ({"Transfer-Encoding": "chunked"}, b"nonsense\r\n", bodies.BadBody),
        ({"Content-Length": "five"}, b"", bodies.BadBody),
    ],
)
def test_a_body_that_is_cut_or_unreadable_does_not_pass(
    head: dict[str, str], data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bodies.read_body(Pieces(), head, data)
