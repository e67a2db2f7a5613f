"""Reads one request head, in exactly one way or not at all.

Owns what a request may look like: RFC 9112 with every lenient reading refused, at least as strict as
gunicorn's own message parser (a test holds both against the same cases). app.wire.parser splits the bytes;
what that lets through (bare LF, obs-fold as a field with an empty name, spare spaces, non-ASCII targets,
fragments) is refused here. Pure: bytes in, a RequestHead out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.errors import BadRequest
from app.wire import fields, via
from app.wire.fields import (
    ACCEPT,
    CDN_LOOP,
    CLAIM,
    CONNECTION,
    CONTENT_LENGTH,
    DROP,
    EARLY_DATA,
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_OTHER,
    FORWARDED_PROTO,
    HOST,
    MAX_FORWARDS,
    PLAIN,
    REQUEST_ID,
    SINGLETON,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    USER_AGENT,
    VIA,
)
from app.wire.line_ends import check_lines
from app.wire.parser import IncompleteError, ParseError, parse_request
from app.wire.refusal import read_again, too_large
from app.wire.target import is_authority, is_same_authority, origin_form

CHUNKED: Final = -1

# Of those without a length (HTTP/2 needs none) servers such as IIS and lighttpd say 411: RFC 9110 §8.6 has a
# client say 0.
_EXPECT_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))
_known_hosts: Final[set[bytes]] = set()

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How large a head may be. ``line`` is without its CRLF (414), the others with theirs (431).

    As nginx's large_client_header_buffers and gunicorn have it: 8 KiB a line, 100 fields, 32 KiB of them.
    """

    line: int = 8190
    fields: int = 100
    field: int = 8190
    all_fields: int = 32768


STANDARD: Final = HeadLimits()


class RequestHead:
    """A request head that has one reading.

    ``minor`` is the minor version of HTTP/1, or 2 for HTTP/2. ``lines`` are the fields to forward as flat
    pieces (name, ``b": "``, value, CRLF, …) without framing, forwarding and hop-by-hop fields. ``length`` is
    the body's size in bytes, CHUNKED when it is unknown; ``framing`` is the line that says so, or says 0
    where a body would be expected. ``host`` is b"" where an HTTP/1.0 client gave none. ``forwarded_*``,
    ``claims`` and ``request_id`` hold what the client claimed (``forwarded_others`` and ``claims`` as flat
    pieces); whether to believe it is decided elsewhere. ``max_forwards`` is set for OPTIONS only: at 0 it is
    for us to answer, otherwise ``lines`` hold one less. ``te_is_named`` is false where Connection leaves TE
    out.
    """

    # Defaults stand on the class: what most heads do not have costs nothing to say.
    method: bytes
    target: bytes
    minor: int
    fields: Fields
    lines: list[bytes]
    length = 0
    framing = b""
    keep_alive: bool
    consumed = 0
    host: bytes
    user_agent: bytes | None = None
    accept: bytes | None = None
    expect_continue = False
    te_trailers = False
    te_is_named = True
    upgrade: bytes | None = None
    trailer: bytes | None = None
    max_forwards: int | None = None
    early_data = False
    forwarded_for: bytes | None = None
    forwarded_proto: bytes | None = None
    forwarded_host: bytes | None = None
    forwarded_others: tuple[bytes, ...] = ()
    claims: tuple[bytes, ...] = ()
    forwarded: bytes | None = None
    via: bytes | None = None
    cdn_loop: bytes | None = None
    request_id: bytes | None = None
    sticky: bytes | None = None  # the cookie of app.worker.balance.sticky, taken out of ``lines``


def read_head(
    data: bytes, last_length: int = 0, limits: HeadLimits = STANDARD
) -> RequestHead | None:
    """Read the request head at the start of ``data``; None while it is incomplete.

    ``last_length`` is how much of ``data`` an earlier call has seen. Raises BadRequest with the status
    the client deserves; ``consumed`` of the result says where the body starts.
    """
    try:
        parsed = parse_request(data, last_length, limits.line, limits.fields, limits.field, True)
    except IncompleteError:
        _check_incomplete(data, limits)
        return None
    except ParseError as error:
        parsed = read_again(error, data, limits.line, limits.fields, limits.field)
    method, target, pairs = parsed["method"], parsed["path"], parsed["headers"]
    consumed = parsed["consumed"]
    if consumed > limits.all_fields:
        _check_size(data, consumed, limits.all_fields)
    # Every line ends with CRLF: a bare LF makes the count fall short (RFC 9112 §2.2). The request line
    # is method SP target SP version and nothing more: spare spaces make it longer.
    if data.count(b"\r\n", 0, consumed) != len(pairs) + 2 or (
        data.find(b"\r\n") != len(method) + len(target) + 10
    ):
        check_lines(data[:consumed], len(pairs) + 2, len(method) + len(target) + 10, limits.line)
    head = head_from(method, target, parsed["minor_version"], pairs)
    head.consumed = consumed
    return head


