"""What is read from a response head beyond what the wire cases can show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadResponse
from app.wire.response import CHUNKED, MAX_HEAD_BYTES, UNTIL_CLOSE, ResponseHead, read_head


def read(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    """A response with these fields."""
    head = read_head(b"\r\n".join((start, *lines, b"", b"")), method)
    assert head is not None
    return head


def test_the_facts_of_a_head() -> None:
    """Everything the layers above ask for."""
    head = read(b"Date: now", b"Content-Length: 3", b"X-A: 1", start=b"HTTP/1.1 404 Not Here")
    assert (head.status, head.reason, head.length) == (404, b"Not Here", 3)
    assert (head.has_date, head.has_length, head.keep_alive) == (True, True, True)
    assert b"".join(head.lines) == b"Date: now\r\nContent-Length: 3\r\nX-A: 1\r\n"
    assert head.fields == [(b"Date", b"now"), (b"Content-Length", b"3"), (b"X-A", b"1")]


def test_no_fact_is_left_from_the_response_before() -> None:
    """Facts have defaults on the class: one head must not see another's."""
    read(b"Date: now", b"Content-Length: 3", b"Connection: upgrade", b"Upgrade: x", b"Trailer: x")
    head = read()
    assert (head.has_date, head.has_length, head.upgrade, head.trailer) == (
        False,
        False,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("lines", "method", "start", "length"),
    [
        ((), b"GET", b"HTTP/1.1 200 OK", UNTIL_CLOSE),
        ((b"Content-Length: 7",), b"GET", b"HTTP/1.1 200 OK", 7),
        ((b"Transfer-Encoding: Chunked",), b"GET", b"HTTP/1.1 200 OK", CHUNKED),
        ((b"Content-Length: 7",), b"HEAD", b"HTTP/1.1 200 OK", 0),
        ((b"Transfer-Encoding: chunked",), b"HEAD", b"HTTP/1.1 200 OK", 0),
        ((b"Content-Length: 7",), b"GET", b"HTTP/1.1 304 Not Modified", 0),
        ((), b"GET", b"HTTP/1.1 204 No Content", 0),
        ((), b"GET", b"HTTP/1.1 103 Early Hints", 0),
        ((), b"GET", b"HTTP/1.1 101 Switching Protocols", 0),
    ],
)
def test_the_length_of_the_body(
    lines: tuple[bytes, ...], method: bytes, start: bytes, length: int
) -> None:
    """RFC 9112 §6.3."""
    assert read(*lines, start=start, method=method).length == length


@pytest.mark.parametrize(
    ("lines", "start", "expected"),
    [
        ((b"Content-Length: 0",), b"HTTP/1.1 200 OK", True),
        ((b"Content-Length: 0", b"Connection: close"), b"HTTP/1.1 200 OK", False),
        ((b"Content-Length: 0",), b"HTTP/1.0 200 OK", False),
        ((b"Content-Length: 0", b"Connection: keep-alive"), b"HTTP/1.0 200 OK", True),
        ((), b"HTTP/1.1 200 OK", False),
        ((b"Connection: keep-alive",), b"HTTP/1.1 200 OK", False),
    ],
)
def test_persistence(lines: tuple[bytes, ...], start: bytes, expected: bool) -> None:
    """RFC 9112 §9.3; a body that ends with the connection leaves none."""
    assert read(*lines, start=start).keep_alive is expected


@pytest.mark.parametrize("status", [b"000", b"099", b"600", b"999"])
def test_a_status_is_between_100_and_599(status: bytes) -> None:
    """RFC 9110 §15: others are invalid."""
    with pytest.raises(BadResponse):
        read(start=b"HTTP/1.1 " + status + b" X")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\n",
        b"HTTP/1.1 200 OK\n",
    ],
)
def test_what_can_never_be_good_is_refused_at_once(data: bytes) -> None:
    """Also when it came in one piece."""
    with pytest.raises(BadResponse):
        read_head(data, b"GET")


@pytest.mark.parametrize(
    "data", [b"", b"H", b"HTTP/1.1 200 OK\r", b"HTTP/1.1 200 OK\r\nX: 1\r\n\r"]
)
def test_the_beginning_of_a_good_head_is_waited_for(data: bytes) -> None:
    """None, not an error."""
    assert read_head(data, b"GET") is None


@settings(derandomize=True, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b""]))
def test_any_bytes_are_read_refused_or_waited_for(data: bytes, start: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        head = read_head(start + data, b"GET")
    except BadResponse:
        return
    assert head is None or head.consumed <= len(start + data)


def test_a_connection_of_more_options_than_can_be_read_is_refused() -> None:
    """Nobody knows what else it asks for."""
    with pytest.raises(BadResponse, match="too many options"):
        read(b"Connection: " + b",".join(b"x-%d" % number for number in range(100)))
