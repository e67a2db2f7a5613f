"""Splits heads in plain Python exactly as gunicorn_h1c does, for a machine where that cannot be built.

Owns the C parser's grammar, leniencies included: what one takes apart the other takes apart alike, and what
one refuses or calls incomplete the other does too, with an error of the same name. app.wire.request and
app.wire.response refuse the leniencies, whoever has split. tests/wire/test_parsers.py holds both to each
other. Pure.

Nearly every head is what a regular expression for its first line and one for its fields match; any other is
gone through in the C parser's order. No expression has two ways to match the same bytes: each is linear.
"""

from __future__ import annotations

import re
from typing import Any, Final

from app.wire.fields import TOKEN

Fields = list[tuple[bytes, bytes]]

_MAX_FIELDS: Final = 256  # in a request or a response, whatever the limits are
_CR, _LF, _SPACE, _COLON = b"\r\n :"

# As nearly every head is.
_REQUEST_LINE: Final = re.compile(rb"(%b) ([^\x00-\x20\x7f]+) HTTP/1\.([01])\r\n" % TOKEN.pattern)
_STATUS_LINE: Final = re.compile(
    rb"HTTP/1\.([0-9]) ([0-9]{3})(?: ([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?)?\r\n"
)
_FIELD: Final = re.compile(
    rb"(?<=\n)(%b):[\t ]*([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*(?<![\t ]))?[\t ]*\r\n"
    % TOKEN.pattern
)

# As a head may be: any number of spaces, bare LF, folded lines.
_TOKEN: Final = re.compile(rb"(?:%b)?" % TOKEN.pattern)
_SPACES: Final = re.compile(rb" *")
_BLANKS: Final = re.compile(rb"[\t ]*")
_TARGET: Final = re.compile(rb"[^\x00-\x20\x7f]*")
_TEXT: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_VERSION: Final = re.compile(rb"HTTP/1\.([0-9])")
_STATUS: Final = re.compile(rb"[0-9]{3}")
_LINES: Final = re.compile(rb"(?:(?:%b:|[\t ])[\t\x20-\x7e\x80-\xff]*\r?\n)*" % TOKEN.pattern)
_LENIENT_FIELD: Final = re.compile(
    rb"(?<=\n)(?:(%b):[\t ]*|)([\t\x20-\x7e\x80-\xff]*)\r?\n" % TOKEN.pattern
)

# Where a head ends, or a CR that ends no line, whichever is first.
_END: Final = re.compile(rb"\n\r?\n|\r[^\n]")
_METHOD_SO_FAR: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]+")
_NOT_IN_METHOD: Final = re.compile(rb"[a-z#]")
_SINGLETONS: Final = {
    b"host": "Host",
    b"content-length": "Content-Length",
    b"content-type": "Content-Type",
}
# Without deflate, which the C parser means to know and does not.
_CODINGS: Final = frozenset((b"chunked", b"identity", b"gzip", b"compress"))


class IncompleteError(Exception):
    """More bytes are needed."""


class ParseError(ValueError):
    """The bytes are no head, or one that must not pass."""


class LimitRequestLine(ParseError):
    """The request line is longer than allowed."""


class LimitRequestHeaders(ParseError):
    """A field is longer than allowed, or there are too many."""


class InvalidRequestMethod(ParseError):
    """The method is no token; or not what most are: 3 to 20 characters, no small letter, no '#'."""


