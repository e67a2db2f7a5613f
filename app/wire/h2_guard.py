"""Looks at the frames of an HTTP/2 connection before the protocol library does.

Owns what a client may make us do for nothing: how large a frame is before it has come, how long a header
block is before it is decoded, and how many frames are sent that move no request along (pings, settings,
empty data, tiny windows: CVE-2019-9511 to 9518; continuations: CVE-2024-24549 and its kin). Also takes out
a client's GOAWAY, which only says that it wants no pushes: the library would end the connection for it.
Pure: bytes and the time in, the bytes for the library out.
"""

from __future__ import annotations

PREFACE_BYTES = 24
HEADER_BYTES = 9
MAX_FRAME_BYTES = 16384  # the protocol's initial SETTINGS_MAX_FRAME_SIZE, which is never raised
# Of a header block; nghttp2 takes as many.
MAX_CONTINUATIONS = 8
# Frames that move nothing: a client of ordinary manners sends a few for each request. At 30 µs a frame
# the rate is 0.3 % of a core. What was moved pays for more: window updates belong to a download.
IDLE_BURST = 1000
IDLE_RATE = 100
BYTES_PER_IDLE_FRAME = 256
IDLE_FRAMES_PER_REQUEST = 4

PROTOCOL_ERROR = 0x1
FRAME_SIZE_ERROR = 0x6
ENHANCE_YOUR_CALM = 0xB

_DATA, _HEADERS, _CONTINUATION, _GOAWAY = 0x0, 0x1, 0x9, 0x7
_END_STREAM, _END_HEADERS, _PADDED = 0x1, 0x4, 0x8
_MAX_PADDING = 256


class Refused(Exception):
    """The connection is to be ended with ``code``; ``reason`` is the slug for the log."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TokenBucket:
    """How much of something may be done: ``burst`` at once, ``rate`` a second in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = now

    def spend(self, cost: float, now: float) -> bool:
        """Take ``cost``; False if that was too much."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - cost
        self._at = now
        return self._left >= 0

    def earn(self, amount: float) -> None:
        """Allow ``amount`` more, never above ``burst``: for work that was done meanwhile."""
        self._left = min(self._burst, self._left + amount)


class FrameGuard:
    """The frames of one connection, in order.

    ``is_inside`` tells that a frame or header block has begun and is to be finished in time; not for DATA,
    whose stream has a deadline of its own. ``max_block`` bounds the bytes of a header block, compressed;
    decoded it is measured again. ``frames`` counts those begun, a header block as one.
    """

    __slots__ = (
        "_block_bytes",
        "_budget",
        "_continuations",
        "_is_block",
        "_is_data",
        "_is_dropped",
        "_left",
        "_max_block",
        "_part",
        "_preface",
        "frames",
    )

    def __init__(self, now: float, max_block: int) -> None:
        self._max_block = max_block
        self._preface = PREFACE_BYTES
        self._part = b""  # of a frame header
        self._left = 0  # bytes of the current frame still to come
        self._is_data = self._is_dropped = self._is_block = False
        self._block_bytes = self._continuations = 0
        self._budget = TokenBucket(IDLE_BURST, IDLE_RATE, now)
        self.frames = 0

    @property
    def is_inside(self) -> bool:
        """Whether a frame, a header block or the preface has begun whose rest has not come."""
        if self._preface or self._is_block or self._part:
            return True
        return self._left > 0 and not self._is_data

    def moved(self, count: int) -> None:
        """Allow the client more frames: so many bytes of bodies were moved, either way."""
        self._budget.earn(count / BYTES_PER_IDLE_FRAME)

    def served(self) -> None:
        """Allow the client more frames: a request of it has been answered."""
        self._budget.earn(IDLE_FRAMES_PER_REQUEST)

    def feed(self, data: bytes, now: float) -> bytes:
        """The part of ``data`` that the library is to see. Raises Refused."""
        if self._part:
            data = self._part + data
            self._part = b""
        kept: list[bytes] = []
        start = position = 0
        size = len(data)
        if self._preface:
            position = min(self._preface, size)
            self._preface -= position
        while position < size:
            if self._left:
                count = min(self._left, size - position)
                self._left -= count
                position += count
                if self._is_dropped:
                    start = position
                continue
            if size - position < HEADER_BYTES:
                self._part = data[position:]
                break
            self._begin(data, position, now)
            if self._is_dropped:
                kept.append(data[start:position])
                start = position + HEADER_BYTES
            position += HEADER_BYTES
        if not kept and not start and position == size:
            return data
        kept.append(data[start:position])
        return b"".join(kept)

    def _begin(self, data: bytes, at: int, now: float) -> None:
        """Judge a frame by its header (RFC 9113 §4.1)."""
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        if length > MAX_FRAME_BYTES:
            raise Refused(FRAME_SIZE_ERROR, "frame_too_large")
        self._left = length
        self.frames += kind != _CONTINUATION
        self._is_data = kind == _DATA
        self._is_dropped = False
        cost = 0.0
        if kind == _DATA:
            if length and not (flags & _PADDED and length <= _MAX_PADDING):
                self.moved(length)
            elif not flags & _END_STREAM:
                cost = 1.0
        elif kind in (_HEADERS, _CONTINUATION):
            self._measure(kind, length)
            self._is_block = not flags & _END_HEADERS
        else:
            cost = 1 + length / 64  # settings come by the hundred in one frame
            # Inside a header block it is an error, for the library to say.
            self._is_dropped = kind == _GOAWAY and not self._is_block
        if cost and not self._budget.spend(cost, now):
            raise Refused(ENHANCE_YOUR_CALM, "frame_flood")

    def _measure(self, kind: int, length: int) -> None:
        if kind == _HEADERS:
            self._block_bytes = self._continuations = 0
        else:
            self._continuations += 1
        self._block_bytes += length
        if self._continuations > MAX_CONTINUATIONS or self._block_bytes > self._max_block:
            raise Refused(ENHANCE_YOUR_CALM, "header_block_too_large")
