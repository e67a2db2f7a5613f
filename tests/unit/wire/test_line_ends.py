"""Line ends of a head that looks odd."""

from __future__ import annotations

import pytest

from app.errors import BadRequest
from app.wire.line_ends import check_lines

LINE = b"GET / HTTP/1.1"


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_an_empty_line_in_front_is_ignored(before: bytes) -> None:
    check_lines(before + LINE + b"\r\nHost: a\r\n\r\n", 3, len(LINE), 100)


@pytest.mark.parametrize(
    ("head", "limit", "reason"),
    [
        (LINE + b"\r\nHost: a\r\n\r\n", 10, "target_too_long"),
        (LINE + b"\nHost: a\r\n\r\n", 100, "bad_line_ending"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 100, "bad_request_line"),
        (b"\r\n\r\n" + LINE + b"\r\nHost: a\r\n\r\n", 100, "bad_request_line"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    head: bytes, limit: int, reason: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        check_lines(head, 3, len(LINE), limit)
    assert caught.value.reason == reason