def parse_request(
    data: bytes,
    last_length: int = 0,
    max_line: int = 8190,
    max_fields: int = 100,
    max_field: int = 8190,
    permit_unconventional_http_method: bool = False,
    permit_repeated_content_type: bool = False,
) -> dict[str, Any]:
    """The parts of the request head at the start of ``data``.

    ``last_length`` is how much of it an earlier call has seen: then the end is looked for first, from there.
    The last is ours alone: the C parser lets nobody see more than one Content-Type.
    """
    line_length = data.find(b"\r\n")
    if line_length > max_line:
        raise LimitRequestLine(f"Request line length ({line_length}) exceeds limit ({max_line})")
    try:
        if last_length:
            _require_end(data, last_length)
        start = _REQUEST_LINE.match(data)
        split = None if start is None else _split_plainly(data, start.end())
        if start is not None and split is not None:
            method, target, minor = start[1], start[2], int(start[3])
        else:
            method, target, minor, at = _request_line(data)
            split = _split(data, at)
    except ParseError:
        raise _fault(
            data, _TOKEN if permit_unconventional_http_method else _METHOD_SO_FAR
        ) from None
    fields, consumed = split
    if not permit_unconventional_http_method:
        _check_method(method)
    _check_target(method, target)
    if minor > 1:
        raise ParseError(f"Invalid HTTP version: HTTP/1.{minor} (only 1.0 and 1.1 allowed)")
    if len(fields) > max_fields:
        raise LimitRequestHeaders(f"Number of headers ({len(fields)}) exceeds limit ({max_fields})")
    if consumed > max_field:
        for name, value in fields:
            if len(name) + len(value) + 4 > max_field:
                raise LimitRequestHeaders(f"Header size exceeds limit ({max_field})")
    head = data[:consumed].lower()
    if (
        b"\ncontent-" in head
        or b"\ntransfer-encoding:" in head
        or head.count(b"\nhost:") > 1  # looked for so, the common head costs a third of the loop
    ):
        _check_framing(fields, minor, permit_repeated_content_type)
    return {
        "method": method,
        "path": target,
        "minor_version": minor,
        "headers": fields,
        "consumed": consumed,
    }


def parse_response(data: bytes, last_length: int = 0) -> dict[str, Any]:
    """The parts of the response head at the start of ``data``."""
    if last_length:
        _require_end(data, last_length)
    start = _STATUS_LINE.match(data)
    split = None if start is None else _split_plainly(data, start.end())
    if start is not None and split is not None:
        minor, status, message = int(start[1]), int(start[2]), start[3] or b""
    else:
        minor, status, message, at = _status_line(data)
        split = _split(data, at)
    fields, consumed = split
    return {
        "status": status,
        "message": message,
        "minor_version": minor,
        "headers": fields,
        "consumed": consumed,
    }


def _split_plainly(data: bytes, at: int) -> tuple[Fields, int] | None:
    """The fields from ``at`` on and where the head ends; None where one of them is not plain, or missing."""
    end = data.find(b"\r\n\r\n", at - 2) + 2
    if end < 2:
        return None
    fields = _FIELD.findall(data, at, end)
    # Each match is one line: as many as there are, and none was passed over.
    if len(fields) != data.count(b"\n", at, end) or len(fields) > _MAX_FIELDS:
        return None
    return fields, end + 2


def _require_end(data: bytes, last_length: int) -> None:
    match = _END.search(data, max(0, last_length - 3))
    if match is None:
        raise IncompleteError("Incomplete, need more data")
    if match[0][0] == _CR:
        raise _invalid()


def _request_line(data: bytes) -> tuple[bytes, bytes, int, int]:
    """Method, target, minor version, and where the line ends."""
    at = _line_end(data, 0) if data[:1] in (b"\r", b"\n") else 0
    method_end = _pass(_TOKEN, data, at)
    if data[method_end] != _SPACE:
        raise _invalid()
    target_at = _pass(_SPACES, data, method_end)
    target_end = _pass(_TARGET, data, target_at)
    if data[target_end] != _SPACE:
        raise _invalid()
    version_at = _pass(_SPACES, data, target_end)
    if method_end == at:
        raise _invalid()
    minor = _minor_version(data, version_at)
    line_end = _line_end(data, version_at + 8)
    return data[at:method_end], data[target_at:target_end], minor, line_end


def _status_line(data: bytes) -> tuple[int, int, bytes, int]:
    """Minor version, status, reason phrase, and where the line ends."""
    minor = _minor_version(data, 0)
    if data[8] != _SPACE:
        raise _invalid()
    status_at = _pass(_SPACES, data, 8)
    if len(data) - status_at < 4:
        raise IncompleteError("Incomplete, need more data")
    match = _STATUS.match(data, status_at)
    if match is None:
        raise _invalid()
    text_end = _pass(_TEXT, data, match.end())
    line_end = _line_end(data, text_end)
    message = data[match.end() : text_end]
    if message and message[0] != _SPACE:
        raise _invalid()
    return minor, int(match[0]), message.lstrip(b" "), line_end


