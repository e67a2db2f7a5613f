"""How far a message has come, and how far it may still go: Via and Max-Forwards (RFC 9110 §7.6), CDN-Loop.

Owns these three. CDN-Loop (RFC 8586) is what finds a loop: it is kept whoever sends it, since two balancers
that do not trust each other could send a request round between them for ever, and it claims nothing about the
client. Via tells where a message has been, to whom that is wanted (docs/decisions/0014). Pure.
"""

from __future__ import annotations

from app.errors import BadRequest

# No internal name leaves; behind it what tells one balancer from another, in CDN-Loop only.
PSEUDONYM = b"load-balancer"
_VERSIONS = (b"1.0", b"1.1", b"2.0")
# A request that has been through more than this is going round somewhere, or somebody plays.
_MOST_ELEMENTS = 64
# RFC 9110 §7.6.2 lets a recipient have a largest value.
_MOST_HOPS = 2**31 - 1


def mark(instance: int) -> bytes:
    """What one balancer calls itself in CDN-Loop, in all of its workers; ``instance`` has 64 bits."""
    return b"%b-%016x" % (PSEUDONYM, instance)


def loop_line(said: bytes | None, own: bytes) -> bytes:
    """The CDN-Loop line of a request: all that it said itself (RFC 8586 §2: nothing is removed), and us."""
    before = said + b", " if said else b""
    return b"CDN-Loop: %b%b\r\n" % (before, own)


def is_loop(said: bytes, own: bytes) -> bool:
    """Whether a request with this CDN-Loop has been here before, or anywhere too often."""
    if said.count(b",") >= _MOST_ELEMENTS:
        return True
    # Where a parameter is quoted and has our mark between commas, somebody asks for it.
    return own in said and any(
        member.partition(b";")[0].strip(b" \t") == own for member in said.split(b",")
    )


def received_by(minor: int) -> bytes:
    """What Via says of us: by HTTP/1.``minor`` (2: HTTP/2) we have received the message."""
    return b"%b %b" % (_VERSIONS[minor], PSEUDONYM)


def line(said: bytes | None, own: bytes) -> bytes:
    """A Via line: ``own`` behind what is kept of the message's; b"" where there is neither."""
    members = b", ".join(part for part in (said, own) if part)
    return b"Via: %b\r\n" % members if members else b""


def max_forwards(value: bytes) -> int:
    """The number in a Max-Forwards: how often a message may still be forwarded. BadRequest if it is none."""
    if not value.isdigit():
        raise BadRequest("malformed Max-Forwards", reason="bad_header")
    digits = value.lstrip(b"0") or b"0"
    return _MOST_HOPS if len(digits) > 10 else min(int(digits), _MOST_HOPS)
