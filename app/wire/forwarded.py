"""What a backend is told about the client, and whom to believe about it.

Owns X-Forwarded-*, Forwarded (RFC 7239) and X-Request-Id towards a backend, and (Trust) finding the client
behind trusted proxies. A claim that does not come from a trusted proxy is dropped; of a trusted one, the
field that the configuration names is believed, the other where that one is missing. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from app.wire import forwarded_syntax
from app.wire.fields import TOKEN
from app.wire.forwarded_syntax import Element
from app.wire.request import RequestHead
from app.wire.via import PSEUDONYM

# What ``forwarded`` in the configuration can say.
X_FORWARDED, FORWARDED, BOTH = "x-forwarded", "forwarded", "both"
# More proxies in a row than anybody has; a client can claim any number.
_MOST_PROXIES = 64
# IPv6 with an IPv4 part is 45 characters long, with brackets, a port and a zone rarely more than this.
_LONGEST_ADDRESS = 100

IsTrusted = Callable[[str], bool]
FindClient = Callable[[RequestHead, str], str]
Lines = Callable[[RequestHead, str, str, bool], bytes]

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


class Trust:
    """Who is believed about a client under one configuration, and so who the client is.

    The access line, what a backend is told, and the key that a policy hashes: all have it from here.
    ``is_trusted(address)``: whether the address is that of a trusted proxy. ``mode`` is the configuration's
    ``forwarded``: which field of a trusted proxy is believed, and which is written.
    """

    __slots__ = ("is_trusted", "mode")

    def __init__(self, proxies: tuple[str, ...], mode: str) -> None:
        """``proxies`` are networks in CIDR notation."""
        self.is_trusted: Final = trust_in(proxies)
        self.mode: Final = mode

    def client_of(self, head: RequestHead, peer: str) -> str:
        """The address of the client that sent this head through ``peer``, which must be a trusted proxy."""
        return _origin(head, peer, self.is_trusted, self.mode)[0]

    def __repr__(self) -> str:
        return f"<Trust in {self.mode}>"


def client_address(forwarded_for: bytes | None, peer: str, is_trusted: IsTrusted) -> str:
    """The client's address: from the right, the first that is not a trusted proxy's.

    Everything to the left of it was written by somebody nobody vouches for. It is the peer's own where there
    are more proxies than anybody has.
    """
    address = peer
    entries = _latest(forwarded_for or b"").decode("latin-1").split(",")
    for entry in reversed(entries):
        if not is_trusted(address):
            break
        candidate = _bare_address(entry.strip(" \t"))
        if candidate is None:
            break
        address = candidate
    else:
        if len(entries) == _MOST_PROXIES and is_trusted(address):
            return peer
    return address


def _origin(
    head: RequestHead, peer: str, is_trusted: IsTrusted, mode: str
) -> tuple[str, Element | None]:
    """The client's address, and the element of Forwarded that tells of it if that was believed."""
    if head.forwarded is None or (mode != FORWARDED and head.forwarded_for is not None):
        return client_address(head.forwarded_for, peer, is_trusted), None
    address, rest, said = peer, head.forwarded, None
    for _ in range(_MOST_PROXIES):
        found = forwarded_syntax.last(rest) if is_trusted(address) else None
        if found is None or found[0].address is None:
            break
        said, rest = found
        assert said.address is not None
        address = said.address
    else:
        return peer, None
    return address, said


def _latest(forwarded_for: bytes) -> bytes:
    """The elements of an X-Forwarded-For that are read and passed on: the right-most _MOST_PROXIES.

    Of 16,000 in a head each would be looked up among the trusted proxies, 10 µs for each.
    """
    if forwarded_for.count(b",") < _MOST_PROXIES:
        return forwarded_for
    return b",".join(forwarded_for.rsplit(b",", _MOST_PROXIES)[1:]).lstrip(b" \t")


def _bare_address(text: str) -> str | None:
    """An address without brackets, port and zone, None if it is not one."""
    if len(text) > _LONGEST_ADDRESS:
        return None
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


def lines_writer(trust: Trust) -> Lines:
    """The function that writes the lines for a request, in every case but that of connection_lines.

    It takes the head, the peer's address, the scheme, and whether the peer is trusted.
    """
    is_trusted, mode = trust.is_trusted, trust.mode

    def lines(head: RequestHead, peer: str, scheme: str, believed: bool) -> bytes:
        written = b"".join(head.claims) if believed else b""
        if mode != X_FORWARDED:
            before = _forwarded_before(head, mode) if believed else b""
            own = forwarded_syntax.written(peer, scheme, head.host, PSEUDONYM)
            written += b"Forwarded: %b%b\r\n" % (before, own)
        elif believed and head.forwarded:
            written += b"Forwarded: %b\r\n" % forwarded_syntax.latest(head.forwarded, _MOST_PROXIES)
        if mode == FORWARDED:
            return written
        if believed:
            is_only_one = head.forwarded is not None and head.forwarded_for is None
            element = _origin(head, peer, is_trusted, mode)[1] if is_only_one else None
            return written + _x_lines(head, peer, scheme, element)
        return written + connection_lines(peer, scheme) + head.host + b"\r\n"

    return lines


def _x_lines(head: RequestHead, peer: str, scheme: str, said: Element | None) -> bytes:
    """X-Forwarded-* of a trusted proxy: what it says is kept and its address added."""
    addresses = peer.encode("ascii", "replace")
    proto, host = head.forwarded_proto, head.forwarded_host
    if head.forwarded_for:
        addresses = _latest(head.forwarded_for) + b", " + addresses
    elif said is not None:  # RFC 7239 §7.4: the one can be made from the other
        assert said.address is not None
        addresses = said.address.encode() + b", " + addresses
        proto, host = proto or said.proto, host or said.host
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n%b" % (
        addresses,
        proto or scheme.encode(),
        host or head.host,
        b"".join(head.forwarded_others),
    )


def _forwarded_before(head: RequestHead, mode: str) -> bytes:
    """What a trusted proxy has said already, as the beginning of a Forwarded."""
    if head.forwarded and (mode == FORWARDED or not head.forwarded_for):
        if forwarded_syntax.last(head.forwarded) is None:
            return b""
        return forwarded_syntax.latest(head.forwarded, _MOST_PROXIES) + b", "
    if not head.forwarded_for:
        return b""
    known = []
    for entry in _latest(head.forwarded_for).decode("latin-1").split(","):
        address = _bare_address(entry.strip(" \t"))
        known.append(b"for=" + forwarded_syntax.node(address or ""))
    proto = head.forwarded_proto
    if proto and TOKEN.fullmatch(proto):
        known[0] += b";proto=" + proto
    return b", ".join(known) + b", "


def is_https(head: RequestHead, scheme: str, is_trusted: bool) -> bool:
    """Whether the client itself speaks https: of several proxies the first said what it saw."""
    if is_trusted and head.forwarded_proto:
        return head.forwarded_proto.partition(b",")[0].strip(b" \t").lower() == b"https"
    if (
        is_trusted
        and head.forwarded
        and (found := forwarded_syntax.last(head.forwarded)) is not None
    ):
        scheme = (found[0].proto or scheme.encode()).decode("latin-1").lower()
    return scheme == "https"


def trusted_request_id(head: RequestHead) -> bytes | None:
    """The request id that a trusted proxy gave, if it is fit to be passed on."""
    given = head.request_id
    return given if given and _REQUEST_ID.fullmatch(given) else None
