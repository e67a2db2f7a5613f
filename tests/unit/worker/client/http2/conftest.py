"""HTTP/2 clients that give everything back in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes.http2 import Http2Client, settle

from app.worker.client.http2.stream import Http2Stream
from app.worker.net.deadlines import deadlines


@pytest.fixture(name="make")
def _make() -> Iterator[Callable[..., Http2Client]]:
    clients: list[Http2Client] = []

    def make(handle: Callable[[Http2Stream], None], **options: Any) -> Http2Client:
        clients.append(Http2Client(handle, **options))
        settle()
        return clients[-1]

    yield make
    for client in clients:
        client.leave()
    assert not deadlines._deadlines, "every deadline was given back"
