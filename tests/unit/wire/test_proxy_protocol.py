"""The PROXY protocol's header: read in one way or not at all, written as gunicorn reads it too."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from hypothesis import given
from hypothesis import strategies as st

from app.wire.proxy_protocol import (
    MAX_V2_BYTES,
    BadProxyHeader,
    Ends,
    client_endpoint,
    client_header,
    crc32c,
    endpoint,
    probe_header,
    read_header,
)

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
V1_SIX = b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FOUR = bytes((192, 0, 2, 1, 198, 51, 100, 2)) + b"\xdc\x04\x01\xbb"
SIX = ipaddress.ip_address("2001:db8::1").packed + bytes(16) + b"\xdc\x04\x01\xbb"


def v2(command: int = 0x21, family: int = 0x11, content: bytes = FOUR, length: int = -1) -> bytes:
    """A version 2 header; ``length`` only where it is to be wrong."""
    size = len(content) if length < 0 else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + content


def tlv(kind: int, value: bytes) -> bytes:
    """One value as it follows the addresses."""
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def summed(content: bytes) -> bytes:
    """A version 2 header with a right checksum behind its addresses."""
    bare = v2(content=content + tlv(3, bytes(4)))
    return bare[:-4] + crc32c(bare).to_bytes(4, "big")


GOOD = [
    (V1, "192.0.2.1"),
    (V1_SIX, "2001:db8::1"),
    (b"PROXY TCP6 2001:DB8:0::1 ::2 1 2\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::2 1 2\r\n", "192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 whatever it says\r\n", ""),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ""),
    (v2(), "192.0.2.1"),
    (v2(family=0x21, content=SIX), "2001:db8::1"),
    (v2(content=FOUR + tlv(4, b"") + tlv(0x20, b"x" * 300)), "192.0.2.1"),
    (summed(FOUR), "192.0.2.1"),
    (v2(0x20, 0x00, b""), ""),
    (v2(0x20, 0x11, FOUR), ""),
    (v2(0x20, 0x11, b"skipped"), ""),
    (v2(0x21, 0x00, b""), ""),
    (v2(0x21, 0x31, bytes(216)), ""),
    (v2(content=FOUR + tlv(4, bytes(MAX_V2_BYTES - 31))), "192.0.2.1"),
]


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_good_headers(data: bytes, source: str) -> None:
    """Whole, and in every part: what is behind it is not touched."""
    header = read_header(data)
    assert header is not None
    assert (header.source, header.consumed) == (source, len(data))
    assert (header.ends is None) is (source == "")
    assert read_header(data + b"GET / HTTP/1.1\r\n") == header
    for end in range(len(data)):
        assert read_header(data[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        b"PROXY TCP4 192.0.2.1\t198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY UNKNOWN\rx\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        v2(0x11),
        v2(0x22),
        v2(0x2F),
        v2(family=0x12),
        v2(family=0x10),
        v2(family=0x41),
        v2(family=0x13),
        v2(content=FOUR[:-1]),
        v2(family=0x21, content=FOUR),
        v2(0x21, 0x31, bytes(215)),
        v2(length=MAX_V2_BYTES - 15)[:16],
        v2(length=65535)[:16],
        v2(content=FOUR + b"\x04"),
        v2(content=FOUR + b"\x04\x00"),
        v2(content=FOUR + b"\x04\x00\x01"),
        v2(content=FOUR + tlv(4, b"x") + b"\x04\x01\x00abc"),
        summed(FOUR)[:-1] + b"\x00",
        v2(content=FOUR + tlv(3, b"abc")),
    ],
)
def test_bad_headers(data: bytes) -> None:
    """Refused, and as soon as it is clear."""
    with pytest.raises(BadProxyHeader):
        read_header(data)


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (V1, (("192.0.2.1", 56324), ("198.51.100.2", 443))),
        (V1_SIX, (("2001:db8::1", 0), ("2001:db8::2", 65535))),
        (v2(), (("192.0.2.1", 56324), ("198.51.100.2", 443))),
        (v2(family=0x21, content=SIX), (("2001:db8::1", 56324), ("::", 443))),
    ],
)
def test_both_ends(data: bytes, ends: Ends) -> None:
    """Where the client's connection came from and where it went."""
    header = read_header(data)
    assert header is not None
    assert header.ends == ends


def test_the_checksum_is_castagnoli() -> None:
    """The check value of RFC 3720 appendix B.4 for 32 zeros."""
    assert crc32c(bytes(32)) == 0x8A9136AA


# -- written --------------------------------------------------------------------------------------

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
def test_version_1_as_written(source: Any, target: Any, header: bytes) -> None:
    assert client_header("v1", source, target) == header


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
def test_version_2_as_written(source: Any, target: Any, rest: str) -> None:
    assert client_header("v2", source, target) == SIGNATURE + bytes.fromhex(rest)


def test_a_probe_says_that_it_is_nobody_s() -> None:
    assert probe_header("v2", *V4) == SIGNATURE + bytes.fromhex("20 00 0000")
    assert probe_header("v1", *V4) == client_header("v1", *V4)


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
    header = client_header(version, source, target)
    request = object.__new__(Request)
    request.cfg = Config()
    parse = getattr(request, f"_parse_proxy_protocol_{version}")
    assert bytes(parse(None, bytearray(header + b"GET"))) == b"GET"
    info = request.proxy_protocol_info
    assert client_endpoint(source[0], (info["client_addr"], source[1])) == source
    assert (info["client_port"], info["proxy_port"]) == (source[1], target[1])
