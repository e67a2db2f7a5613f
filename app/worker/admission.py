"""How many connections each client has at this worker.

Owns the count and what one client is: an IPv4 address, or the /64 of an IPv6 address, which is what one
customer is given (RFC 6177); within it a client has more addresses than there are connections. Counted for
each worker alone: a count that all workers share would outlive a worker that is killed. Pure: values only.
"""

from __future__ import annotations

import ipaddress

_PREFIX_BYTES = 8


class PerClient:
    """Connections by client, at most ``limit`` of each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<PerClient {len(self._counts)} clients, {sum(self._counts.values())} connections>"

    def enter(self, client: bytes) -> bool:
        """Count one more connection; False, uncounted, if the client has as many as it may."""
        count = self._counts.get(client, 0)
        if count >= self._limit:
            return False
        self._counts[client] = count + 1
        return True

    def leave(self, client: bytes) -> None:
        """One of the client's connections has ended."""
        count = self._counts[client] - 1
        if count:
            self._counts[client] = count
        else:
            del self._counts[client]


def client_of(address: str) -> bytes:
    """Who an address belongs to."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address.encode()  # a Unix socket's: whoever may open it
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed.packed[:_PREFIX_BYTES]
        parsed = parsed.ipv4_mapped
    return parsed.packed
