"""HTTP/2's fields as the one request head there is, and a response head as HTTP/2's fields.

Owns what RFC 9113 §8 wants of a request's fields beyond RFC 9112. What passes is written as an HTTP/1.1
head and read by the same reader as every other request: one strictness, and no way to carry past it what
HTTP/1.1 would refuse (a line end in a value, a colon in a name, a second framing). Frames and HPACK are
not its affair. Pure: fields in, a RequestHead out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.errors import BadRequest
from app.wire.fields import TOKEN, VALUE
from app.wire.request import HeadLimits, RequestHead, read_head
from app.wire.target import is_same_authority
from app.wire.trailers import is_safe

Fields = list[tuple[bytes, bytes]]

# RFC 9113 §8.2.1: a field name is a token without capitals.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# What RFC 9112 §3.2 allows between two spaces of a request line; what it means is the reader's affair.
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
# RFC 9113 §8.2.2: these make a message malformed; TE may say "trailers".
_OF_A_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_REMEMBERED = 4096
_REMEMBERED_LENGTH = 64
_lower: dict[bytes, bytes] = {}


class MalformedError(BadRequest):
    """Not a message at all (RFC 9113 §8.1.1): answered by resetting the stream."""


def read_request(
    fields: Iterable[tuple[bytes, bytes]], is_whole: bool, limits: HeadLimits
) -> RequestHead:
    """The request head that the fields describe. Raises BadRequest, or MalformedError.

    ``is_whole``: the stream has ended with them, there is no body, and none may be announced (RFC 9113
    §8.1.1): in HTTP/1.1 it would be made of what the server reads next. A body without Content-Length is
    CHUNKED, as it would be in HTTP/1.1.
    """
    pseudo: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    cookies: list[bytes] = []
    host: bytes | None = None
    has_length = False
    count = 0
    for name, value in fields:
        count += 1
        if name[:1] == b":":
            if count > len(pseudo) + 1:
                raise _malformed("a pseudo-header field behind a regular one")
            if name not in _PSEUDO or name in pseudo:
                raise _malformed(f"unknown or repeated pseudo-header field {name[:64]!r}")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name):
            raise _malformed(f"field name {name[:64]!r}")
        if not _is_value(value):
            raise _malformed(f"value of {name[:64]!r}")
        if name in _OF_A_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
            raise _malformed(f"{name.decode()} has no place in HTTP/2")
        if name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise BadRequest("more than one Host", reason="bad_host")
            host = value
        else:
            has_length = has_length or name == b"content-length"
            pieces += (name, b": ", value, b"\r\n")
    method, target = _request_line(pseudo)
    if cookies:  # RFC 9113 §8.2.3: split for compression only
        pieces += (b"cookie: ", b"; ".join(cookies), b"\r\n")
    if not is_whole and not has_length:
        pieces.append(b"transfer-encoding: chunked\r\n")
    is_https = pseudo[b":scheme"].lower() == b"https"
    host = _host(pseudo.get(b":authority"), host, is_https)
    head = read_head(_as_http1(method, target, host, pieces), limits=limits)
    if head is None:
        raise _malformed("no head")
    if is_whole and head.length:
        raise _malformed("content-length of a body that does not come")
    head.minor = 2
    return head


def read_trailers(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The trailer fields to pass on, discarded as in a chunked body. Raises MalformedError.

    Fields of a connection make a trailer section malformed as they do a head (RFC 9113 §8.2.2).
    """
    trailers: Fields = []
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _is_value(value) or name in _OF_A_CONNECTION:
            raise _malformed("malformed trailer field")
        if is_safe(name):
            trailers.append((name, value))
    return trailers


def response_fields(status: int, lines: list[bytes]) -> Fields:
    """A response's fields in HTTP/2, from the flat pieces of a ResponseHead.

    Its hop-by-hop fields are gone already, except those that a 426 keeps (RFC 9110 §15.5.22): they have no
    place in HTTP/2 (RFC 9113 §8.2.2) and are left out here.
    """
    fields = [(b":status", b"%d" % status)]
    for at in range(0, len(lines), 4):
        name = lines[at]
        name = _lower.get(name) or lower(name)
        if status != 426 or name not in _OF_A_CONNECTION:
            fields.append((name, lines[at + 2]))
    return fields


def lower(name: bytes) -> bytes:
    """A field name as HTTP/2 writes it; remembered, as names come in few spellings."""
    lowered = name.lower()
    if len(_lower) < _REMEMBERED and len(name) <= _REMEMBERED_LENGTH:
        _lower[name] = lowered
    return lowered


def _as_http1(method: bytes, target: bytes, host: bytes, pieces: list[bytes]) -> bytes:
    """The head that means the same in HTTP/1.1: read by the one reader there is."""
    request_line = (method, b" ", target, b" HTTP/1.1\r\n")
    return b"".join((*request_line, *(b"host: ", host, b"\r\n"), *pieces, b"\r\n"))


def _request_line(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    method = pseudo.get(b":method", b"")
    if not TOKEN.fullmatch(method):
        raise _malformed("no method, or one that is no token")
    if method == b"CONNECT":  # has neither scheme nor path (RFC 9113 §8.5)
        raise BadRequest("method CONNECT", status=405, reason="method_not_allowed")
    target = pseudo.get(b":path", b"")
    # Only these two forms exist here (RFC 9113 §8.3.1): an absolute one would name another host.
    if not _TARGET.fullmatch(target) or (target[:1] != b"/" and target != b"*"):
        raise _malformed("no path, or one that is none")
    if pseudo.get(b":scheme", b"").lower() not in (b"https", b"http"):
        raise _malformed("neither https nor http")
    return method, target


def _host(authority: bytes | None, host: bytes | None, is_https: bool) -> bytes:
    """The one host of a request (RFC 9113 §8.3.1)."""
    if authority is None:
        if host is None:
            raise BadRequest("no Host", reason="bad_host")
        return host
    if not _is_value(authority):
        raise _malformed("malformed authority")
    if host is not None and not is_same_authority(is_https, authority, host):
        raise BadRequest("Host differs from the authority", reason="bad_host")
    return authority


def _is_value(value: bytes) -> bool:
    """RFC 9113 §8.2.1: nothing that HTTP/1.1 would take for something else, no space at either end."""
    return VALUE.fullmatch(value) is not None and value.strip(b" \t") == value


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason="malformed_request")
