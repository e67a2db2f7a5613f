"""The last outcomes of requests at one backend in one worker, as one integer.

Workers write it (one cell of the table, one bit an outcome), the control process reads it. It belongs to a
stamp, the moment of the last change of what the backend is trusted with: outcomes from before say nothing
about what comes after. Pure: integers in, integers out.
"""

from __future__ import annotations

WINDOW = 20
_STAMP = 0xFFFF_FFFF
_FULL = 1 << WINDOW


def add(cell: int, stamp: int, is_bad: bool) -> int:
    """The cell with one more outcome; beyond WINDOW the oldest goes. Of another stamp, it begins anew."""
    bits = _bits(cell, stamp) << 1 | is_bad
    if bits >= _FULL << 1:
        bits = bits & (_FULL - 1) | _FULL
    return (stamp & _STAMP) << 32 | bits


def count(cell: int, stamp: int) -> tuple[int, int]:
    """How many outcomes the cell holds, and how many of them are bad; none if it is of another stamp."""
    bits = _bits(cell, stamp)
    return bits.bit_length() - 1, bits.bit_count() - 1


def _bits(cell: int, stamp: int) -> int:
    """The outcomes behind a leading 1."""
    return (cell & _STAMP) or 1 if cell >> 32 == stamp & _STAMP else 1
