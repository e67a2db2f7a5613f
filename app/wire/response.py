"""Reads one response head, in exactly one way or not at all.

Owns how a backend's answer is framed (RFC 9112 §6.3), what of its head is passed on, and how much may come
before it (1xx). A backend can be wrong or hostile too: what app.wire.parser lets through (bare LF, obs-fold,
differing lengths, a status that is none) is refused here as BadResponse. What is only odd is served where
one reading is left to clients, as they get a status line and a framing of ours. Pure.
"""

from __future__ import annotations

from typing import Final

from app.errors import BadResponse
from app.wire import fields
from app.wire.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    PLAIN,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
)
from app.wire.parser import IncompleteError, ParseError, parse_response

# Envoy's max_response_headers_kb is 60; nginx's buffer is 4–8 KiB.
MAX_HEAD_BYTES: Final = 64 * 1024
# All that may come before an answer: a head's worth at once, and so much more each second, for an hour. A
# 102 each second keeps a long job's client waiting; a run of them without end, or one that only costs the
# reader, is an attack. Each counts for the work that it makes too, not by its bytes alone.
_INTERIM_BYTES: Final = MAX_HEAD_BYTES
_INTERIM_BYTES_A_SECOND: Final = 1024
_INTERIM_WORK: Final = 64
_INTERIM_SECONDS: Final = 3600

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_LENGTH: Final = frozenset((b"content-length",))
# A list without a member (RFC 9110 §5.6.1), and what RFC 2616 §3.6 called the same.
_NO_CODING: Final = frozenset((b"", b"identity"))


class ResponseHead:
    """A response head that has one reading.

    ``lines`` are the fields to pass on as flat pieces, Content-Length among them where the backend sent a
    valid one. ``length`` is the body's size in bytes as it comes from the backend: 0 for a response that
    can have none, CHUNKED, or UNTIL_CLOSE.
    """

    # Defaults stand on the class: what most heads do not have costs nothing to say.
    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    lines: list[bytes]
    length: int
    minor = 1
    has_length = False
    has_date = False
    keep_alive: bool
    consumed: int
    upgrade: bytes | None = None
    trailer: bytes | None = None


