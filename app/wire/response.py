"""Reads one response head, in exactly one way or not at all.

Owns how a backend's answer is framed (RFC 9112 §6.3) and what of its head is passed on. A backend can be
wrong or hostile too: what app.wire.parser lets through (bare LF, obs-fold, differing lengths, a status
that is none) is refused here as BadResponse. Pure.
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
# 103 may come a few times; an endless run of interim responses is an attack on the reader.
MAX_INTERIM_RESPONSES: Final = 32

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_LENGTH: Final = frozenset((b"content-length",))


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
    minor = parsed["minor_version"]
    # "HTTP/1.1  200": the parser passes over spare spaces, and takes HTTP/1.2 to HTTP/1.9.
    if data[9] == 32 or minor > 1:
        raise BadResponse("malformed status line")
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
            elif length != value:
                raise BadResponse("differing Content-Length fields")
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
            head.trailer = value
        elif kind < 0:
            raise BadResponse("malformed field name" if name else "obsolete line folding")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise BadResponse("malformed Content-Length")
        head.has_length = True
    if coding is not None:
        if length is not None:
            raise BadResponse("Content-Length with Transfer-Encoding")
        if minor == 0 or coding.lower() != b"chunked":
            raise BadResponse("unusable Transfer-Encoding")
    if not 100 <= status <= 599:
        raise BadResponse(f"status {status}")
    if connection is None:
        head.keep_alive = minor == 1
    else:
        _read_connection(head, connection, minor, upgrade)
    if method == b"HEAD" or status == 304:
        head.length = 0
    elif status < 200 or status == 204:
        head.length = 0
        if length is not None:  # RFC 9110 §8.6: not on 1xx and 204
            head.lines = fields.without(head.lines, _LENGTH)
            head.has_length = False
            if length.strip(b"0"):
                raise BadResponse(f"a body announced with status {status}")
        if coding is not None and status != 101:
            raise BadResponse(f"a body announced with status {status}")
    elif coding is not None:
        head.length = CHUNKED
    elif length is not None:
        head.length = int(length)
    else:
        head.length = UNTIL_CLOSE
        head.keep_alive = False
    return head


def _read_connection(
    head: ResponseHead, connection: bytes, minor: int, upgrade: bytes | None
) -> None:
    """Apply Connection: persistence, upgrade, and the fields it names as hop-by-hop (RFC 9110 §7.6.1)."""
    asked = fields.connection_options(connection)
    if not asked.is_whole:
        raise BadResponse("too many options in Connection")
    head.keep_alive = not asked.close and (minor == 1 or asked.keep_alive)
    if asked.named:
        head.lines = fields.without(head.lines, asked.named)
    if upgrade is not None and asked.upgrade and minor == 1:  # HTTP/1.0 has no upgrades
        head.upgrade = upgrade
        if head.status == 426:  # RFC 9110 §15.5.22: such an answer must say to what
            head.lines += (b"Upgrade", b": ", upgrade, b"\r\n")
            head.lines += (b"Connection", b": ", b"Upgrade", b"\r\n")
