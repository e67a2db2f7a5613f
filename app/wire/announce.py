"""The header of the PROXY protocol with which a connection to a backend begins.

Owns versions 1 and 2 as they are written (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt): who
the client is and where it connected to, for one connection. Pure: addresses in, bytes out.
"""

from __future__ import annotations

import ipaddress
import struct

Endpoint = tuple[str, int]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# Not AF_UNIX for clients of a Unix socket: it says nothing more, and gunicorn refuses it.
_UNSPECIFIED = 0x00


def of_client(version: str, source: Endpoint, target: Endpoint) -> bytes:
    """The header for a client at ``source`` that connected to ``target``, either of them without an address
    where it is unknown."""
    here, there = _address(source[0]), _address(target[0])
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


def of_probe(version: str, source: Endpoint, target: Endpoint) -> bytes:
    """The header for a connection of our own from ``source`` to ``target``."""
    if version == "v2":
        return _binary(_LOCAL, _UNSPECIFIED, b"")
    # Version 1 has no word for it; UNKNOWN is refused by some readers (gunicorn).
    return of_client(version, source, target)


def client_endpoint(address: str, peer: object) -> Endpoint:
    """The client's endpoint: with the port of the socket's ``peer`` where that is the client itself."""
    if isinstance(peer, tuple) and _address(str(peer[0])) == _address(address):
        return address, int(peer[1])
    return address, 0


def endpoint(name: object) -> Endpoint:
    """What getsockname() said, as an endpoint; a Unix socket's has no address."""
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return "", 0


def _binary(command: int, family: int, addresses: bytes) -> bytes:
    return _SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


def _address(text: str) -> _Address | None:
    try:
        parsed: _Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _as_ipv6(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
