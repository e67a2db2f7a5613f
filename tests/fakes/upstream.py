"""Connections to a backend whose other end is a script, and requests that go over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from app.worker.net.deadlines import NEVER, Deadline
from app.worker.upstream.connections import Connection, ConnectionCache
from app.worker.upstream.request import UpstreamRequest
from fakes.stream import ScriptedStream, Turn


def connection(cache: ConnectionCache, *script: Turn, **how: Any) -> Connection:
    """A connection of the cache's that is in use."""
    return Connection(cast("Any", ScriptedStream(script, **how)), cache)


def stream(of: Connection) -> ScriptedStream:
    """The script behind a connection."""
    assert isinstance(of.stream, ScriptedStream)
    return of.stream


def request_to(
    cache: ConnectionCache, method: bytes = b"GET", read_timeout: float = NEVER
) -> UpstreamRequest:
    """A request without a body, with a deadline of its own."""
    head = method + b" / HTTP/1.1\r\n\r\n"
    return UpstreamRequest(method, head, b"", cache, Deadline(), NEVER, read_timeout)


def with_body(request: UpstreamRequest, pieces: Iterable[bytes | Exception]) -> UpstreamRequest:
    """Have the rest of its body come in these pieces; an exception is raised in its place."""
    left = iter([*pieces, b""])

    def read(_: Deadline) -> bytes:
        piece = next(left)
        if isinstance(piece, Exception):
            raise piece
        return piece

    request.read_body = read
    return request
