"""What a header field means to an intermediary, decided once per distinct spelling.

Owns the list of fields that are not simply passed on: framing, hop-by-hop (RFC 9110 §7.6.1), routing
and the ones we write ourselves. Heads are scanned with one dictionary look-up per field: names come in
few spellings, so the classification is remembered (0.03 µs against 0.9 µs for matching it anew).
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from app.errors import BadRequest
from app.wire import claims

# RFC 9110 §5.6.2
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110 §5.5: HTAB, SP, VCHAR and obs-text
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# RFC 9110 §5.6.4, as a part of larger patterns
QUOTED_STRING = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'

PLAIN: Final = 0
DROP: Final = 1  # hop-by-hop, or a name that two readers could map to the same variable
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
EXPECT: Final = 6
TE: Final = 7
UPGRADE: Final = 8
USER_AGENT: Final = 9
ACCEPT: Final = 10
SINGLETON: Final = 11
FORWARDED_FOR: Final = 12
FORWARDED_PROTO: Final = 13
FORWARDED_HOST: Final = 14
REQUEST_ID: Final = 15
FORWARDED: Final = 16
DATE: Final = 17
TRAILER: Final = 18
MAX_FORWARDS: Final = 19
VIA: Final = 20
EARLY_DATA: Final = 21
CDN_LOOP: Final = 23
CLAIM: Final = 24  # of app.wire.claims, or of the configuration: which only a trusted proxy may say
FORWARDED_OTHER: Final = 22  # X-Forwarded-Port, -Prefix, …, which only a trusted proxy may say

_REQUEST_KINDS = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"user-agent": USER_AGENT,
    b"accept": ACCEPT,
    # A second one that differs leaves the message ambiguous (RFC 9110 §5.3).
    b"content-type": SINGLETON,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-request-id": REQUEST_ID,
    b"forwarded": FORWARDED,
    b"trailer": TRAILER,
    b"max-forwards": MAX_FORWARDS,
    b"via": VIA,
    b"cdn-loop": CDN_LOOP,
    b"early-data": EARLY_DATA,
    b"x-real-ip": FORWARDED_OTHER,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    # CVE-2016-5385 (httpoxy): CGI-style backends read it as the variable HTTP_PROXY.
    b"proxy": DROP,
    b"http2-settings": DROP,
}

_RESPONSE_KINDS = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"date": DATE,
    b"trailer": TRAILER,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    # Clients are told the one that is in our log, which the server was told too.
    b"x-request-id": DROP,
}

# Fields that a ``Connection`` option must never remove: a client could otherwise strip what the backend
# trusts (CVE-2021-32813, CVE-2024-45410), break the framing, or change what the content is. RFC 9110
# §7.6.1 names Cache-Control, RFC 8470 §5.1 Early-Data.
PROTECTED = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"x-real-ip",
        b"x-request-id",
        b"forwarded",
        b"via",
        b"cdn-loop",  # RFC 8586 §3: a client that had it removed could start a loop
        b"max-forwards",
        b"early-data",
        b"authorization",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"cookie",
        b"set-cookie",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"date",
    )
)
# Whoever is not a trusted proxy says none of these, and nobody removes them.
_FORWARDED_PREFIX = b"x-forwarded-"

# A head of 32 KiB has room for 16,000 members of a list, which take 5 ms: more than this nobody needs.
MEMBERS_READ: Final = 64

# A client can invent spellings without end, so what is remembered is bounded in number and in length:
# a Connection of 8 KiB names 4,000 fields, and a few thousand of those would fill a machine's memory.
_REMEMBERED = 4096
_REMEMBERED_LENGTH = 64

_claims = claims.pattern(claims.DEFAULT)
_FOLDED: Final = re.compile(rb"[^a-z0-9-]")
request_kinds: Final[dict[bytes, int]] = {}
response_kinds: Final[dict[bytes, int]] = {}


def request_kind(name: bytes) -> int:
    """Classify a request field name and remember it; BadRequest when it is not a token."""
    if not TOKEN.fullmatch(name):
        if not name:
            raise BadRequest("obsolete line folding", reason="bad_header")
        raise BadRequest(f"field name {name[:64]!r}", reason="bad_header")
    # "X_Forwarded_For" and "X-Forwarded-For" are the same CGI variable: gunicorn's header_map="drop".
    kind = DROP if b"_" in name else _request_kind(name.lower())
    if len(request_kinds) < _REMEMBERED and len(name) <= _REMEMBERED_LENGTH:
        request_kinds[name] = kind
    return kind


def trust_only(names: Iterable[str]) -> None:
    """Have fields with these names be claims in this process from now on, and no others."""
    global _claims
    _claims = claims.pattern(names)
    request_kinds.clear()


def has_meaning(name: bytes) -> bool:
    """Whether a request field of that name, in small letters, is one that we read, write or drop anyway."""
    return name in _REQUEST_KINDS or name.startswith(_FORWARDED_PREFIX)


def _request_kind(name: bytes) -> int:
    """The kind of a field whose name, in small letters, is a token without an underscore."""
    kind = _REQUEST_KINDS.get(name)
    if kind is not None:
        return kind
    if name.startswith(_FORWARDED_PREFIX):
        return FORWARDED_OTHER
    if _claims.fullmatch(name):
        return CLAIM
    # Some servers make "_" of more than "-" (lighttpd of all but letters and digits): "Remote.User".
    folded = _FOLDED.sub(b"-", name)
    return DROP if folded != name and _request_kind(folded) != PLAIN else PLAIN


def response_kind(name: bytes) -> int:
    """Classify a response field name and remember it; -1 when it is not a token."""
    if not TOKEN.fullmatch(name):
        return -1
    kind = _RESPONSE_KINDS.get(name.lower(), PLAIN)
    if len(response_kinds) < _REMEMBERED and len(name) <= _REMEMBERED_LENGTH:
        response_kinds[name] = kind
    return kind


class ConnectionOptions:
    """What a Connection field asks for. ``named`` are the fields that it makes hop-by-hop.

    ``is_whole``: all of it was read. Where it is not, nobody knows what else it asks for.
    """

    __slots__ = ("close", "is_whole", "keep_alive", "named", "te", "upgrade")

    def __init__(self, value: bytes) -> None:
        self.is_whole = value.count(b",") < MEMBERS_READ
        names = frozenset(options(value))
        self.close = b"close" in names
        self.keep_alive = b"keep-alive" in names
        self.upgrade = b"upgrade" in names
        self.te = b"te" in names
        self.named = frozenset(
            name for name in names - _OPTIONS - PROTECTED if not name.startswith(_FORWARDED_PREFIX)
        )


_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
_connection_options: dict[bytes, ConnectionOptions] = {}


def connection_options(value: bytes) -> ConnectionOptions:
    """Read a Connection field; remembered, as it says the same few things (0.05 µs against 1.0)."""
    found = _connection_options.get(value)
    if found is None:
        found = ConnectionOptions(value)
        if len(_connection_options) < _REMEMBERED and len(value) <= _REMEMBERED_LENGTH:
            _connection_options[value] = found
    return found


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """``lines`` (flat pieces: name, separator, value, CRLF) less the fields with these names."""
    return [
        piece
        for start in range(0, len(lines), 4)
        if lines[start].lower() not in names
        for piece in lines[start : start + 4]
    ]


def options(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, lower-cased, empty ones left out (RFC 9110 §5.6.1).

    Of a longer one than anybody needs, what is behind the first MEMBERS_READ is one member, and no token.
    """
    parts = value.lower().split(b",", MEMBERS_READ)
    return [member for part in parts if (member := part.strip(b" \t"))]
