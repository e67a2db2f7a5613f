"""The client's side of one request, as the proxy sees it.

A protocol without code: app.worker.client.http1's connection, app.worker.client.http2's stream and
app.worker.client.wsgi's environ each are one. Runs nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from app.errors import ProxyError
from app.wire.request import RequestHead
from app.wire.response import ResponseHead
from app.worker.net.deadlines import Deadline
from app.worker.net.splice import SpliceBody, SpliceTo
from app.worker.net.tls_stream import AnyStream
from app.worker.upstream.request import ReadBody


class Exchange(Protocol):
    """The client's side of one request.

    ``body`` is what of the request body is already here (decoded), ``read_body`` gives the rest, None if
    there is none. ``start`` sends the response head, ``first`` with it; ``write`` and ``finish`` the rest;
    ``abort`` ends the connection so that a cut response never looks whole. ``switch`` sends a 101 and gives
    the stream for a tunnel, with the bytes that came behind the request. They raise ClientGone.
    ``resumes_body``: a ``read_body`` that is cut short loses nothing.
    ``failure`` is what is wrong with the part of the body that is here. ``bytes_in`` and ``bytes_out`` count
    body bytes. ``forwarded`` are the connection's prebuilt lines.
    """

    head: RequestHead
    peer: str
    scheme: str
    is_trusted: bool
    forwarded: bytes
    deadline: Deadline
    body: bytes
    read_body: ReadBody | None
    resumes_body: bool
    splice_body: SpliceBody | None
    failure: ProxyError | None
    bytes_in: int
    bytes_out: int

    @property
    def is_begun(self) -> bool:
        """Whether the head of a final response has been sent."""

    def addresses(self) -> tuple[object, object]:
        """Where the client's connection comes from and where it ends, as its socket has them."""

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        """Send the head and the first piece of the body."""

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""

    def splice(self, splice_to: SpliceTo) -> bool:
        """Have the body moved past us, where the client's side is made for it; False if not."""

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """End the body."""

    def interim(self, head: ResponseHead) -> None:
        """Send an interim (1xx) response."""

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a response of our own."""

    def switch(self, head: ResponseHead) -> tuple[AnyStream, bytes]:
        """Send the 101 and give the connection away."""

    def abort(self) -> None:
        """Cut the connection."""

    def request_trailers(self) -> list[tuple[bytes, bytes]]:
        """Trailer fields of the request body, known after its end."""
