"""Which protocols a connection may be switched to.

Owns the Upgrade field in both directions (RFC 9110 §7.8): what of a client's wish is passed on, and whether
a backend's 101 is an answer to it. Only what the configuration names gets through: a protocol that nobody
allowed, h2c above all, would carry requests past everything that is checked here. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from app.wire.fields import TOKEN
from app.wire.response import ResponseHead

# Of a longer list the first are passed on: a server need not switch to any (RFC 9110 §7.8).
_MOST_OFFERED = 16


def offer(asked: bytes, allowed: Collection[bytes]) -> bytes:
    """The allowed protocols among those a client asks for, in its order; b"" if there are none.

    ``allowed`` holds lower-case names; a version (``name/version``) is passed on with its name.
    """
    members = (member.strip(b" \t") for member in asked.split(b",", _MOST_OFFERED)[:_MOST_OFFERED])
    return b", ".join(member for member in members if _name(member) in allowed)


def accepts(answer: bytes | None, offered: bytes) -> bool:
    """Whether a 101 with this Upgrade field switches to something that was offered (and says to what)."""
    if not answer:
        return False
    names = {_name(member.strip(b" \t")) for member in offered.split(b",")} - {None}
    members = answer.split(b",", _MOST_OFFERED)  # what is behind so many is one, and no protocol
    return all(_name(member.strip(b" \t")) in names for member in members)


def switching_lines(head: ResponseHead) -> tuple[bytes, bytes, bytes]:
    """The end of the head of a 101 as the client gets it."""
    return b"Connection: Upgrade\r\nUpgrade: ", head.upgrade or b"", b"\r\n\r\n"


def _name(protocol: bytes) -> bytes | None:
    """The protocol's name in lower case; None where it is not ``token`` or ``token/token``."""
    name, slash, version = protocol.partition(b"/")
    if not TOKEN.fullmatch(name) or (slash and not TOKEN.fullmatch(version)):
        return None
    return name.lower()
