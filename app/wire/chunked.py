"""The chunked transfer coding (RFC 9112 §7.1), read strictly and written plainly.

Owns one direction of one body. Chunk sizes are plain hex digits, every line ends with CRLF, extensions are
bounded and dropped, trailers are bounded and checked. Of answers a little more is read: nobody behind us sees
how they were framed. Pure: fed with bytes, gives bytes.
"""

from __future__ import annotations

import re

from app.wire.fields import QUOTED_STRING, TOKEN, VALUE
from app.wire.trailers import is_safe

LAST_CHUNK = b"0\r\n\r\n"
# What a worker decodes before it looks at others: 0.3 ms of tiny ones (256 KiB hold 43,000: 27 ms).
CHUNKS_A_TURN = 256

# A size line is a few digits; extensions have no use here and get 256 bytes before they are refused
# (llhttp and nginx bound them likewise), and together little more than the data they come with:
# a flood of tiny chunks with large extensions costs the reader (CVE-2023-39326).
_MAX_SIZE_LINE = 256 + 16
_PLAIN_SIZE_LINE = 16
_MAX_EXCESS = 16384
_MAX_TRAILER_BYTES = 8190
_MAX_TRAILERS = 100
# RFC 9112 §7.1: 1*HEXDIG, then extensions. Zeros before the size say nothing (some send 8 or 16 digits
# always); what is over 63 bits does not fit every reader.
_EXTENSION = b"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (
    TOKEN.pattern,
    TOKEN.pattern,
    QUOTED_STRING,
)
_SIZE_LINE = re.compile(b"([0-9A-Fa-f]+)(?:%b)*" % _EXTENSION)
# With blanks behind the size, as old servers fill it up, and extensions of any form.
_SIZE_LINE_OF_ANSWER = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LARGEST_BITS = 63


class ChunkedError(ValueError):
    """The bytes are not a chunked body that two readers would read alike."""


class ChunkedDecoder:
    """Decodes one chunked body fed in pieces of any size.

    After ``done`` is true ``rest`` holds the bytes that follow the body and ``trailers`` its trailer fields
    that may be passed on. With ``most`` no call decodes more chunks than that: ``has_more`` says that it
    stopped there, and feeding nothing goes on.
    """

    __slots__ = (
        "_buffer",
        "_excess",
        "_in_trailers",
        "_most",
        "_remaining",
        "done",
        "has_more",
        "rest",
        "trailers",
    )

    def __init__(self, most: int = -1) -> None:
        self._most = most
        self.has_more = False
        self._buffer = b""
        self._remaining = 0  # bytes of the current chunk and its CRLF still to come
        self._excess = 0  # bytes of size lines beyond what their data justifies
        self._in_trailers = False
        self.done = False
        self.rest = b""
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> bytes:
        """Decode what ``data`` adds; ChunkedError when it cannot be a chunked body."""
        remaining = self._remaining
        if remaining > 2 and len(data) <= remaining - 2:  # inside a chunk: nothing to look at
            self._remaining = remaining - len(data)
            return data
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces = []
        position, size, chunks = 0, len(data), 0
        self.has_more = False
        while not self.done:
            if self._in_trailers:
                self._read_trailers(data[position:])
                break
            if self._remaining:
                take = min(self._remaining - 2, size - position)
                if take > 0:
                    pieces.append(data[position : position + take])
                    position += take
                    self._remaining -= take
                if self._remaining > 2:
                    break
                if size - position < 2:
                    self._keep(data[position:], b"\r")
                    break
                if data[position : position + 2] != b"\r\n":
                    raise ChunkedError("chunk data does not end with CRLF")
                position += 2
                self._remaining = 0
            if chunks == self._most:
                self._buffer = data[position:]
                self.has_more = bool(self._buffer)
                break
            chunks += 1
            end = data.find(b"\r\n", position, position + _MAX_SIZE_LINE + 2)
            if end < 0:
                if size - position > _MAX_SIZE_LINE:
                    raise ChunkedError("chunk size line too long")
                if b"\n" in data[position:]:
                    raise ChunkedError("bare LF in a chunk size line")
                self._buffer = data[position:]
                break
            match = _SIZE_LINE.fullmatch(data, position, end)
            if match is None:
                match = self._other_size(data, position, end)
            length = int(match[1], 16)
            if length >> _LARGEST_BITS:
                raise ChunkedError("chunk size over 63 bits")
            if end - position > _PLAIN_SIZE_LINE:
                self._excess = max(0, self._excess + end - position - _PLAIN_SIZE_LINE - 2 * length)
                if self._excess > _MAX_EXCESS:
                    raise ChunkedError("more chunk extensions than data")
            position = end + 2
            if length:
                self._remaining = length + 2
            else:
                self._in_trailers = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, tail: bytes, expected: bytes) -> None:
        if tail and tail != expected:
            raise ChunkedError("chunk data does not end with CRLF")
        self._buffer = tail

    def _read_trailers(self, data: bytes) -> None:
        if data[:2] == b"\r\n":
            self.rest, self.done = data[2:], True
            return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_TRAILER_BYTES:
                raise ChunkedError("trailer section too large")
            if data.count(b"\n") != data.count(b"\r\n"):
                raise ChunkedError("bare LF in the trailer section")
            self._buffer = data
            return
        if end > _MAX_TRAILER_BYTES:
            raise ChunkedError("trailer section too large")
        lines = data[:end].split(b"\r\n")
        if len(lines) > _MAX_TRAILERS:
            raise ChunkedError("too many trailer fields")
        for line in lines:
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
                self._malformed_trailers(lines)
                self.trailers.clear()
                break
            if self._passes(name):
                self.trailers.append((name, value))
        self.rest, self.done = data[end + 4 :], True

    def _passes(self, name: bytes) -> bool:
        return is_safe(name)

    def _other_size(self, data: bytes, start: int, end: int) -> re.Match[bytes]:
        raise ChunkedError("malformed chunk size")

    def _malformed_trailers(self, lines: list[bytes]) -> None:
        raise ChunkedError("malformed trailer field")


class AnswerDecoder(ChunkedDecoder):
    """Decodes the body of an answer. ``trailers`` has all of its fields: app.wire.trailers.of_answer chooses.

    What has one reading is taken, however odd, as clients get chunks of ours. A field in the trailer section
    that is none costs the section, not an answer that is whole.
    """

    __slots__ = ()

    def _passes(self, name: bytes) -> bool:
        return True

    def _other_size(self, data: bytes, start: int, end: int) -> re.Match[bytes]:
        match = _SIZE_LINE_OF_ANSWER.fullmatch(data, start, end)
        if match is None:
            raise ChunkedError("malformed chunk size")
        return match

    def _malformed_trailers(self, lines: list[bytes]) -> None:
        # Where the section ends would be a guess.
        if any(b"\r" in line or b"\n" in line for line in lines):
            raise ChunkedError("bare CR or LF in the trailer section")


def encode_chunk(data: bytes) -> bytes:
    """One chunk holding ``data``, which must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The end of a chunked body, with its trailer fields."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