def read_head(data: bytes, method: bytes, last_length: int = 0) -> ResponseHead | None:
    """Read the response head at the start of ``data``; None while it is incomplete.

    ``method`` is the request's: a response to HEAD has no body whatever its head says. Raises BadResponse.
    In one piece for the reason given at app.wire.request.head_from: it saves a call and a tuple, 0.1 µs.
    """
    try:
        parsed = parse_response(data, last_length)
    except IncompleteError:
        if len(data) > MAX_HEAD_BYTES:
            raise BadResponse("response head too large") from None
        if b"\n" in data and data.count(b"\n") != data.count(b"\r\n"):
            raise BadResponse("bare LF as line terminator") from None
        return None
    except ParseError as error:
        raise BadResponse(str(error)) from None
    pairs = parsed["headers"]
    consumed = parsed["consumed"]
    if consumed > MAX_HEAD_BYTES:  # it came in one piece: a partial one is measured as it grows
        raise BadResponse("response head too large")
    if data.count(b"\r\n", 0, consumed) != len(pairs) + 2:
        raise BadResponse("bare LF as line terminator")
    # Of more spaces, or HTTP/1.2 to HTTP/1.9 (RFC 9110 §2.5: read as 1.1), clients see nothing.
    minor = parsed["minor_version"]
    head = ResponseHead()
    head.status = status = parsed["status"]
    head.reason = parsed["message"]
    head.fields = pairs
    head.consumed = consumed
    if not minor:
        head.minor = 0
    lines: list[bytes] = []
    head.lines = lines
    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    upgrade: bytes | None = None
    kinds = fields.response_kinds
    for name, value in pairs:
        kind = kinds.get(name)
        if kind is None:
            kind = fields.response_kind(name)
        if kind == PLAIN:
            lines += (name, b": ", value, b"\r\n")
        elif kind == CONTENT_LENGTH:
            if length is None:
                length = value
                lines += (name, b": ", value, b"\r\n")
            else:
                length += b"," + value
        elif kind == DATE:
            head.has_date = True
            lines += (name, b": ", value, b"\r\n")
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == TRANSFER_ENCODING:
            coding = value if coding is None else coding + b"," + value
        elif kind == UPGRADE:
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif kind == TRAILER:
            head.trailer = value if head.trailer is None else head.trailer + b", " + value
        elif kind < 0:
            raise BadResponse("malformed field name" if name else "obsolete line folding")
    if status < 100:
        raise BadResponse(f"status {status}")
    if connection is None:
        head.keep_alive = minor > 0
    else:
        _read_connection(head, connection, minor, upgrade)
    if coding is not None and coding.lower() in _NO_CODING:
        coding = None
    if method == b"HEAD" or status == 304 or status < 200 or status == 204:
        head.length = 0
        if length is not None or coding is not None:
            _read_no_body(head, length, coding)
    elif coding is not None:
        if length is not None:
            raise BadResponse("Content-Length with Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise BadResponse("unusable Transfer-Encoding")
        if not minor:  # RFC 9112 §6.1: to be handled, and the connection closed
            head.keep_alive = False
        head.length = CHUNKED
    elif length is not None:
        if not length.isdigit() or len(length) > 18 or (length[0] == 48 and len(length) > 1):
            length = _one_length(head, length)
            if length is None:
                raise BadResponse("malformed or differing Content-Length")
        head.has_length = True
        head.length = int(length)
    else:
        head.length = UNTIL_CLOSE
        head.keep_alive = False
    return head


def _one_length(head: ResponseHead, value: bytes) -> bytes | None:
    """The one number that a Content-Length says in several ways, which ``head`` says plainly then.

    None where it says none or several. RFC 9112 §6.3 and RFC 9110 §8.6 allow a list of one number; leading
    zeros are as good. What clients get is that number in digits, once.
    """
    numbers = {member.strip(b" \t") for member in value.split(b",")}
    if not all(number.isdigit() for number in numbers):
        return None
    numbers = {number.lstrip(b"0") or b"0" for number in numbers}
    length = numbers.pop()
    if numbers or len(length) > 18:  # an exabyte; more does not fit a signed 64-bit reader
        return None
    head.lines = fields.without(head.lines, _LENGTH)
    head.lines += (b"Content-Length", b": ", length, b"\r\n")
    return length


def _read_no_body(head: ResponseHead, length: bytes | None, coding: bytes | None) -> None:
    """Take what frames a body from an answer that has none by definition (RFC 9112 §6.3, 1.).

    Only a Content-Length that says what GET would get stays (RFC 9110 §8.6). The connection is not used
    again where the server may mean that a body follows: it could come after we have looked.
    """
    number = None if length is None else _one_length(head, length)
    if head.status >= 200 and head.status != 204:  # HEAD, or 304
        head.has_length = number is not None and coding is None
        is_odd = length is not None and not head.has_length
    else:
        is_odd = coding is not None or number != b"0"
    if not head.has_length:
        head.lines = fields.without(head.lines, _LENGTH)
    if is_odd:
        head.keep_alive = False


class Interims:
    """The 1xx answers that came before one final answer: how many bytes, over what time."""

    __slots__ = ("_began", "_left", "keep_alive")

    def __init__(self, now: float) -> None:
        """``now`` is when the first came, monotonic."""
        self._began = now
        self._left = _INTERIM_BYTES
        self.keep_alive = True  # whether the connection may be used again, as far as these go

    def count(self, head: ResponseHead, now: float) -> None:
        """One more. BadResponse when there are too many for the time that they took, or it has been long."""
        self._left -= head.consumed + _INTERIM_WORK
        elapsed = now - self._began
        if self._left + elapsed * _INTERIM_BYTES_A_SECOND < 0 or elapsed > _INTERIM_SECONDS:
            raise BadResponse("too many interim responses")
        self.keep_alive = self.keep_alive and head.keep_alive


def _read_connection(
    head: ResponseHead, connection: bytes, minor: int, upgrade: bytes | None
) -> None:
    """Apply Connection: persistence, upgrade, and the fields it names as hop-by-hop (RFC 9110 §7.6.1)."""
    asked = fields.connection_options(connection)
    if not asked.is_whole:
        raise BadResponse("too many options in Connection")
    head.keep_alive = not asked.close and (minor > 0 or asked.keep_alive)
    if asked.named:
        head.lines = fields.without(head.lines, asked.named)
    if upgrade is not None and asked.upgrade and minor:  # HTTP/1.0 has no upgrades
        head.upgrade = upgrade
        if head.status == 426:  # RFC 9110 §15.5.22: such an answer must say to what
            head.lines += (b"Upgrade", b": ", upgrade, b"\r\n")
            head.lines += (b"Connection", b": ", b"Upgrade", b"\r\n")
