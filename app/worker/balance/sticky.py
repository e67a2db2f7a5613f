"""Sticky sessions: a cookie that brings a client back to the server that it had before.

Owns what the cookie says, how it is found in a request and kept from the server, and the field that sets
it. Its value is an HMAC of the server's URL, so it names no address, means nothing without the secret, and
is the same on every worker and every machine that shares the secret. Nothing is kept for a client: what a
value means is looked up among the servers there are. Where a request then goes is app.worker.balance.pool's
affair. Runs in workers. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

from app.config import Sticky
from app.wire import hash_key
from app.wire.request import RequestHead

# 128 bits: not to be guessed, and no two of a million servers have the same.
VALUE_DIGITS = 32


class StickyCookie:
    """The cookie of one configuration."""

    __slots__ = ("_attributes", "_name", "_path", "_secret", "_value", "_whole")

    def __init__(self, settings: Sticky) -> None:
        assert settings.secret is not None  # the master has seen to that
        self._name = settings.cookie.encode("ascii")
        self._secret = settings.secret.encode()
        self._value, self._whole = hash_key.cookie_pattern(self._name), whole_cookies(self._name)
        self._path = settings.path.encode("ascii")
        age = f"; Max-Age={settings.max_age}" if settings.max_age else ""
        self._attributes = f"; Path={settings.path}{age}; HttpOnly; SameSite=Lax".encode("ascii")

    def __repr__(self) -> str:
        return f"<StickyCookie {self._name.decode()}>"  # never the secret

    def value_of(self, url: str) -> bytes:
        """What the cookie of a client of this server says."""
        return hmac.digest(self._secret, url.encode(), sha256).hex()[:VALUE_DIGITS].encode("ascii")

    def take(self, head: RequestHead) -> bytes | None:
        """The cookie's value, if the request has it; it is then no longer among what is forwarded."""
        value = hash_key.cookie(head, self._value)
        if value is not None:
            head.lines = without_cookie(head.lines, self._whole)
        return value

    def covers(self, target: bytes) -> bool:
        """Whether a client that has the cookie sends it with this target (RFC 6265 §5.1.4).

        One that would not send it has not lost it: giving it another would move its session.
        """
        path, asked = self._path, target.partition(b"?")[0]
        if path[-1:] == b"/":
            return asked.startswith(path) or path == b"/"
        return asked == path or asked.startswith(path + b"/")

    def lines(self, value: bytes, is_secure: bool) -> tuple[bytes, ...]:
        """The fields, as flat pieces, with which an answer gives the client this value.

        A shared cache that kept them would send all its clients to one server (RFC 9111 §7.3; HAProxy's
        ``nocache``).
        """
        secure = b"; Secure" if is_secure else b""
        cookie = b"%b=%b%b%b" % (self._name, value, self._attributes, secure)
        return (
            *(b"Set-Cookie", b": ", cookie, b"\r\n"),
            *(b"Cache-Control", b": ", b"private", b"\r\n"),
        )


def whole_cookies(name: bytes) -> re.Pattern[bytes]:
    """Finds the cookies of that name in a Cookie field, with what separates them from those before."""
    return re.compile(rb"(?:^|;)[ \t]*" + re.escape(name) + rb"(?:=[^;]*|[ \t]*)(?=;|$)")


def without_cookie(lines: list[bytes], ours: re.Pattern[bytes]) -> list[bytes]:
    """``lines`` (flat pieces: name, separator, value, CRLF) less the cookies that ``ours`` finds."""
    kept: list[bytes] = []
    for start in range(0, len(lines), 4):
        field = lines[start : start + 4]
        if field[0].lower() == b"cookie":
            others, count = ours.subn(b"", field[2])
            if count:
                field[2] = others = others.strip(b"; \t")
                if not others:
                    continue
        kept += field
    return kept
