"""What is read from a response head beyond what the wire cases can show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadResponse
from app.wire.response import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    Interims,
    ResponseHead,
    read_head,
)


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


@pytest.mark.parametrize("status", [b"000", b"099"])
def test_a_status_below_100_is_none(status: bytes) -> None:
    """RFC 9110 §15: others than 100 to 599 are invalid; these could be taken for interim answers."""
    with pytest.raises(BadResponse):
        read(start=b"HTTP/1.1 " + status + b" X")


@pytest.mark.parametrize("status", [600, 799, 999])
def test_a_status_above_599_is_passed_on(status: int) -> None:
    """It has one reading, and is taken for a 5xx."""
    head = read(b"Content-Length: 3", start=b"HTTP/1.1 %d X" % status)
    assert (head.status, head.length, head.keep_alive) == (status, 3, True)


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((b"Content-Length: 5, 5",), 5),
        ((b"Content-Length: 5", b"content-length: 005"), 5),
        ((b"Content-Length: 05",), 5),
        ((b"Content-Length: " + b"0" * 5000,), 0),
        ((b"Content-Length: " + b"0" * 30 + b"9" * 18,), 10**18 - 1),
    ],
)
def test_one_number_said_oddly_is_said_plainly(lines: tuple[bytes, ...], length: int) -> None:
    """RFC 9112 §6.3: whoever comes behind us reads one Content-Length, in digits."""
    head = read(*lines, b"X-A: 1")
    assert head.length == length
    assert head.has_length
    assert b"".join(head.lines) == b"X-A: 1\r\nContent-Length: %d\r\n" % length


@pytest.mark.parametrize(
    "value", [b"", b",", b"5,", b"5, 6", b"+5", b"5 5", b"5;5", b"0x5", b"9" * 19, b"\xb2"]
)
def test_what_is_not_one_number_is_no_length(value: bytes) -> None:
    """Where the body ends would be a guess."""
    with pytest.raises(BadResponse):
        read(b"Content-Length: " + value)


@pytest.mark.parametrize("start", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 103 Early Hints"])
@pytest.mark.parametrize(
    ("lines", "keep_alive"),
    [
        ((b"Content-Length: 0",), True),
        ((b"Content-Length: 00, 0",), True),
        ((b"Content-Length: 5",), False),
        ((b"Content-Length: 5", b"Content-Length: 6"), False),
        ((b"Content-Length: x",), False),
        ((b"Transfer-Encoding: chunked",), False),
        ((b"Transfer-Encoding: gzip",), False),
        ((b"Transfer-Encoding: chunked", b"Content-Length: 0"), False),
    ],
)
def test_what_frames_a_body_that_cannot_be_is_taken_away(
    start: bytes, lines: tuple[bytes, ...], keep_alive: bool
) -> None:
    """RFC 9112 §6.3, 1.; where bytes may follow, the connection is asked nothing more."""
    head = read(*lines, b"X-A: 1", start=start)
    assert (head.length, head.has_length, head.keep_alive) == (0, False, keep_alive)
    assert b"".join(head.lines) == b"X-A: 1\r\n"


def test_a_102_each_second_keeps_a_client_waiting_for_an_hour() -> None:
    """Not how many there are is bounded."""
    interims, head = Interims(10.0), read(start=b"HTTP/1.1 102 Processing")
    for second in range(3600):
        interims.count(head, 10.0 + second)
    with pytest.raises(BadResponse, match="too many"):
        interims.count(head, 10.0 + 3601)


@pytest.mark.parametrize(("size", "count"), [(1, 2000), (60_000, 2)])
def test_what_comes_before_an_answer_is_bounded(size: int, count: int) -> None:
    """In bytes, and in what many small ones cost."""
    interims = Interims(0.0)
    head = read(b"X-A: " + b"a" * size, start=b"HTTP/1.1 103 Early Hints")

    def come() -> None:
        for _ in range(count):
            interims.count(head, 1.0)

    with pytest.raises(BadResponse, match="too many"):
        come()


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
