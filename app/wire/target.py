"""What a request is about: its target and the host that it names (RFC 9112 §3.2, RFC 3986).

Owns the forms of a target and what may stand in Host. Nothing is decoded or normalised. Pure.
"""

from __future__ import annotations

import ipaddress
import re

from app.errors import BadRequest

# RFC 3986 §3.2.2: reg-name, IPv4 or a bracketed IPv6 literal; an optional port. No userinfo. Without what has
# two readings: a percent sign, which some decode (%0d, %2f, %40), and a comma, which joins repeated fields.
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?")


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Check a target that is not plain origin-form: its origin-form and its authority (RFC 9112 §3.2)."""
    if b"#" in target or not target.isascii():
        raise BadRequest("fragment or non-ASCII byte in the target", reason="bad_target")
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest("asterisk-form is for OPTIONS", reason="bad_target")
        return target, None
    if target.startswith(b"/"):
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not is_authority(match[1]):
        raise BadRequest("target is neither origin-form nor http(s)", reason="bad_target")
    rest: bytes = match[2] or (b"*" if method == b"OPTIONS" else b"/")
    return (rest if rest[:1] != b"?" else b"/" + rest), match[1]


def is_same_authority(is_https: bool, one: bytes, other: bytes) -> bool:
    """Whether both name one host and port (RFC 9110 §4.2.3): that of the scheme may be left out."""
    return one == other or _normal(one, is_https) == _normal(other, is_https)


def _normal(authority: bytes, is_https: bool) -> bytes:
    lowered = authority.lower()
    without = lowered.removesuffix(b":443" if is_https else b":80")
    return without if without != lowered else lowered.removesuffix(b":")


def is_authority(value: bytes) -> bool:
    """Whether it is a host with an optional port."""
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > 65535:
        return False
    if match[1] is None:
        return True
    try:
        ipaddress.IPv6Address(match[1].decode("ascii"))
    except ValueError:
        return False
    return True
