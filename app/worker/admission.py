"""Which connections a worker has, and whether it takes one more.

Owns the one count: each accepted socket has a Place from its accept to its close, whatever becomes of it
(arriving, served, parked, handed over to gunicorn). ``limits.connections`` and
``limits.connections_per_client`` are held here, other workers are told the number, and a drain waits until it
is zero. One client is an IPv4 address, or the /64 of an IPv6 address, which is what one customer is given
(RFC 6177); within it a client has more addresses than there are connections. Counted for each worker alone: a
count that all workers share would outlive a worker that is killed. Runs in workers. Knows no socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.errors import NoBackend, ProxyError, TooManyConnections

if TYPE_CHECKING:
    from app.worker.client.contract import OpenConnection

_PREFIX_BYTES = 8


class Admission:
    """The sockets of one worker. 0 is no limit; ``is_trusted`` says whose connections are many clients'."""

    def __init__(
        self,
        limit: int = 0,
        limit_per_client: int = 0,
        is_trusted: Callable[[str], bool] | None = None,
    ) -> None:
        self._limit = limit
        self._per_client = PerClient(limit_per_client) if limit_per_client else None
        self._is_trusted = is_trusted
        self._places: set[Place] = set()

    def __repr__(self) -> str:
        arriving = sum(place.is_arriving for place in self._places)
        return f"<Admission {self.count} connections, {arriving} arriving, {len(self.running())} running>"

    @property
    def count(self) -> int:
        """How many sockets there are."""
        return len(self._places)

    def enter(self) -> Place:
        """Count a socket that was accepted. It is arriving until its connection begins."""
        place = Place(self)
        self._places.add(place)
        return place

    def admit(self, place: Place, peer: str) -> ProxyError | None:
        """Hold a new connection against the limits, once its client's address is known.

        None if it may be served, else the error to turn it away with.
        """
        if 0 < self._limit < len(self._places):
            return NoBackend("over limits.connections", reason="too_many_connections")
        if self._per_client is None or (self._is_trusted is not None and self._is_trusted(peer)):
            return None
        client = client_of(peer)
        if not self._per_client.enter(client):
            return TooManyConnections("over limits.connections_per_client")
        place.client = client
        return None

    def running(self) -> list[OpenConnection]:
        """The connections whose greenlets run, idle or not."""
        return [place.connection for place in self._places if place.connection is not None]

    def only_arriving(self) -> bool:
        """Whether nobody is here but clients that have said nothing yet."""
        return all(place.is_arriving and not place.has_spoken for place in self._places)

    def _leave(self, place: Place) -> None:
        self._places.discard(place)
        if place.client is not None and self._per_client is not None:
            self._per_client.leave(place.client)


class Place:
    """One socket from accept to close.

    ``is_arriving``: its PROXY header or TLS handshake is under way, or awaited until it ``has_spoken``.
    ``connection``: what is served in a greenlet of ours; None while it is arriving, is parked, or is
    gunicorn's. ``client``: whose limit it is counted in, if in one.
    """

    __slots__ = ("_admission", "client", "connection", "has_spoken", "is_arriving")

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission
        self.client: bytes | None = None
        self.connection: OpenConnection | None = None
        self.is_arriving = True
        self.has_spoken = False

    def begin(self, connection: OpenConnection) -> None:
        """It is served by a greenlet of ours from now on."""
        self.is_arriving = False
        self.connection = connection

    def hand_over(self) -> None:
        """It is gunicorn's from now on: a drain waits for it, and can tell it nothing."""
        self.is_arriving = False

    def pause(self) -> None:
        """It is parked: it counts, and has no greenlet."""
        self.connection = None

    def leave(self) -> None:
        """It was closed, or is turned away; again is harmless."""
        admission, self._admission = self._admission, None
        if admission is not None:
            self.connection = None
            admission._leave(self)


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
    """The client that an address belongs to, for counting."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address.encode()  # a Unix socket's: whoever may open it
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed.packed[:_PREFIX_BYTES]
        parsed = parsed.ipv4_mapped
    return parsed.packed
