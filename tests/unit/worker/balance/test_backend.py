"""A server as a worker sees it."""

from __future__ import annotations

import json

import pytest

from app import config
from app.worker.balance.backend import Backend


@pytest.mark.parametrize(
    ("url", "host", "prefix"),
    [
        ("http://example.org/app", b"example.org", b"/app"),
        ("https://example.org:8443", b"example.org:8443", b""),
        ("unix:/run/app.sock", b"localhost", b""),
    ],
)
def test_the_host_of_requests_without_one_is_that_of_checks(
    url: str, host: bytes, prefix: bytes
) -> None:
    """The server's authority: HTTP/1.0 has requests without a Host (RFC 9112 §3.2)."""
    (server,) = config.parse(json.dumps({"servers": [url]})).servers
    backend = Backend(server, 0, None, None)
    assert (backend.authority, backend.prefix) == (host, prefix)
    assert backend.authority == server.authority.encode()