def head_from(method: bytes, target: bytes, minor: int, pairs: Fields) -> RequestHead:
    """Check and classify a head that was split already, in one pass (one look-up for each field).

    In one piece on purpose: with the loop in a function of its own, whose five findings come back as a tuple,
    reading wrk's head takes 1.92 µs instead of 1.83 (interpreted, bench/micro.py).
    """
    if method != b"GET" and method.upper() in (b"CONNECT", b"TRACE"):
        # In any case: a method is what it is spelt (RFC 9110 §9.1), but not to every server.
        raise BadRequest(f"method {method.decode()}", status=405, reason="method_not_allowed")
    # 47 is "/", 35 "#". Given bytes, ``in`` first finds out, by an exception, that they are no number.
    if target[0] != 47 or 35 in target or not target.isascii():
        origin_target, authority = origin_form(method, target)
    else:
        origin_target, authority = target, None

    head = RequestHead()
    head.method = method
    head.target = origin_target
    head.minor = minor
    head.fields = pairs
    lines: list[bytes] = []
    head.lines = lines
    host: bytes | None = None
    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    upgrade: bytes | None = None
    seen: bytes | None = None
    kinds = fields.request_kinds
    for name, value in pairs:
        kind = kinds.get(name)
        if kind is None:
            kind = fields.request_kind(name)
        if kind == PLAIN:
            lines += (name, b": ", value, b"\r\n")
        elif kind == HOST:
            if host is not None:
                raise BadRequest("more than one Host", reason="bad_host")
            host = value
            lines += (name, b": ", value, b"\r\n")
        elif kind == USER_AGENT:
            head.user_agent = value
            lines += (name, b": ", value, b"\r\n")
        elif kind == ACCEPT:
            head.accept = value
            lines += (name, b": ", value, b"\r\n")
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == CONTENT_LENGTH:
            if length is not None:
                raise BadRequest("more than one Content-Length", reason="bad_framing")
            length = value
        elif kind == TRANSFER_ENCODING:
            if coding is not None:
                raise BadRequest("more than one Transfer-Encoding", reason="bad_framing")
            coding = value
        elif kind == DROP:
            pass
        elif kind == SINGLETON:
            if seen is None:
                seen = value
                lines += (name, b": ", value, b"\r\n")
            elif (
                seen != value
            ):  # equal ones are one; of others two readers could choose differently
                raise BadRequest("differing Content-Type fields", reason="bad_header")
        elif kind == EXPECT:
            _read_expect(head, value, minor)
        elif kind == TE:
            head.te_trailers |= minor == 1 and b"trailers" in fields.options(value)
        elif kind == UPGRADE:
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif kind == FORWARDED_FOR:
            head.forwarded_for = _joined(head.forwarded_for, value)
        elif kind == FORWARDED_PROTO:
            head.forwarded_proto = _joined(head.forwarded_proto, value)
        elif kind == FORWARDED_HOST:
            head.forwarded_host = _joined(head.forwarded_host, value)
        elif kind == FORWARDED:
            head.forwarded = _joined(head.forwarded, value)
        elif kind == REQUEST_ID:
            head.request_id = value
        elif kind == TRAILER:
            head.trailer = _joined(head.trailer, value)
        elif kind == VIA:
            head.via = _joined(head.via, value)
        elif kind == CDN_LOOP:
            head.cdn_loop = _joined(head.cdn_loop, value)
        elif kind == MAX_FORWARDS:
            _read_max_forwards(head, name, value)
        elif kind == CLAIM:
            head.claims += (name, b": ", value, b"\r\n")
        elif kind == FORWARDED_OTHER:
            head.forwarded_others += (name, b": ", value, b"\r\n")
        elif kind == EARLY_DATA and not head.early_data:
            # RFC 8470 §5.1: any number of them, of any value, means one that is 1; never removed.
            head.early_data = True
            lines += (name, b": ", b"1", b"\r\n")
    if host is None or host not in _known_hosts:
        host = _check_host(host, minor, authority, lines)
    if authority is not None and not is_same_authority(target[4] in b"sS", authority, host):
        raise BadRequest("Host differs from the request target", reason="bad_host")
    head.host = host
    if length is not None or coding is not None:
        head.length = _body_length(length, coding, minor)
        head.framing = (
            b"Transfer-Encoding: chunked\r\n"
            if head.length == CHUNKED
            else b"Content-Length: %d\r\n" % head.length
        )
    elif method != b"GET" and method in _EXPECT_CONTENT:
        head.framing = b"Content-Length: 0\r\n"
    if connection is None:
        head.keep_alive = minor == 1
    else:
        _read_connection(head, connection, upgrade)
    return head


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b", " + value


