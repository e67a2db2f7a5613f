"""The parser in Python by itself: what it makes of a head, where there is no C parser to compare it with.

tests/wire/test_parsers.py holds both to each other byte for byte; a machine that has only this one, which is
who needs it, can run that for nothing. Here stands what must never pass.
"""

from __future__ import annotations

import pytest

from app.wire.python_parser import (
    IncompleteError,
    InvalidRequestMethod,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseError,
    parse_request,
    parse_response,
)

HEAD = b"POST /a?b HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\nX-Spaces: \t b c \t\r\n\r\n"
ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"


def request(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"POST / HTTP/" + version, b"Host: a", *fields, b"", b""))


def test_the_parts_of_a_request() -> None:
    """In order, values without the blanks around them; what follows the head is not looked at."""
    assert parse_request(HEAD + b"GET \0") == {
        "method": b"POST",
        "path": b"/a?b",
        "minor_version": 1,
        "headers": [(b"Host", b"a.example"), (b"X-Empty", b""), (b"X-Spaces", b"b c")],
        "consumed": len(HEAD),
    }


def test_the_parts_of_a_response() -> None:
    assert parse_response(ANSWER + b"abc") == {
        "status": 404,
        "message": b"Not Found",
        "minor_version": 1,
        "headers": [(b"Content-Length", b"3"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")],
        "consumed": len(ANSWER),
    }


def test_a_repeated_content_type_is_there_for_who_asks() -> None:
    """Whether they differ is for the reader to see; nothing else is let through with them."""
    data = request(b"Content-Type: a", b"content-type: b")
    with pytest.raises(ParseError, match="Duplicate Content-Type"):
        parse_request(data)
    parsed = parse_request(data, permit_repeated_content_type=True)
    assert [value for _, value in parsed["headers"]] == [b"a", b"a", b"b"]
    with pytest.raises(ParseError, match="Duplicate Host"):
        parse_request(request(b"Host: a"), permit_repeated_content_type=True)


def test_any_token_is_a_method_for_who_asks() -> None:
    """By default as gunicorn has it."""
    for method in (b"x", b"Get", b"G#T", b"A" * 21):
        data = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
        with pytest.raises(InvalidRequestMethod):
            parse_request(data)
        parsed = parse_request(data, permit_unconventional_http_method=True)
        assert parsed["method"] == method
    with pytest.raises(InvalidRequestMethod):
        parse_request(b"G(T / HTTP/1.1\r\n\r\n", permit_unconventional_http_method=True)


@pytest.mark.parametrize(("parse", "head"), [(parse_request, HEAD), (parse_response, ANSWER)])
def test_a_part_of_a_head_is_waited_for(parse: object, head: bytes) -> None:
    """Looked at anew or from where it was left."""
    assert callable(parse)
    for end in range(1, len(head)):
        for seen in {0, end - 1}:
            with pytest.raises(IncompleteError):
                parse(head[:end], seen)
        assert parse(head, end) == parse(head)


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"content-length: 3"),
        (b"Content-Length: 3", b"Content-Length: 3"),
        (b"Content-Length: 3", b"CONTENT-LENGTH: 4"),
        (b"Content-Length: 3, 3",),
        (b"Content-Length: +3",),
        (b"Content-Length: -3",),
        (b"Content-Length: 0x3",),
        (b"Content-Length: 3 3",),
        (b"Content-Length:",),
        (b"Content-Length: \xb2",),
        (b"Content-Length: 9223372036854775808",),
        (b"Transfer-Encoding: chunked, gzip",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding: chunked, chunked",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: chunked;a=b",),
        (b"Transfer-Encoding: \x0bchunked",),
        (b"Transfer-Encoding : chunked",),
        (b"Host: b",),
        (b"Content-Type: a", b"Content-Type: b"),
    ],
)
def test_a_body_that_could_end_in_two_places_is_refused(fields: tuple[bytes, ...]) -> None:
    """Request smuggling is this, all of it (RFC 9112 §11.2)."""
    with pytest.raises(ParseError):
        parse_request(request(*fields))


def test_chunks_are_not_of_http_1_0() -> None:
    with pytest.raises(ParseError):
        parse_request(request(b"Transfer-Encoding: chunked", version=b"1.0"))
    assert parse_request(request(b"Transfer-Encoding: gzip, chunked"))


@pytest.mark.parametrize(
    "line",
    [
        b"X-A : b",
        b"X A: b",
        b": b",
        b"X-A",
        b"X-A: b\0c",
        b"X-A: b\rc",
        b"X-A: b\x7fc",
        b"X-\xe4: b",
        b"X(A): b",
    ],
)
def test_a_field_that_is_none_is_refused(line: bytes) -> None:
    """In a request and in a response."""
    with pytest.raises(ParseError):
        parse_request(request(line))
    with pytest.raises(ParseError):
        parse_response(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"GE / HTTP/1.1", InvalidRequestMethod),
        (b"get / HTTP/1.1", InvalidRequestMethod),
        (b"G#T / HTTP/1.1", InvalidRequestMethod),
        (b"A" * 21 + b" / HTTP/1.1", InvalidRequestMethod),
        (b"GET * HTTP/1.1", ParseError),
        (b"GET a HTTP/1.1", ParseError),
        (b"GET /\0 HTTP/1.1", ParseError),
        (b"GET / HTTP/1.2", ParseError),
        (b"GET / HTTP/2.0", ParseError),
        (b"GET / http/1.1", ParseError),
        (b"GET / HTTP/1.1 x", ParseError),
        (b"GET /", ParseError),
        (b"\x16\x03\x01\x02\x00\x01\x00", ParseError),
    ],
)
def test_a_request_line_that_is_none_is_refused(line: bytes, error: type[Exception]) -> None:
    """TLS on a plain port is one of them."""
    with pytest.raises(error):
        parse_request(line + b"\r\nHost: a\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/2.0 200 OK", b"HTTP/1.1 abc OK", b"ICY 200 OK",
     b"HTTP/1.1 200 O\0K", b"<html>"],
)  # fmt: skip
def test_a_status_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ParseError):
        parse_response(line + b"\r\n\r\n")


def test_each_limit_is_the_first_that_is_not_allowed() -> None:
    """A field is measured with the colon, a space and its line end."""
    line = b"GET /aaaa HTTP/1.1"
    field = b"X: " + b"a" * 20
    head = b"\r\n".join((line, field, field, b"", b""))
    assert parse_request(head, 0, len(line), 2, len(field) + 2)
    with pytest.raises(LimitRequestLine):
        parse_request(head, 0, len(line) - 1, 2, len(field) + 2)
    with pytest.raises(LimitRequestHeaders):
        parse_request(head, 0, len(line), 1, len(field) + 2)
    with pytest.raises(LimitRequestHeaders):
        parse_request(head, 0, len(line), 2, len(field) + 1)
