"""The names of servers: looked up again and again, and put into the table, from which workers connect.

Owns when a name is looked up, the servers' addresses in the table, of which it is the only writer, and which
of a server's addresses stands in front: the one that a check has passed at, since a check of one address
proves nothing about another. Runs in the control process: a greenlet for each name, and for each look-up
that is under way a thread, so that a name that hangs delays no other. What is known stays while there is
nothing better, whatever the resolver says or does not say. Must never know how a server is checked.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.threadpool import ThreadPool

from app.config import Config, Server
from app.connecting.happy_eyeballs import Endpoint, endpoint_of, interleaved, literal
from app.shared import addresses
from app.shared.addresses import Address
from app.shared.layout import ADDRESSES_MAX, IDENTITY
from app.shared.table import Table, identity_of
from app.telemetry import log

# getaddrinfo tells no TTL. Envoy looks up every 5 s by default, HAProxy holds an answer for 10 s.
REFRESH_SECONDS = 5.0
# While a name has no address yet, or one of its servers has just failed a check: it may have moved.
HURRY_SECONDS = 1.0
# A look-up costs some 0.2 ms of CPU: however many names there are, no more than so many a second.
LOOK_UPS_PER_SECOND = 200
# So long the first checks wait for new names. A look-up that takes longer counts as one that hangs.
PATIENCE_SECONDS = 2.0
# Look-ups at once. One that takes longer than SLOW_SECONDS is not counted among them: it has a thread more,
# and only one, since a name is not asked for again before there is an answer. That is far less than
# PATIENCE_SECONDS: hundreds of names that hang do not use up the time of a well one behind them.
LOOK_UPS = 64
SLOW_SECONDS = 0.2

LookUp = Callable[[bytes], "list[Address] | OSError"]


class Place(Protocol):
    """Where a server is, as its checks see it."""

    def endpoints(self) -> Sequence[Endpoint]:
        """Where to connect to, in this order. socket.gaierror while nothing is known."""
        ...

    def passed(self, endpoint: Endpoint) -> None:
        """A check has passed there."""
        ...

    def failed(self, endpoint: Endpoint | None) -> None:
        """A check has failed there, or nowhere if no connection came about."""
        ...


class FixedPlace:
    """The place of a server that is no name."""

    __slots__ = ("_endpoints",)

    def __init__(self, server: Server) -> None:
        self._endpoints = (literal(server.scheme, server.host, server.port),)

    def endpoints(self) -> Sequence[Endpoint]:
        return self._endpoints

    def passed(self, endpoint: Endpoint) -> None:
        """There is no other place."""

    def failed(self, endpoint: Endpoint | None) -> None:
        """As passed."""


class NamedPlace:
    """The place of a server that has a name: its row of addresses, and the order in which checks try them.

    That order differs from the table's only after a failed check: the next one begins with another address.
    """

    __slots__ = ("_order", "_table", "addresses", "identity", "name", "row", "server")

    def __init__(self, table: Table, server: Server, row: int, name: Name) -> None:
        self._table = table
        self.server = server
        self.row = row
        self.name = name
        self.identity = identity_of(server.url)
        self.addresses = addresses.read(table, row, self.identity)
        self._order = self.addresses

    def endpoints(self) -> Sequence[Endpoint]:
        if not self._order:
            problem = self.name.problem or f"{self.name.host} has not been looked up yet"
            raise socket.gaierror(socket.EAI_AGAIN, problem)
        return [endpoint_of(address, self.server.port) for address in self._order]

    def passed(self, endpoint: Endpoint) -> None:
        first = self._at(endpoint)
        if first is None:
            return
        self._order = in_front(first, self.addresses)
        if self._order != self.addresses:
            self._write(self._order)
            self._table.bump()
            log.event(
                "dns",
                "info",
                "backend is used at another of its addresses",
                backend=self.server.name,
                address=endpoint[1][0],
            )

    def failed(self, endpoint: Endpoint | None) -> None:
        self.name.soon.set()
        doubted = self._at(endpoint) if endpoint is not None else None
        if doubted is not None:
            self._order = (*(one for one in self._order if one != doubted), doubted)

    def take(self, found: Iterable[Address]) -> bool:
        """Take over what a look-up has found; whether that changes anything."""
        merged = merge(self.addresses, found)
        if merged == self.addresses:
            return False
        self._order = merge(self._order, found)
        self._write(merged)
        return True

    def _write(self, new: tuple[Address, ...]) -> None:
        self.addresses = new
        # The row may be another server's by now: a check that is being ended still tells what it found.
        if self._table.cells[self._table.server(self.row) + IDENTITY] == self.identity:
            addresses.write(self._table, self.row, self.identity, new)

    def _at(self, endpoint: Endpoint) -> Address | None:
        port = self.server.port
        return next((one for one in self._order if endpoint_of(one, port) == endpoint), None)


class Name:
    """One name, the servers that have it, and what came of its last look-up.

    ``found`` are its addresses, ``problem`` why the last look-up gave none; with neither it has not come to
    anything yet. ``soon`` is set to have it looked up now.
    """

    __slots__ = ("found", "host", "is_complained", "places", "problem", "soon")

    def __init__(self, host: str) -> None:
        self.host = host
        self.places: list[NamedPlace] = []
        self.found: list[Address] = []
        self.problem = ""
        self.is_complained = False
        self.soon = Event()


class Names:
    """The names of the configuration that was adopted last."""

    def __init__(
        self,
        table: Table,
        look_up: LookUp | None = None,
        spawn: Callable[..., Any] = gevent.spawn,
    ) -> None:
        """``look_up`` asks the resolver, in a thread; ``spawn`` starts the greenlet of a name."""
        self._table = table
        self._look_up = look_up or system_addresses
        self._spawn = spawn
        self._threads = ThreadPool(LOOK_UPS)
        self._names: dict[str, Name] = {}  # with a greenlet each
        self._places: dict[int, NamedPlace] = {}  # by the servers' identities
        self._patient_until = 0.0
        self.on_change: Callable[[int], None] = (
            _nothing  # told the row of a server that is elsewhere now
        )

    def __repr__(self) -> str:
        return f"<Names of {len(self._places)} servers, {len(self._names)} looked up>"

    def adopt(self, config: Config) -> None:
        """Look up the names of these servers from now on, new ones at once."""
        places: dict[int, NamedPlace] = {}
        named = [server for server in config.servers if server.is_name]
        for server, row in self._table.rows_of(named):
            identity = identity_of(server.url)
            place = self._places.get(identity)
            if place is None or place.row != row:
                place = NamedPlace(self._table, server, row, self._name(server.host))
            places[identity] = place
        self._places = places
        for name in self._names.values():
            name.places = []
        for place in places.values():
            place.name.places.append(place)
            if place.name.found:
                place.take(place.name.found)
        for host in [host for host, name in self._names.items() if not name.places]:
            self._names[host].soon.set()  # its greenlet ends
        self._patient_until = time.monotonic() + PATIENCE_SECONDS

    def is_settled(self) -> bool:
        """Whether all names have come to something, or have had the time to."""
        if time.monotonic() >= self._patient_until:
            return True
        return all(place.addresses or place.name.problem for place in self._places.values())

    def place(self, server: Server) -> Place:
        """Where a server of the adopted configuration is."""
        return self._places.get(identity_of(server.url)) or FixedPlace(server)

    def look_up(self, name: Name) -> None:
        """Ask for a name once, for as long as that takes, and put what is found into the table."""
        result = self._threads.spawn(self._look_up, name.host.encode("ascii"))
        result.wait(SLOW_SECONDS)
        if not result.ready():
            self._threads.maxsize += 1
            try:
                result.wait(PATIENCE_SECONDS - SLOW_SECONDS)
                if not result.ready():
                    self._fail(name, "the resolver does not answer")
                    result.wait()
            finally:
                self._threads.maxsize -= 1
        found = result.get()
        if isinstance(found, OSError):
            self._fail(name, str(found))
        elif not found:
            self._fail(name, "the resolver knows no address")
        else:
            self._take(name, found)

    def seconds_to_next(self, name: Name) -> float:
        """Seconds from a look-up's end to the next one, before jitter."""
        is_known = all(place.addresses for place in name.places)
        return max(REFRESH_SECONDS if is_known else HURRY_SECONDS, self.least_seconds())

    def least_seconds(self) -> float:
        """Seconds from a look-up's end to the next one of that name, whatever happens."""
        return max(HURRY_SECONDS, len(self._names) / LOOK_UPS_PER_SECOND)

    def _name(self, host: str) -> Name:
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = Name(host)
            self._spawn(self._follow, name)
        return name

    def _follow(self, name: Name) -> None:
        """The greenlet of a name: look it up as long as a server has it."""
        while True:
            name.soon.clear()
            try:
                self.look_up(name)
            except Exception as error:  # noqa: BLE001 - a dead greenlet leaves its name as it is for ever
                self._fail(name, repr(error))
            asked_at = time.monotonic()
            if not name.places:
                break
            name.soon.wait(self.seconds_to_next(name) * random.uniform(0.8, 1.2))
            if not name.places:
                break
            gevent.sleep(max(0.0, asked_at + self.least_seconds() - time.monotonic()))
        del self._names[name.host]

    def _take(self, name: Name, found: list[Address]) -> None:
        if name.is_complained:
            name.is_complained = False
            log.event("dns", "info", "name is looked up again", name=name.host)
        name.found, name.problem = found, ""
        before = [place.addresses for place in name.places]
        changed = [place for place in name.places if place.take(found)]
        if not changed:
            return
        self._table.bump()
        if any(before):
            shown = [endpoint_of(address, 0)[1][0] for address in changed[0].addresses]
            log.event("dns", "info", "name has other addresses", name=name.host, addresses=shown)
        for place in changed:
            self.on_change(place.row)

    def _fail(self, name: Name, problem: str) -> None:
        name.problem = problem
        if name.is_complained or not name.places:
            return
        name.is_complained = True
        known = any(place.addresses for place in name.places)
        log.event(
            "dns",
            "warning",
            "name could not be looked up" + (", its last addresses stay" if known else ""),
            name=name.host,
            detail=problem,
        )


