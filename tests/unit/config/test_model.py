"""The configuration as a value, and what its values say of themselves."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from app import config
from app.config import parse


def test_a_configuration_cannot_be_changed() -> None:
    """Config is frozen: whoever wants another builds another."""
    with pytest.raises(FrozenInstanceError):
        parse("{}").port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("health_check", "threshold"), [({"panic_threshold": 40}, 40), ({}, 0), (False, 0)]
)
def test_nobody_panics_without_health_checks(health_check: object, threshold: int) -> None:
    """Nor with them, if not asked to."""
    assert parse(json.dumps({"health_check": health_check})).panic_threshold == threshold


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://example.org", "example.org"),
        ("http://example.org:80/app", "example.org"),
        ("http://example.org:443", "example.org:443"),
        ("https://example.org", "example.org"),
        ("https://example.org:80", "example.org:80"),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:8001/app", "[::1]:8001"),
        ("unix:/run/app.sock", "localhost"),
    ],
)
def test_a_server_s_authority_leaves_the_default_port_out(url: str, authority: str) -> None:
    """RFC 9110 §7.2: Host is what the URL names, and http://a and http://a:80 are one."""
    (server,) = config.parse(json.dumps({"servers": [url]})).servers
    assert server.authority == authority


@pytest.mark.parametrize(
    ("url", "is_name"),
    [
        ("http://app", True),
        ("https://app.internal:8443/x", True),
        ("http://localhost:1", True),
        ("http://1.example", True),
        ("http://192.0.2.1:80", False),
        ("http://[2001:db8::1]", False),
        ("unix:/run/app", False),
    ],
)
def test_a_name_is_what_is_neither_an_address_nor_a_path(url: str, is_name: bool) -> None:
    """A resolver is asked for nothing else."""
    (server,) = parse(json.dumps({"servers": [url]})).servers
    assert server.is_name is is_name
