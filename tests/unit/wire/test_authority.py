"""A host and a port in one text."""

from __future__ import annotations

import pytest

from app.wire.authority import bracketed, host_and_port


@pytest.mark.parametrize(
    ("host", "written"),
    [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("lb.example", "lb.example")],
)
def test_ipv6_addresses_are_in_brackets(host: str, written: str) -> None:
    assert bracketed(host) == written
    assert host_and_port(host, 8080) == f"{written}:8080"
