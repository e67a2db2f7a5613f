"""What a client is told of a head that the parser has refused, and what is read at a second look."""

from __future__ import annotations

import pytest

from app.errors import BadRequest
from app.wire.parser import ParseError, parse_request
from app.wire.refusal import read_again


def again(data: bytes, line: int = 8190, fields: int = 100, field: int = 8190) -> dict[str, object]:
    """A second look at what the parser refuses."""
    with pytest.raises(ParseError) as caught:
        parse_request(data, 0, line, fields, field, True)
    return read_again(caught.value, data, line, fields, field)


def head(*lines: bytes, start: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join((start, b"Host: a", *lines, b"", b""))


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (head(start=b"G(T / HTTP/1.1"), 400, "bad_method"),
        (head(start=b"GET / HTTP/1.2"), 505, "version_not_supported"),
        (head(start=b"GET a HTTP/1.1"), 400, "bad_target"),
        (head(b"Host: b"), 400, "bad_host"),
        (head(b"Content-Length: -1"), 400, "bad_framing"),
        (head(b"Transfer-Encoding: x"), 501, "unknown_coding"),
        (head(b"X Y: 1"), 400, "bad_header"),
        (head(start=b"GET /%b HTTP/1.1" % (b"a" * 9000)), 414, "target_too_long"),
        (head(b"X: " + b"a" * 9000), 431, "head_too_large"),
        # With a Content-Type that is said twice the other fault is the one that counts.
        (head(b"Content-Type: a", b"Content-Type: a", b"Host: b"), 400, "bad_host"),
        (head(b"Content-Type: a", b"Content-Type: a", b"Content-Length: x"), 400, "bad_framing"),
    ],
)
def test_the_fault_has_its_status_and_reason(data: bytes, status: int, reason: str) -> None:
    """Whichever parser has found it."""
    with pytest.raises(BadRequest) as caught:
        again(data)
    assert (caught.value.status, caught.value.reason) == (status, reason)


def test_a_second_content_type_is_read() -> None:
    """Whether it differs is the reader's question."""
    parts = again(head(b"Content-Type: a", b"X-A: 1", b"Content-Type: b"))
    assert parts["headers"] == [
        (b"Host", b"a"),
        (b"Content-Type", b"a"),
        (b"X-A", b"1"),
        (b"Content-Type", b"b"),
    ]