def _check_host(
    host: bytes | None, minor: int, authority: bytes | None, lines: list[bytes]
) -> bytes:
    """A Host as RFC 9112 §3.2 wants it, remembered when it is good; b"" where there is none."""
    if host is None:
        if minor == 1:
            raise BadRequest("no Host", reason="bad_host")
        if authority:
            lines[:0] = (b"Host", b": ", authority, b"\r\n")
        return authority or b""
    # An empty one too: no http URI has an empty host (RFC 9110 §4.2.1).
    if not is_authority(host):
        raise BadRequest("malformed Host", reason="bad_host")
    if len(_known_hosts) < 1024 and len(host) < 256:
        _known_hosts.add(host)
    return host


def _read_expect(head: RequestHead, value: bytes, minor: int) -> None:
    """Take an Expect, of which there may be several: together a list, in which there is one thing to know."""
    for member in fields.options(value):
        if member != b"100-continue":
            raise BadRequest("unknown expectation", status=417, reason="expectation_failed")
        # RFC 9110 §10.1.1: an expectation in an HTTP/1.0 request is ignored.
        head.expect_continue = minor == 1


def _read_max_forwards(head: RequestHead, name: bytes, value: bytes) -> None:
    """Count Max-Forwards down where RFC 9110 §7.6.2 gives it a meaning; else it is a field like any other."""
    if head.method != b"OPTIONS":
        head.lines += (name, b": ", value, b"\r\n")
        return
    if head.max_forwards is not None:
        raise BadRequest("more than one Max-Forwards", reason="bad_header")
    head.max_forwards = left = via.max_forwards(value)
    if left:
        head.lines += (name, b": ", b"%d" % (left - 1), b"\r\n")


def _body_length(length: bytes | None, coding: bytes | None, minor: int) -> int:
    """The body's size, or CHUNKED; BadRequest when two readers could disagree (RFC 9112 §6)."""
    if coding is not None:
        if length is not None:
            raise BadRequest("Content-Length with Transfer-Encoding", reason="bad_framing")
        if minor == 0:
            raise BadRequest("Transfer-Encoding in HTTP/1.0", reason="bad_framing")
        if coding.lower() != b"chunked":
            known = {b"chunked", b"identity", b"gzip", b"compress", b"deflate"}
            if set(fields.options(coding)) <= known:
                raise BadRequest("Transfer-Encoding is not a lone chunked", reason="bad_framing")
            raise BadRequest("unknown transfer coding", status=501, reason="unknown_coding")
        return CHUNKED
    assert length is not None
    # 18 digits are an exabyte; more does not fit a signed 64-bit reader. What is sent on has no zeros before.
    if not length.isdigit() or len(digits := length.lstrip(b"0") or b"0") > 18:
        raise BadRequest("malformed Content-Length", reason="bad_framing")
    return int(digits)


def _read_connection(head: RequestHead, connection: bytes, upgrade: bytes | None) -> None:
    """Apply Connection: persistence, upgrade, and the fields it names as hop-by-hop (RFC 9110 §7.6.1)."""
    asked = fields.connection_options(connection)
    if not asked.is_whole:
        raise BadRequest("too many options in Connection", reason="bad_header")
    head.keep_alive = not asked.close and (head.minor == 1 or asked.keep_alive)
    if upgrade is not None and asked.upgrade and head.minor == 1:
        head.upgrade = upgrade
    head.te_is_named = asked.te
    if asked.named:
        head.lines = fields.without(head.lines, asked.named)


def _check_incomplete(data: bytes, limits: HeadLimits) -> None:
    """Refuse early what can never become a good head, so that nobody waits for its end."""
    start = 2 if data[:2] == b"\r\n" else 0
    end = data.find(b"\n", start)
    if end < 0:
        if len(data) - start > limits.line + 1:  # with its CR
            raise BadRequest("request line too long", status=414, reason="target_too_long")
    elif len(data) > limits.all_fields:
        _check_size(data, len(data), limits.all_fields)
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadRequest("bare LF as line terminator", reason="bad_line_ending")


def _check_size(data: bytes, end: int, limit: int) -> None:
    """Refuse fields that are too large together; ``end`` is where the head ends, or what is here of it."""
    first = data.find(b"\n", 2 if data[:2] == b"\r\n" else 0) + 1
    if end - first > limit + 2:  # the empty line that ends a head is no field
        raise too_large()
