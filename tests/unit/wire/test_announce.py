"""The PROXY protocol's header, against the specification's own words and gunicorn's reader."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from hypothesis import given
from hypothesis import strategies as st

from app.wire.announce import client_endpoint, endpoint, of_client, of_probe

SIGNATURE = bytes.fromhex("0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A")
V4 = ("192.0.2.1", 56324), ("198.51.100.7", 443)
V6 = ("2001:db8::1", 56324), ("2001:db8::2", 443)


@pytest.mark.parametrize(
    ("source", "target", "header"),
    [
        (*V4, b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"),
        (*V6, b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"),
        (("::ffff:192.0.2.1", 1), V4[1], b"PROXY TCP4 192.0.2.1 198.51.100.7 1 443\r\n"),
        (("fe80::1%eth0", 1), V6[1], b"PROXY TCP6 fe80::1 2001:db8::2 1 443\r\n"),
        (("", 0), V4[1], b"PROXY UNKNOWN\r\n"),
        (V4[0], ("", 0), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(source: Any, target: Any, header: bytes) -> None:
    assert of_client("v1", source, target) == header


@pytest.mark.parametrize(
    ("source", "target", "rest"),
    [
        (*V4, "21 11 000C C0000201 C6336407 DC04 01BB"),
        (
            *V6,
            "21 21 0024 20010DB8000000000000000000000001 20010DB8000000000000000000000002 DC04 01BB",
        ),
        # One family in one header: IPv4 as IPv6.
        (
            V6[0],
            V4[1],
            "21 21 0024 20010DB8000000000000000000000001 00000000000000000000FFFFC6336407 DC04 01BB",
        ),
        (("", 0), V4[1], "21 00 0000"),
    ],
)
def test_version_2(source: Any, target: Any, rest: str) -> None:
    assert of_client("v2", source, target) == SIGNATURE + bytes.fromhex(rest)


def test_a_probe_says_that_it_is_nobody_s() -> None:
    assert of_probe("v2", *V4) == SIGNATURE + bytes.fromhex("20 00 0000")
    assert of_probe("v1", *V4) == of_client("v1", *V4)


@pytest.mark.parametrize(
    ("address", "peer", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 7), ("192.0.2.1", 7)),
        ("192.0.2.1", ("::ffff:192.0.2.1", 7, 0, 0), ("192.0.2.1", 7)),
        ("192.0.2.1", ("10.0.0.1", 7), ("192.0.2.1", 0)),
        ("192.0.2.1", None, ("192.0.2.1", 0)),
        ("", "", ("", 0)),
    ],
)
def test_a_port_belongs_to_the_address_of_its_socket(
    address: str, peer: object, expected: tuple[str, int]
) -> None:
    """What a proxy in front says of the client names no port; its own is not the client's."""
    assert client_endpoint(address, peer) == expected


def test_a_unix_socket_has_no_address() -> None:
    assert endpoint("/run/lb.sock") == endpoint(b"") == ("", 0)
    assert endpoint(("::1", 80, 0, 0)) == ("::1", 80)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
endpoints = st.tuples(addresses, st.integers(0, 65535))


@given(version=st.sampled_from(["v1", "v2"]), source=endpoints, target=endpoints)
def test_gunicorn_reads_what_was_written(
    version: str, source: tuple[str, int], target: tuple[str, int]
) -> None:
    """Every header is one that its commonest reader takes, with the same meaning and nothing left over."""
    header = of_client(version, source, target)
    request = object.__new__(Request)
    request.cfg = Config()
    parse = getattr(request, f"_parse_proxy_protocol_{version}")
    assert bytes(parse(None, bytearray(header + b"GET"))) == b"GET"
    info = request.proxy_protocol_info
    assert client_endpoint(source[0], (info["client_addr"], source[1])) == source
    assert (info["client_port"], info["proxy_port"]) == (source[1], target[1])
