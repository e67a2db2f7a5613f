"""The Forwarded field (RFC 7239): one element read from its right end, one element written.

Owns its syntax. It is read from the right because what stands left was written by people nobody vouches
for, and nothing of it, an open quote least of all, may change how the rest is read. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from app.wire.fields import QUOTED_STRING, TOKEN

# RFC 7239 §4 has no space around ";"; those who write one mean nothing by it.
_PAIR = rb"(%b)=(%b|%b)" % (TOKEN.pattern, TOKEN.pattern, QUOTED_STRING)
_PAIRS = re.compile(rb"[ \t]*%b[ \t]*(?:;[ \t]*(?:%b[ \t]*)?)*" % (_PAIR, _PAIR))
_ONE_PAIR = re.compile(_PAIR)
_ESCAPED = re.compile(rb"\\(.)")
# RFC 7239 §6: an address with an optional port that may be obfuscated.
_NODE = re.compile(
    rb"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
)
# More commas are in no element, of ours neither: a field of nothing else would be matched at each of 32,000.
_COMMAS_QUOTED = 256
# Nor is one longer, of ours neither: a quoted one of 32 KB takes 16 ms each time that it is read.
_ELEMENT_BYTES = 1024
_HOST_BYTES = 512
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")


class Element(NamedTuple):
    """What one proxy said of a request. ``address`` is None where it gave none that is one."""

    address: str | None
    proto: bytes | None
    host: bytes | None


def last(value: bytes) -> tuple[Element, bytes] | None:
    """The element at the right end, and what stands left of it; None where there is none."""
    at = len(value)
    for _ in range(
        _COMMAS_QUOTED
    ):  # a quoted value may hold commas: then the next one to the left is it
        if at < 0:
            break
        at = value.rfind(b",", 0, at)
        if len(value) - at > _ELEMENT_BYTES:
            break
        if _PAIRS.fullmatch(value, at + 1):
            element = _element(value[at + 1 :])
            return None if element is None else (element, value[: max(at, 0)])
    return None


def latest(value: bytes, most: int) -> bytes:
    """The right-most ``most`` elements, as they came; all of a field that cannot have more.

    They end where something is that is no element: left of that nobody can tell what is quoted.
    """
    if value.count(b",") < most:
        return value
    rest = value
    for _ in range(most):
        found = last(rest)
        if found is None:
            break
        rest = found[1]
        if not rest:
            return value
    return value[len(rest) :].lstrip(b", \t")


def written(address: str, scheme: str, host: bytes, by: bytes) -> bytes:
    """One element of our own; an unknown address is said to be that."""
    is_read = len(host) <= _HOST_BYTES and host.count(b",") < _COMMAS_QUOTED
    said = b";host=" + _value(host) if host and is_read else b""
    return b"for=%b%b;proto=%b;by=_%b" % (node(address), said, scheme.encode(), by)


def node(address: str) -> bytes:
    """An address as a node identifier: IPv6 in brackets and quotes (RFC 7239 §6)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return b"unknown"
    return b'"[%b]"' % str(parsed).encode() if parsed.version == 6 else str(parsed).encode()


def _value(text: bytes) -> bytes:
    """``text`` as a token, else quoted; a Host holds neither quotes nor backslashes."""
    return text if TOKEN.fullmatch(text) else b'"%b"' % text


def _element(text: bytes) -> Element | None:
    """What the parameters of one element say; None where one comes twice (RFC 7239 §4)."""
    found: dict[bytes, bytes] = {}
    for match in _ONE_PAIR.finditer(text):
        name, value = match[1].lower(), match[2]
        if name in found:
            return None
        found[name] = _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value
    proto, host = found.get(b"proto"), found.get(b"host")
    if proto is not None and not _SCHEME.fullmatch(proto):
        proto = None
    return Element(_address(found.get(b"for", b"")), proto, host)


def _address(text: bytes) -> str | None:
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        return str(ipaddress.ip_address((match[1] or match[2]).decode("ascii")))
    except ValueError:
        return None
