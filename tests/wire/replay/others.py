"""Other parsers' readings of the same bytes: gunicorn's own (both of its parsers) and h11."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import h11
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import IterUnreader

from . import parsers

# gunicorn's own; the fast one is made of gunicorn_h1c.
PARSERS = ("python", "fast") if parsers.HAS_C else ("python",)

# Not in forwarded_allow_ips: nobody's claims are believed.
STRANGER = ("203.0.113.9", 40000)


@dataclass
class Reading:
    """One whole request as a parser reads it; names in lower case."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes


@cache
def _config(parser: str, max_fields: int) -> Any:
    config = Config()
    config.set("http_parser", parser)
    config.set("limit_request_fields", max_fields)
    config.set("limit_request_line", 8190)  # ours: a setting, not a rule
    config.set("permit_unconventional_http_method", True)  # as RFC 9110 §9.1 does
    return config


def by_gunicorn(data: bytes, parser: str, max_fields: int = 100) -> Reading | None:
    """The first request, None where gunicorn refuses it or waits for more of it."""
    try:
        request = Request(_config(parser, max_fields), IterUnreader([data]), STRANGER)
        body = request.body.read()
    except Exception:
        return None
    fields = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers
    ]
    lengths = [value for name, value in fields if name == b"content-length"]
    if lengths and len(body) != int(lengths[0]):
        return None
    return Reading(request.method.encode("latin-1"), request.uri.encode("latin-1"), fields, body)


_HEAD_LINE = re.compile(rb"(?<=\r\n)(?i:(expect|content-type):[\t ]*([^\r\n]*?)[\t ]*)\r\n")

_TRAILERS = re.compile(rb"(?<=\r\n)0+\r\n(?:[^\r\n]+\r\n)+(?=\r\n)")
_TRAILER = re.compile(
    rb"(?<=\n)(?i:host|content-length|transfer-encoding|trailer|authorization|te):[^\r\n]*\r\n"
)


def without_forgiven(data: bytes) -> bytes:
    """A request less what ours forgives and gunicorn does not.

    That is Expect, a second Content-Type that is equal, and trailer fields that we discard and it refuses.

    What is left of it is what gunicorn has to take where ours takes the whole.
    """
    end = data.find(b"\r\n\r\n") + 2
    seen: set[bytes] = set()

    def kept(line: re.Match[bytes]) -> bytes:
        if line[1].lower() == b"expect" or line[2] in seen:
            return b""
        seen.add(line[2])
        return line[0]

    body = _TRAILERS.sub(lambda section: _TRAILER.sub(b"", section[0]), data[end:])
    return _HEAD_LINE.sub(kept, data[:end]) + body


def two_by_gunicorn(data: bytes) -> tuple[bytes, bytes]:
    """The first request's body, and the second's target. Raises what gunicorn does."""
    parser = RequestParser(_config("python", 200), [data], STRANGER)
    body = next(parser).body.read()
    return body, next(parser).uri.encode("latin-1")


def client_by_gunicorn(header: bytes) -> str:
    """The client's address in a header of the PROXY protocol."""
    config = Config()
    config.set("proxy_protocol", "auto")
    config.set("proxy_allow_ips", "*")
    config.set("http_parser", "python")
    data = header + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    request = Request(config, IterUnreader([data]), STRANGER)
    assert request.proxy_protocol_info is not None
    return str(request.proxy_protocol_info["client_addr"])


def by_h11(data: bytes) -> Reading:
    """The first request as h11 reads it as a server. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        body += bytes(event.data)
    fields = [(bytes(name), bytes(value)) for name, value in request.headers]
    return Reading(bytes(request.method), bytes(request.target), fields, body)
