"""Connections without a network."""

from __future__ import annotations


class Pieces:
    """A connection that delivers these pieces, and then its end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.read = 0

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        self.read += len(piece)
        return piece