def _split(data: bytes, at: int) -> tuple[Fields, int]:
    """The fields from ``at`` on, a folded line as one without a name, and where the head ends."""
    if data[at : at + 1] in (b" ", b"\t"):
        raise _invalid()
    match = _LINES.match(data, at)
    assert match is not None
    end = match.end()
    count = data.count(b"\n", at, end)
    if count > _MAX_FIELDS:
        raise _invalid()
    if end == len(data):
        raise IncompleteError("Incomplete, need more data")
    if data[end] not in (_CR, _LF):
        if count == _MAX_FIELDS:
            raise _invalid()
        _refuse_line(data, end)
    consumed = _line_end(data, end)
    fields = _LENIENT_FIELD.findall(data, at, end)
    return [(name, value.rstrip(b"\t ")) for name, value in fields], consumed


def _refuse_line(data: bytes, at: int) -> None:
    """Raise what the line at ``at``, which is no whole field, deserves: ParseError or IncompleteError."""
    if data[at] not in b"\t ":
        name_end = _pass(_TOKEN, data, at)
        if data[name_end] != _COLON or name_end == at:
            raise _invalid()
        at = _pass(_BLANKS, data, name_end + 1)
    _line_end(data, _pass(_TEXT, data, at))


def _pass(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where the match of ``pattern`` from ``at`` on ends; IncompleteError if the data ends there too."""
    match = pattern.match(data, at)
    assert match is not None
    end = match.end()
    if end == len(data):
        raise IncompleteError("Incomplete, need more data")
    return end


def _minor_version(data: bytes, at: int) -> int:
    if len(data) - at < 9:
        raise IncompleteError("Incomplete, need more data")
    match = _VERSION.match(data, at)
    if match is None:
        raise _invalid()
    return int(match[1])


def _line_end(data: bytes, at: int) -> int:
    """Where the next line begins, after the CRLF or LF that has to be here."""
    if data[at] == _LF:
        return at + 1
    if data[at] != _CR:
        raise _invalid()
    if at + 1 == len(data):
        raise IncompleteError("Incomplete, need more data")
    if data[at + 1] != _LF:
        raise _invalid()
    return at + 2


def _invalid() -> ParseError:
    return ParseError("Invalid HTTP message")


def _fault(data: bytes, method: re.Pattern[bytes]) -> ParseError:
    """The error for a request that cannot be split: of its method, if what stands before a space is none."""
    end = data.find(b" ")
    if end > 0 and not method.fullmatch(data, 0, end):
        return InvalidRequestMethod("Invalid character in HTTP method")
    return _invalid()


def _check_method(method: bytes) -> None:
    if not 3 <= len(method) <= 20:
        raise InvalidRequestMethod(f"HTTP method length {len(method)} out of range (3-20)")
    if _NOT_IN_METHOD.search(method):
        raise InvalidRequestMethod("Lowercase letter or '#' in HTTP method")


def _check_target(method: bytes, target: bytes) -> None:
    if target[:1] == b"/" or b"://" in target:
        return
    if target == b"*":
        if method != b"OPTIONS":
            raise ParseError("asterisk-form request-target requires OPTIONS method")
    elif method != b"CONNECT":
        raise ParseError("authority-form or relative request-target requires CONNECT method")


def _check_framing(fields: Fields, minor: int, may_repeat: bool) -> None:
    """Refuse what two readers could frame differently."""
    seen: set[bytes] = set()
    duplicate = b""
    length: bytes | None = None
    codings: list[bytes] = []
    for spelled, value in fields:
        name = spelled.lower()
        if name in _SINGLETONS:
            if name in seen:
                if not (may_repeat and name == b"content-type"):
                    duplicate = duplicate or name
            elif name == b"content-length":
                length = value
            seen.add(name)
        elif name == b"transfer-encoding":
            codings += [part.strip(b"\t ").lower() for part in value.split(b",")]
    if duplicate:
        raise ParseError(f"Duplicate {_SINGLETONS[duplicate]} header")
    if length is not None and not _is_length(length):
        raise ParseError("Invalid Content-Length value")
    codings = [coding for coding in codings if coding]
    if not _CODINGS.issuperset(codings):
        raise ParseError("Unsupported Transfer-Encoding")
    if b"chunked" in codings:
        if codings.index(b"chunked") != len(codings) - 1:
            raise ParseError("Transfer-Encoding after chunked")
        if minor == 0:
            raise ParseError("Chunked encoding not allowed in HTTP/1.0")
        if length is not None:
            raise ParseError("Content-Length with Transfer-Encoding")


def _is_length(value: bytes) -> bool:
    """Whether the C parser takes it for a length: digits whose number is not negative in 64 bits.

    The last 64 digits say so, as 2**64 divides 10**64.
    """
    return value.isdigit() and not int(value[-64:]) >> 63 & 1
