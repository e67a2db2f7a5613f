"""What a backend is told about the client, and whom to believe about it.

Owns X-Forwarded-For/-Proto/-Host, X-Request-Id and Via towards a backend, and finding the client's
address behind trusted proxies. A claim that does not come from a trusted proxy is dropped.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from app.wire.request import RequestHead

# RFC 9110 §7.6.3: received-protocol and a pseudonym, so that no internal name leaves.
VIA = {0: b"Via: 1.0 load-balancer\r\n", 1: b"Via: 1.1 load-balancer\r\n"}
# An id goes into logs and headers of others: printable, no quotes, bounded.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def trust_in(cidrs: tuple[str, ...]) -> Callable[[str], bool]:
    """A test for whether an address belongs to a trusted proxy."""
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    if not networks:
        return _nobody

    def is_trusted(address: str) -> bool:
        try:
            parsed: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in networks)

    return is_trusted


def _nobody(_address: str) -> bool:
    return False


def client_address(
    forwarded_for: bytes | None, peer: str, is_trusted: Callable[[str], bool]
) -> str:
    """The client's address: from the right, the first that is not a trusted proxy's.

    Everything to the left of it was written by somebody nobody vouches for.
    """
    address = peer
    for entry in reversed((forwarded_for or b"").decode("latin-1").split(",")):
        if not is_trusted(address):
            break
        candidate = _bare_address(entry.strip(" \t"))
        if candidate is None:
            break
        address = candidate
    return address


def _bare_address(text: str) -> str | None:
    """An address without brackets, port and zone, None if it is not one."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def connection_lines(peer: str, scheme: str) -> bytes:
    """The lines that are the same for every request of an untrusted client's connection, ending in
    ``X-Forwarded-Host: `` for the request's host to follow."""
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: " % (
        peer.encode("ascii", "replace"),
        scheme.encode(),
    )


def trusted_lines(head: RequestHead, peer: str, scheme: str) -> bytes:
    """The same for a request from a trusted proxy: what it says is kept and its address added."""
    addresses = peer.encode("ascii", "replace")
    if head.forwarded_for:
        addresses = head.forwarded_for + b", " + addresses
    forwarded = b"Forwarded: %b\r\n" % head.forwarded if head.forwarded else b""
    via = b"Via: %b\r\n" % head.via if head.via else b""  # ours follows as a field of its own
    return b"%b%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (
        via,
        forwarded,
        addresses,
        head.forwarded_proto or scheme.encode(),
        head.forwarded_host or head.host,
    )


def is_https(head: RequestHead, scheme: str, is_trusted: bool) -> bool:
    """Whether the client itself speaks https: of several proxies the first said what it saw."""
    if is_trusted and head.forwarded_proto:
        return head.forwarded_proto.partition(b",")[0].strip(b" \t").lower() == b"https"
    return scheme == "https"


def trusted_request_id(head: RequestHead) -> bytes | None:
    """The request id that a trusted proxy gave, if it is fit to be passed on."""
    given = head.request_id
    return given if given and _REQUEST_ID.fullmatch(given) else None
