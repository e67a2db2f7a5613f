"""app.wire.proxy_protocol: the header of the PROXY protocol, read in one way or not at all."""

from __future__ import annotations

import ipaddress

import pytest

from app.wire.proxy_protocol import (
    MAX_V2_BYTES,
    BadProxyHeader,
    Ends,
    crc32c,
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
