"""Reads the heads of responses that break a rule which the configuration forgives.

Owns the two faults of old servers that have one likely meaning: lines that end in a bare LF (RFC 9112 §2.2)
and folded fields (§5.2). A head is read as it came first; only one that is refused is mended and read
again, and what cannot be read in one way then is refused for good. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from app.errors import BadResponse
from app.wire.response import MAX_HEAD_BYTES, ResponseHead, read_head

BARE_LF, OBS_FOLD = FAULTS = ("bare_lf", "obs_fold")

ReadHead = Callable[[bytes, bytes, int], "ResponseHead | None"]

_END = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")


def reader(forgiven: Collection[str]) -> ReadHead:
    """A reader like app.wire.response.read_head that mends the ``forgiven`` faults and refuses the others."""
    if not forgiven:
        return read_head

    def read_mended(data: bytes, method: bytes, last_length: int = 0) -> ResponseHead | None:
        try:
            return read_head(data, method, last_length)
        except BadResponse:
            end = _END.search(data, 0, MAX_HEAD_BYTES)
            if end is None and len(data) > MAX_HEAD_BYTES:
                raise
            size = len(data) if end is None else end.end()
            head = read_head(_mended(data[:size], forgiven), method)
            if head is not None:
                head.consumed = size
            return head

    return read_mended


def _mended(head: bytes, forgiven: Collection[str]) -> bytes:
    if BARE_LF in forgiven:
        head = _BARE_LF.sub(b"\r\n", head)
    if OBS_FOLD in forgiven:
        # Not at the first field: a fold of the status line is none (§2.2).
        start, line_end, lines = head.partition(b"\r\n")
        head = start + line_end + _FOLD.sub(b" ", lines)
    return head
