"""How far a message has come, and how far it may still go (RFC 9110 §7.6.2, §7.6.3).

Owns Max-Forwards and Via. Via is what finds a loop, so it is looked at whoever sends it: of a client that
nobody vouches for, the marks of balancers like this one are kept and nothing else is. Such a mark claims
nothing about the client; without it, two balancers that do not trust each other could send a request round
between them for ever. Pure.
"""

from __future__ import annotations

import re

from app.errors import BadRequest

# A pseudonym, so that no internal name leaves; behind it what tells one balancer from another.
PSEUDONYM = b"load-balancer"
_MEMBER = re.compile(rb"(?:HTTP/)?(?:1\.[01]|2\.0) (%b-[0-9a-f]{16})" % PSEUDONYM)
_VERSIONS = (b"1.0", b"1.1", b"2.0")
_COMMENT = re.compile(rb"\([^()]*\)")
# A cycle of more balancers than this is not told from a client's invention.
_MARKS_KEPT = 16
# RFC 9110 §7.6.2 lets a recipient have a largest value.
_MOST_HOPS = 2**31 - 1


def mark(instance: int) -> bytes:
    """What one balancer calls itself in Via, the same in all of its workers; ``instance`` has 64 bits."""
    return b"%b-%016x" % (PSEUDONYM, instance)


def line(minor: int, via: bytes | None, own: bytes) -> bytes:
    """The Via line of a request of HTTP/1.``minor`` (2: HTTP/2), behind what is kept of its own Via."""
    before = via + b", " if via else b""
    return b"Via: %b%b %b\r\n" % (before, _VERSIONS[minor], own)


def marks(via: bytes) -> list[bytes]:
    """The members of a Via that balancers like this one have written, at most the last few."""
    members = (member.strip(b" \t") for member in _COMMENT.sub(b"", via).split(b","))
    return [member for member in members if _MEMBER.fullmatch(member)][-_MARKS_KEPT:]


def is_loop(via: bytes, own: bytes) -> bool:
    """Whether a message with this Via has been here before."""
    return own in via and any(member.endswith(b" " + own) for member in marks(via))


def max_forwards(value: bytes) -> int:
    """The number in a Max-Forwards: how often a message may still be forwarded. BadRequest if it is none."""
    if not value.isdigit():
        raise BadRequest("malformed Max-Forwards", reason="bad_header")
    digits = value.lstrip(b"0") or b"0"
    return _MOST_HOPS if len(digits) > 10 else min(int(digits), _MOST_HOPS)
