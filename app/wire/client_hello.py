"""What a client's first message in TLS says, as far as we answer by it ourselves. Pure: bytes in, values out.

Only read where OpenSSL has taken the message and agreed on no protocol; so what cannot be read here says
nothing.
"""

from __future__ import annotations

import re

# The fatal alert no_application_protocol (RFC 7301 §3.2) as a record of its own: nothing is encrypted yet.
NO_APPLICATION_PROTOCOL = bytes((21, 3, 3, 0, 2, 2, 120))

_RECORD_HEADER, _HANDSHAKE, _CLIENT_HELLO = 5, 22, 1
_RANDOM_END = 4 + 2 + 32  # behind type and length, version and random
_ALPN = 16
# With these bytes its extension begins, and little else: 0.1 µs say that there is none, to read it all 10.
ALPN = _ALPN.to_bytes(2, "big")
# A method and a space, or as much of it as has come (RFC 9112 §3). TLS begins with no character of a token.
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: |\Z)")


def is_http(data: bytes) -> bool:
    """Whether the first bytes of a connection look like a request without TLS."""
    return _REQUEST_LINE.match(data) is not None


def offered_protocols(data: bytes) -> tuple[bytes, ...]:
    """The protocols of the ALPN extension in a ClientHello, given as TLS records; () if there is none."""
    hello = _message(data)
    if len(hello) <= _RANDOM_END or hello[0] != _CLIENT_HELLO:
        return ()
    at = _RANDOM_END + 1 + hello[_RANDOM_END]  # the session's id
    at += 2 + _number(hello, at, 2)  # cipher suites
    at += 1 + _number(hello, at, 1)  # compression
    end = min(at + 2 + _number(hello, at, 2), len(hello))
    at += 2
    while at + 4 <= end:
        kind, length = _number(hello, at, 2), _number(hello, at + 2, 2)
        at += 4
        if kind == _ALPN:
            return tuple(_names(hello[at + 2 : at + length]))
        at += length
    return ()


def _message(data: bytes) -> bytes:
    """What the records hold that follow one another: a message may be spread over several."""
    pieces = []
    at = 0
    while at + _RECORD_HEADER <= len(data) and data[at] == _HANDSHAKE:
        length = _number(data, at + 3, 2)
        at += _RECORD_HEADER
        pieces.append(data[at : at + length])
        at += length
    return b"".join(pieces)


def _names(data: bytes) -> list[bytes]:
    names = []
    at = 0
    while at < len(data):
        length = data[at]
        names.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return names


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
