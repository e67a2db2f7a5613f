"""Looks at the frames of an HTTP/2 connection before the protocol library does.

Owns what a client may make us do for nothing: how large a frame is before it has come, how long a header
block is before it is decoded, and how many frames are sent that move no request along (pings, settings,
empty data, tiny windows: CVE-2019-9511 to 9518; continuations: CVE-2024-24549 and its kin; whatever comes
on streams that have ended). Also how much is worked through before others have their turn. Takes out
what says nothing to a server (priorities, a client's GOAWAY, frames that nobody knows), and what is wrong
with one stream only where the library would end the connection for it.
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
# What a client may answer to a DATA frame of ours: a window update for its stream and one for the connection
# (RFC 9113 §6.9), and a ping with which gRPC measures the way. So the frames of an event stream pay for it.
IDLE_FRAMES_PER_DATA = 3
# What has been earned and not used; a round trip's worth of an event stream. Half a second of a core.
IDLE_FRAMES_EARNED = 16 * IDLE_BURST
# Of a stream's window when we reset it: that much of its body may be on its way, in frames of this size.
BYTES_IN_FLIGHT_PER_FRAME = 1024
# Requests given up before they were answered (rapid reset, CVE-2023-44487, and CVE-2025-8671, where we are
# brought to reset them). nghttp2's rate; its burst of 1000 is more than a page has images.
RESET_BURST = 200
RESET_RATE = 33
# What is worked through before others have their turn; a small DATA frame is one, at 25 µs. A request is
# 0.3 ms until it waits for its server or is answered here: with four a turn others wait no longer than beside
# pipelined ones of HTTP/1.1.
UNITS_PER_TURN = 64
UNITS_PER_HEADERS = 16

PROTOCOL_ERROR = 0x1
FRAME_SIZE_ERROR = 0x6
ENHANCE_YOUR_CALM = 0xB

_DATA, _HEADERS, _PRIORITY, _SETTINGS = 0x0, 0x1, 0x2, 0x4
_GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x7, 0x8, 0x9
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8
_MAX_PADDING = 256
_PRIORITY_BYTES, _WINDOW_UPDATE_BYTES = 5, 4
_STREAM_MASK = 0x7FFFFFFF


class Refused(Exception):
    """The connection is to be ended with ``code``; ``reason`` is the slug for the log."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TokenBucket:
    """How much of something may be done: ``burst`` at once, ``rate`` a second in the long run.

    What was earned besides is kept up to ``most``.
    """

    __slots__ = ("_at", "_burst", "_left", "_most", "_rate")

    def __init__(self, burst: float, rate: float, now: float, most: float = 0) -> None:
        self._burst = self._left = burst
        self._most = most or burst
        self._rate = rate
        self._at = now

    def spend(self, cost: float, now: float) -> bool:
        """Take ``cost``; False if that was too much."""
        left = self._left
        if left < self._burst:
            left = min(self._burst, left + (now - self._at) * self._rate)
        self._left = left = left - cost
        self._at = now
        return left >= 0

    def earn(self, amount: float) -> None:
        """Allow ``amount`` more, never above ``most``: for work that was done meanwhile."""
        self._left = min(self._most, self._left + amount)


