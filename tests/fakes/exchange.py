"""The client's side of one request without a connection: what the client sends, and what it gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.errors import ProxyError
from app.wire.request import RequestHead, read_head
from app.wire.response import ResponseHead
from app.worker.net.deadlines import Deadline


class ClientSide:
    """An app.worker.proxy.exchange.Exchange; ``got`` is what the client was sent: statuses, pieces, "cut"."""

    scheme = "http"
    forwarded = b""
    resumes_body = True
    read_body: Any = None
    splice_body: Any = None
    failure: ProxyError | None = None

    def __init__(
        self,
        request: bytes,
        *,
        body: bytes = b"",
        peer: str = "127.0.0.1",
        is_trusted: bool = False,
    ) -> None:
        head = read_head(request)
        assert head is not None
        self.head: RequestHead = head
        self.peer = peer
        self.is_trusted = is_trusted
        self.deadline = Deadline()
        self.body = body
        self.bytes_in, self.bytes_out = len(body), 0
        self.is_begun = False
        self.got: list[int | bytes | str] = []
        self.lines: list[bytes] = []  # of the response's head
        self.own: tuple[dict[str, str], bytes] = {}, b""  # fields and body of an answer of our own
        self.interims: list[int] = []

    def addresses(self) -> tuple[object, object]:
        return (self.peer, 40000), ("127.0.0.1", 8080)

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        self.got.append(head.status)
        self.lines = head.lines
        self.is_begun = True
        if first:
            self.write(first)

    def write(self, piece: bytes) -> None:
        self.bytes_out += len(piece)
        self.got.append(piece)

    def splice(self, splice_to: Any) -> bool:
        return False

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        pass

    def interim(self, head: ResponseHead) -> None:
        self.interims.append(head.status)

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        self.got.append(status)
        self.own = dict(lines), body
        self.is_begun = True

    def switch(self, head: ResponseHead) -> tuple[Any, bytes]:
        raise NotImplementedError

    def abort(self) -> None:
        self.got.append("cut")

    def request_trailers(self) -> list[tuple[bytes, bytes]]:
        return []
