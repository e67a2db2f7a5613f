"""Long deterministic byte streams and their checksums, made piece by piece.

Each block differs from every other, so a lost, doubled or swapped piece changes the checksum.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cache

KIB = 1024
MIB = 1024 * KIB
BLOCK = 64 * KIB

_FILLER = random.Random(20).randbytes(BLOCK - 8)


def blocks(size: int) -> Iterator[bytes]:
    """``size`` bytes in blocks of 64 KiB, the last one shorter."""
    for number in range(size // BLOCK):
        yield number.to_bytes(8, "big") + _FILLER
    if size % BLOCK:
        yield ((size // BLOCK).to_bytes(8, "big") + _FILLER)[: size % BLOCK]


@cache
def checksum(size: int) -> str:
    """The SHA-256 of the stream of that size, in hex."""
    digest = hashlib.sha256()
    for block in blocks(size):
        digest.update(block)
    return digest.hexdigest()