def merge(known: Sequence[Address], found: Iterable[Address]) -> tuple[Address, ...]:
    """The addresses that were found: those known before in their order, which proved itself, then new ones.

    So a resolver that gives the same addresses in another order each time changes nothing.
    """
    now = interleaved(found)
    kept = [address for address in known if address in now]
    return tuple(kept + [address for address in now if address not in known])[:ADDRESSES_MAX]


def in_front(first: Address, others: Iterable[Address]) -> tuple[Address, ...]:
    """``first``, and the others behind it in their order."""
    return (first, *(other for other in others if other != first))


def system_addresses(host: bytes) -> list[Address] | OSError:
    """What the system's resolver says, in its order (RFC 6724). In a thread: it blocks."""
    try:
        found = _getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) else OSError(str(error))
    return [_address(entry[4]) for entry in found if entry[0] in (socket.AF_INET, socket.AF_INET6)]


# The interpreter's own, which blocks the thread that calls it: the patched one has a few threads for all.
_getaddrinfo: Callable[..., list[Any]] = monkey.get_original("socket", "getaddrinfo")


def _address(sockaddr: tuple[Any, ...]) -> Address:
    if len(sockaddr) == 2:
        return Address(socket.inet_pton(socket.AF_INET, sockaddr[0]))
    host = sockaddr[0].partition("%")[0]
    return Address(socket.inet_pton(socket.AF_INET6, host), sockaddr[3])


def _nothing(_row: int) -> None:
    """Nobody wants to know."""
