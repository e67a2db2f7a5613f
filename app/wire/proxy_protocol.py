"""The header of the PROXY protocol, versions 1 and 2: who connected to the proxy in front.

Owns what such a header looks like (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt): read in one
way or not at all, where a proxy stands before us; written, where a connection to a backend begins. Pure:
bytes in, a Header out, and addresses in, bytes out. Whose header is believed is decided elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

MAX_V1_BYTES = 107  # §2.1, its CRLF included
# §2.2 allows 65,535 behind the first 16. Addresses take up to 216 (Unix sockets), and what proxies add to
# them (authority, certificate names, a cloud's ids) a few hundred; HAProxy takes what fits its 16 KiB buffer.
MAX_V2_BYTES = 4096

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21  # version 2, command
_ADDRESS_BYTES = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}  # by family: unspecified, IPv4, IPv6, Unix
_STREAM = 0x1
# Written as one byte, family and transport. Clients of a Unix socket have the unspecified one: AF_UNIX says
# nothing more, and gunicorn refuses it.
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_CRC32C = 0x03  # type of the TLV that has a checksum of the whole header
# One space between parts, no sign, no leading zero.
_V1_LINE = re.compile(
    rb"PROXY TCP(?:4 ([0-9.]{7,15}) ([0-9.]{7,15})|6 ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}))"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)


Endpoint = tuple[str, int]  # address, "" where it is unknown; port
Ends = tuple[Endpoint, Endpoint]
_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadProxyHeader(ValueError):
    """Not a header of the PROXY protocol, or one that could be read in two ways."""


@dataclass(frozen=True, slots=True)
class Header:
    """``source`` is the client's address, "" where the proxy speaks for itself or does not know it.

    ``ends`` are both of the client's connection to the proxy, address and port each, None without a source.
    ``consumed`` is the header's length.
    """

    source: str
    consumed: int
    ends: Ends | None = None


def read_header(data: bytes) -> Header | None:
    """Read the header at the start of ``data``; None while it is incomplete. Raises BadProxyHeader."""
    if data[: len(_V2)] == _V2[: len(data)]:
        return _read_v2(data)
    if data[: len(_V1)] == _V1[: len(data)]:
        return _read_v1(data)
    raise BadProxyHeader("no header of the PROXY protocol")


def client_header(version: str, source: Endpoint, target: Endpoint) -> bytes:
    """The header for a client at ``source`` that connected to ``target``; "" for an address nobody knows."""
    here, there = _parsed(source[0]), _parsed(target[0])
    if here is None or there is None:
        return b"PROXY UNKNOWN\r\n" if version == "v1" else _binary(_PROXY, _UNSPECIFIED, b"")
    if here.version != there.version:
        # One header has one family: IPv4 can be written as IPv6 (RFC 4291 §2.5.5.2).
        here, there = _as_ipv6(here), _as_ipv6(there)
    if version == "v1":
        text = f"PROXY TCP{here.version} {here} {there} {source[1]} {target[1]}\r\n"
        return text.encode("ascii")
    family = _TCP4 if here.version == 4 else _TCP6
    ports = struct.pack("!HH", source[1], target[1])
    return _binary(_PROXY, family, here.packed + there.packed + ports)


def probe_header(version: str, source: Endpoint, target: Endpoint) -> bytes:
    """The header for a connection of our own from ``source`` to ``target``."""
    if version == "v2":
        return _binary(_LOCAL, _UNSPECIFIED, b"")
    # Version 1 has no word for it; UNKNOWN is refused by some readers (gunicorn).
    return client_header(version, source, target)


def client_endpoint(address: str, peer: object) -> Endpoint:
    """The client's endpoint: with the port of the socket's ``peer`` where that is the client itself."""
    if isinstance(peer, tuple) and _parsed(str(peer[0])) == _parsed(address):
        return address, int(peer[1])
    return address, 0


def endpoint(name: object) -> Endpoint:
    """What getsockname() said, as an endpoint; a Unix socket's has no address."""
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return "", 0


def _read_v1(data: bytes) -> Header | None:
    end = data.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise BadProxyHeader("version 1: no end within 107 bytes")
        return None
    line = data[: end + 1]
    # §2.1: whatever follows UNKNOWN on its line is ignored.
    if re.fullmatch(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n", line):
        return Header("", len(line))
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise BadProxyHeader("version 1: malformed")
    is_four = match[1] is not None
    source, destination = match.group(1, 2) if is_four else match.group(3, 4)
    ends = (
        (_address(source, is_four), int(match[5])),
        (_address(destination, is_four), int(match[6])),
    )
    if ends[0][1] > 65535 or ends[1][1] > 65535:
        raise BadProxyHeader("version 1: port over 65535")
    return Header(ends[0][0], len(line), ends)


def _address(text: bytes, is_four: bool) -> str:
    family = ipaddress.IPv4Address if is_four else ipaddress.IPv6Address
    try:
        return _written(family(text.decode()))
    except ValueError:
        raise BadProxyHeader("version 1: malformed address") from None


def _written(address: _IpAddress) -> str:
    """An address as it is always written here; an IPv4 address that came in an IPv6 one as IPv4."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _read_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED:
        return None
    command, family, transport = data[12], data[13] >> 4, data[13] & 0xF
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("version 2: unknown version or command")
    length = int.from_bytes(data[14:16], "big")
    end = _V2_FIXED + length
    if end > MAX_V2_BYTES:
        raise BadProxyHeader(f"version 2: longer than {MAX_V2_BYTES} bytes")
    if family not in _ADDRESS_BYTES or transport > 2:
        raise BadProxyHeader("version 2: unknown family or transport")
    # §2.2: of a LOCAL header nothing but its length counts.
    addresses = _ADDRESS_BYTES[family] if command == _PROXY else 0
    if addresses > length:
        raise BadProxyHeader("version 2: shorter than its addresses")
    is_known = command == _PROXY and family in (0x1, 0x2)
    if is_known and transport != _STREAM:
        raise BadProxyHeader("version 2: a transport that is not TCP")
    if len(data) < end:
        return None
    if command == _PROXY:
        _check_tlvs(data, _V2_FIXED + addresses, end)
    if not is_known:
        return Header("", end)
    size = 4 if family == 0x1 else 16
    source, destination = (
        _written(ipaddress.ip_address(data[at : at + size])) for at in (16, 16 + size)
    )
    at = 16 + 2 * size
    ports = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
    return Header(source, end, ((source, ports[0]), (destination, ports[1])))


def _check_tlvs(data: bytes, at: int, end: int) -> None:
    """Refuse values that run past the header, and a checksum that does not fit."""
    while at < end:
        if at + 3 > end:
            raise BadProxyHeader("version 2: cut off in a value")
        start, size = at + 3, int.from_bytes(data[at + 1 : at + 3], "big")
        if start + size > end:
            raise BadProxyHeader("version 2: a value runs past the header")
        if data[at] == _CRC32C:
            if size != 4:
                raise BadProxyHeader("version 2: malformed checksum")
            zeroed = data[:start] + bytes(4) + data[start + 4 : end]
            if crc32c(zeroed) != int.from_bytes(data[start : start + 4], "big"):
                raise BadProxyHeader("version 2: wrong checksum")
        at = start + size


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 appendix B.4, which zlib does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _binary(command: int, family: int, addresses: bytes) -> bytes:
    return _V2 + struct.pack("!BBH", command, family, len(addresses)) + addresses


def _parsed(text: str) -> _IpAddress | None:
    try:
        parsed: _IpAddress = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _as_ipv6(address: _IpAddress) -> _IpAddress:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
