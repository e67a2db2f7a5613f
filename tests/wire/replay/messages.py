"""Reads what a proxy sent, strictly, with nothing of the product: what this cannot read is a failure.

A message is compared by its parts. Framing is a part of its own, so that a body may be framed anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_REQUEST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/1\.[01]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class Malformed(AssertionError):
    """Not a message that has one reading."""


@dataclass
class Message:
    """One message, whole."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    """Without the framing fields."""

    framing: str = "none"
    """``none``, ``length``, ``chunked`` or ``close``."""

    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    interim: list[Message] = field(default_factory=list)
    will_close: bool = False

    @property
    def status(self) -> int:
        """A response's status."""
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        """A request's method."""
        return self.start.split(b" ")[0]

    def get_all(self, name: bytes) -> list[bytes]:
        """The values of one field."""
        return [value for key, value in self.fields if key.lower() == name]

    def without(self, *names: bytes) -> list[tuple[bytes, bytes]]:
        """The fields but these."""
        return [pair for pair in self.fields if pair[0].lower() not in names]


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Malformed(f"no field: {line[:200]!r}")
        found.append((match[1], match[2]))
    return found


def _head(data: bytes, start_line: re.Pattern[bytes]) -> tuple[Message, bytes] | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end]
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise Malformed(f"a bare CR or LF: {head[:500]!r}")
    first, *rest = head.split(b"\r\n")
    if not start_line.fullmatch(first):
        raise Malformed(f"no start line: {first[:200]!r}")
    message = Message(first, _fields(rest))
    options = b",".join(message.get_all(b"connection")).lower().replace(b" ", b"").split(b",")
    is_old = first.startswith(b"HTTP/1.0") or first.endswith(b"HTTP/1.0")
    message.will_close = b"close" in options or (is_old and b"keep-alive" not in options)
    return message, data[end + 4 :]


def _body(message: Message, data: bytes, at_end: bool, is_request: bool) -> bytes | None:
    """Read the body into ``message``; what follows it, None while it is incomplete."""
    lengths, codings = message.get_all(b"content-length"), message.get_all(b"transfer-encoding")
    message.fields = message.without(b"content-length", b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Malformed(f"framed twice: {lengths} {codings}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise Malformed(f"coding {codings[0]!r}")
        message.framing = "chunked"
        return _chunks(message, data)
    if lengths:
        if not lengths[0].isdigit():
            raise Malformed(f"length {lengths[0]!r}")
        message.framing = "length"
        size = int(lengths[0])
        if len(data) < size:
            message.body = data
            return None
        message.body = data[:size]
        return data[size:]
    if is_request:
        return data
    message.framing = "close"
    message.body = data
    return b"" if at_end else None


def _chunks(message: Message, data: bytes) -> bytes | None:
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return None
        if not _SIZE.fullmatch(line):
            raise Malformed(f"chunk size {line[:100]!r}")
        size = int(line, 16)
        if not size:
            break
        message.body += data[:size]
        if len(data) < size + 2:
            return None
        if data[size : size + 2] != b"\r\n":
            raise Malformed("a chunk runs past its size")
        data = data[size + 2 :]
    if data.startswith(b"\r\n"):
        return data[2:]
    end_of_trailers = data.find(b"\r\n\r\n")
    if end_of_trailers < 0:
        return None
    message.trailers = _fields(data[:end_of_trailers].split(b"\r\n"))
    return data[end_of_trailers + 4 :]


def read_request(data: bytes) -> tuple[Message, bytes] | None:
    """The first request and what follows it; None while it is incomplete."""
    found = _head(data, _REQUEST_LINE)
    if found is None:
        return None
    message, rest = found
    behind = _body(message, rest, at_end=False, is_request=True)
    return None if behind is None else (message, behind)


def read_requests(data: bytes) -> tuple[list[Message], bytes]:
    """All complete requests, and the bytes of an incomplete one."""
    found = []
    while data and (read := read_request(data)) is not None:
        found.append(read[0])
        data = read[1]
    return found, data


@dataclass
class Responses:
    """What a client got on one connection."""

    messages: list[Message]
    partial: Message | None
    """A final response whose body is not whole."""

    rest: bytes
    """Bytes that belong to no response that was asked for."""


def read_responses(
    data: bytes, methods: list[bytes], at_end: bool = True, was_reset: bool = False
) -> Responses:
    """The responses to requests with these methods, in order."""
    found: list[Message] = []
    interim: list[Message] = []
    for method in [*methods, b"GET"]:
        while True:
            read = _head(data, _STATUS_LINE)
            if read is None:
                return Responses(found, None, data)
            message, rest = read
            if 100 <= message.status < 200 and message.status != 101:
                interim.append(message)
                data = rest
                continue
            break
        message.interim, interim = interim, []
        if method == b"HEAD" or message.status in (101, 204, 304):
            message.fields = message.without(b"content-length", b"transfer-encoding")
            behind: bytes | None = rest
        else:
            behind = _body(message, rest, at_end and not was_reset, is_request=False)
        if behind is None:
            return Responses(found, message, b"")
        found.append(message)
        data = behind
    return Responses(found, None, data)
