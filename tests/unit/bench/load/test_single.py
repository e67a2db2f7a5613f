"""One exchange, on a connection that is a list of pieces."""

from __future__ import annotations

from typing import Any

import pytest

from bench.load.single import exchange

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


class Connection:
    """Gives what it was given, then is at its end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize(
    "pieces",
    [(HEAD + b"hello",), (HEAD, b"hello"), (HEAD[:9], HEAD[9:], b"he", b"llo")],
    ids=["at once", "body later", "in pieces"],
)
def test_an_answer_is_read_to_its_end(pieces: tuple[bytes, ...]) -> None:
    """Else the connection could not stay idle without a word."""
    client: Any = Connection(*pieces)
    assert exchange(client) == 200
    assert client.pieces == []
    assert client.sent.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")


@pytest.mark.parametrize("pieces", [(), (HEAD[:9],), (HEAD, b"hel")])
def test_an_answer_that_is_cut_off_is_none(pieces: tuple[bytes, ...]) -> None:
    """In its head or in its body."""
    client: Any = Connection(*pieces)
    assert exchange(client) == 0


def test_a_refusal_is_an_answer() -> None:
    """The status is what counts."""
    client: Any = Connection(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    assert exchange(client) == 503