class FrameGuard:
    """The frames of one connection, in order.

    ``is_inside`` tells that a frame or header block has begun and is to be finished in time; not for DATA,
    whose stream has a deadline of its own. ``max_block`` bounds the bytes of a header block, compressed;
    decoded it is measured again. ``frames`` counts those begun, a header block as one. ``has_more``: what was
    fed is more than one turn's work, and ``feed`` is to be called again for the rest. ``faults``: streams to
    be reset, each with its code; whoever feeds takes them out.
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
        "_now",
        "_part",
        "_preface",
        "_resets",
        "_units",
        "faults",
        "frames",
        "has_more",
    )

    def __init__(self, now: float, max_block: int) -> None:
        self._max_block = max_block
        self._preface = PREFACE_BYTES
        self._part = (
            b""  # not looked at yet: a piece of a frame's beginning, or what is for another turn
        )
        self._left = 0  # bytes of the current frame still to come
        self._is_data = self._is_dropped = self._is_block = False
        self._block_bytes = self._continuations = 0
        self._budget = TokenBucket(IDLE_BURST, IDLE_RATE, now, IDLE_FRAMES_EARNED)
        self._resets = TokenBucket(RESET_BURST, RESET_RATE, now)
        self._now = now
        self._units = 0.0  # of this turn's work
        self.frames = 0
        self.faults: list[tuple[int, int]] = []
        self.has_more = False

    @property
    def is_inside(self) -> bool:
        """Whether a frame, a header block or the preface has begun whose rest has not come."""
        if self._preface or self._is_block or self._part:
            return True
        return self._left > 0 and not self._is_data

    def received(self, size: int) -> None:
        """Allow the client more frames: so many bytes of a body came that somebody wants."""
        self._budget.earn(size / BYTES_PER_IDLE_FRAME)

    def sent(self, size: int, is_whole: bool) -> None:
        """Allow the client more frames: a DATA frame was sent.

        ``is_whole``: it is not the client's window that made it small, so it may well be answered.
        """
        self._budget.earn(size / BYTES_PER_IDLE_FRAME + IDLE_FRAMES_PER_DATA * is_whole)

    def served(self) -> None:
        """Allow the client more frames: a request of it has been answered."""
        self._budget.earn(IDLE_FRAMES_PER_REQUEST)

    def was_reset(self, window: int) -> None:
        """Allow the client more frames: we reset a stream whose body it may have sent so far ahead."""
        self._budget.earn(window / BYTES_IN_FLIGHT_PER_FRAME)

    def spend(self, cost: float) -> None:
        """Charge the client for what turned out to move nothing. Raises Refused."""
        if not self._budget.spend(cost, self._now):
            raise Refused(ENHANCE_YOUR_CALM, "frame_flood")

    def gave_up(self) -> None:
        """Charge the client for a request that was reset before it was answered. Raises Refused."""
        if not self._resets.spend(1, self._now):
            raise Refused(ENHANCE_YOUR_CALM, "reset_flood")

    def feed(self, data: bytes, now: float) -> bytes:
        """What the library is to see of ``data`` and of what is left from before. Raises Refused."""
        if self._part:
            data = self._part + data
            self._part = b""
        self._now = now
        self._units = 0.0
        self.has_more = False
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
            self.has_more = self._units >= UNITS_PER_TURN
            if self.has_more or not _is_enough(data, position, size):
                self._part = data[position:]
                break
            self._begin(data, position)
            if self._is_dropped:
                kept.append(data[start:position])
                start = position + HEADER_BYTES
            position += HEADER_BYTES
        if not kept and not start and position == size:
            return data
        kept.append(data[start:position])
        return b"".join(kept)

    def _begin(self, data: bytes, at: int) -> None:
        """Judge a frame by its beginning (RFC 9113 §4.1)."""
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        if length > MAX_FRAME_BYTES:
            raise Refused(FRAME_SIZE_ERROR, "frame_too_large")
        self._left = length
        self.frames += kind != _CONTINUATION
        self._is_data = kind == _DATA
        self._is_dropped = False
        if kind == _DATA:
            self._units += 1
            is_empty = not length or (flags & _PADDED and length <= _MAX_PADDING)
            if is_empty and not flags & _END_STREAM:
                self.spend(1)
            return
        if kind in (_HEADERS, _CONTINUATION):
            self._units += UNITS_PER_HEADERS + length / 256
            self._measure(kind, length)
            self._is_block = not flags & _END_HEADERS
            return
        if kind == _SETTINGS and flags & _ACK and length:
            raise Refused(FRAME_SIZE_ERROR, "bad_http2")  # RFC 9113 §6.5
        cost = 1 + length / 64  # settings come by the hundred in one frame
        self._units += cost
        self.spend(cost)
        if not self._is_block:  # inside a header block it is an error, for the library to say
            self._is_dropped = self._says_nothing(kind, length, data, at)

    def _says_nothing(self, kind: int, length: int, data: bytes, at: int) -> bool:
        """Whether the library need not see a frame; a fault of its stream is noted.

        Priorities are advice that we do not take (RFC 9113 §5.3.2), unknown frames are ignored (§5.5), ALTSVC
        too (RFC 7838 §4). Of WINDOW_UPDATE and PRIORITY one on a stream may be wrong for that stream only
        (§6.9, §6.3).
        """
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & _STREAM_MASK
        if kind == _WINDOW_UPDATE:
            body = data[at + HEADER_BYTES : at + HEADER_BYTES + _WINDOW_UPDATE_BYTES]
            if not stream or length != _WINDOW_UPDATE_BYTES:
                return False
            if int.from_bytes(body, "big") & _STREAM_MASK:
                return False
            self.faults.append((stream, PROTOCOL_ERROR))
            return True
        if kind == _PRIORITY:
            if stream and length != _PRIORITY_BYTES:
                self.faults.append((stream, FRAME_SIZE_ERROR))
            return bool(stream)
        if kind == _GOAWAY:
            return not stream and length >= 8
        return kind > _CONTINUATION

    def _measure(self, kind: int, length: int) -> None:
        if kind == _HEADERS:
            self._block_bytes = self._continuations = 0
        elif (
            not self._is_block
        ):  # RFC 9113 §6.10; on a stream that was reset the library lets it pass
            raise Refused(PROTOCOL_ERROR, "bad_http2")
        else:
            self._continuations += 1
        self._block_bytes += length
        if self._continuations > MAX_CONTINUATIONS or self._block_bytes > self._max_block:
            raise Refused(ENHANCE_YOUR_CALM, "header_block_too_large")


def _is_enough(data: bytes, at: int, size: int) -> bool:
    """Whether enough of a frame is here to judge it: of a window update all."""
    here = size - at
    if here < HEADER_BYTES:
        return False
    if data[at + 3] != _WINDOW_UPDATE or here >= HEADER_BYTES + _WINDOW_UPDATE_BYTES:
        return True
    return int.from_bytes(data[at : at + 3], "big") != _WINDOW_UPDATE_BYTES
