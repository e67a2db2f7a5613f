"""The Date of answers that have none of their own: RFC 9110 §6.6.1 asks it of a recipient with a clock.

Owns its formatting, once a second, for HTTP/1.1 and HTTP/2 alike. Runs in workers.
"""

from __future__ import annotations

from email.utils import formatdate
from time import time

_date: tuple[int, bytes, bytes] = (0, b"", b"")


def date_line() -> bytes:
    """The field as a line of HTTP/1.1."""
    global _date
    now = int(time())
    if _date[0] != now:
        value = formatdate(now, usegmt=True).encode()
        _date = (now, b"Date: %b\r\n" % value, value)
    return _date[1]


def date_value() -> bytes:
    """The same without its name, for HTTP/2."""
    date_line()
    return _date[2]
