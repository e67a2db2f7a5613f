"""Whom to believe about the client, and what a backend is told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.forwarded import (
    client_address,
    connection_lines,
    trust_in,
    trusted_lines,
    trusted_request_id,
)
from app.wire.request import RequestHead, read_head

PROXIES = trust_in(("10.0.0.0/8", "2001:db8::/32"))


def head(*lines: bytes) -> RequestHead:
    """A request with these fields."""
    data = b"\r\n".join((b"GET / HTTP/1.1", b"Host: a.example", *lines, b"", b""))
    found = read_head(data)
    assert found is not None
    return found


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::7", "::ffff:10.1.2.3"])
def test_members_of_the_networks_are_trusted(address: str) -> None:
    """Also an IPv4 address that came in IPv6's clothes."""
    assert PROXIES(address)


@pytest.mark.parametrize(
    "address", ["11.0.0.1", "2001:db9::7", "::ffff:11.0.0.1", "", "unix", "10.1.2.3.4"]
)
def test_others_are_not(address: str) -> None:
    """What is no address is nobody."""
    assert not PROXIES(address)


def test_nobody_is_trusted_by_default() -> None:
    """Without trusted_proxies every claim is dropped."""
    assert not trust_in(())("127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded_for", "expected"),
    [
        (None, "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b"203.0.113.9", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (b"198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
        (b"203.0.113.9:4711", "203.0.113.9"),
        (b"[2001:db9::7]:4711,10.0.0.2", "2001:db9::7"),
        (b"[2001:db9::7", "2001:db9::7"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (b",,", "10.0.0.1"),
        (b"203.0.113.9 , <script>", "10.0.0.1"),
    ],
)
def test_the_client_is_found_from_the_right(forwarded_for: bytes | None, expected: str) -> None:
    """The first address that is not a trusted proxy's; what stands left of it counts for nothing."""
    assert client_address(forwarded_for, "10.0.0.1", PROXIES) == expected


def test_an_untrusted_peer_is_the_client() -> None:
    """Whatever it says."""
    assert client_address(b"203.0.113.9", "192.0.2.1", PROXIES) == "192.0.2.1"


@settings(derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_address(forwarded_for: bytes) -> None:
    """What goes into the log is an address, never the client's text."""
    address = client_address(forwarded_for, "10.0.0.1", PROXIES)
    ipaddress.ip_address(address)


def test_lines_for_a_stranger() -> None:
    """The address and the scheme we know; the host follows."""
    assert connection_lines("192.0.2.1", "https") == (
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: "
    )


def test_lines_for_a_trusted_proxy() -> None:
    """What it says is passed on, its own address added."""
    request = head(
        b"X-Forwarded-For: 203.0.113.9",
        b"X-Forwarded-For: 198.51.100.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.example",
        b"Forwarded: for=203.0.113.9",
    )
    assert trusted_lines(request, "10.0.0.1", "http") == (
        b"Forwarded: for=203.0.113.9\r\n"
        b"X-Forwarded-For: 203.0.113.9, 198.51.100.1, 10.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example\r\n"
    )


def test_lines_for_a_trusted_proxy_that_says_nothing() -> None:
    """Then it is the client."""
    assert trusted_lines(head(), "10.0.0.1", "http") == (
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n"
    )


@pytest.mark.parametrize("given", [b"abc-123", b"1:2/3+4=5@6.7_8", b"x" * 128])
def test_a_request_id_that_is_fit(given: bytes) -> None:
    """Printable, without quotes or spaces, at most 128 bytes."""
    assert trusted_request_id(head(b"X-Request-Id: " + given)) == given


@pytest.mark.parametrize("given", [b"", b"a b", b'"a"', b"<a>", b"x" * 129, b"caf\xe9", b"a,b"])
def test_a_request_id_that_is_not(given: bytes) -> None:
    """It would go into logs and other services' headers."""
    assert trusted_request_id(head(b"X-Request-Id: " + given)) is None
