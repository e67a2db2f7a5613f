"""Where a server is that has a name: what the control process has put into the table.

Owns this worker's look at the servers' rows of addresses. Runs in workers. Never asks a resolver, except
where there is no control process that does: an application under a WSGI server, without a master.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import gevent.socket

from app.connecting.happy_eyeballs import Endpoint, endpoint_of
from app.shared import addresses
from app.shared.layout import IDENTITY
from app.shared.table import Table, identity_of

# The endpoints of one server if they have changed since the last call, else None.
News = Callable[[], "tuple[Endpoint, ...] | None"]


class AddressBook:
    """The rows of addresses of all servers."""

    __slots__ = ("_rows", "_table")

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: dict[int, int] = {}

    def news_of(self, url: str, port: int) -> News:
        """What is new about the server with this URL."""
        identity = identity_of(url)
        last = 0

        def news() -> tuple[Endpoint, ...] | None:
            nonlocal last
            row = self._row_of(identity)
            if row < 0:
                return None
            seal = addresses.seal(
                self._table, row
            )  # before reading: a change while we read comes again
            if seal == last:
                return None
            found = addresses.read(self._table, row, identity)
            if not found:
                return None
            last = seal
            return tuple(endpoint_of(address, port) for address in found)

        return news

    def _row_of(self, identity: int) -> int:
        """Its row, -1 if it has none. A row may be given to another server: it is looked at each time."""
        row = self._rows.get(identity, -1)
        cells, table = self._table.cells, self._table
        if row < 0 or cells[table.server(row) + IDENTITY] != identity:
            self._rows = table.row_index()
            row = self._rows.get(identity, -1)
        return row


def looked_up_here(host: str, port: int) -> News:
    """What the resolver has to say about a name, asked at each call: for who has no master."""
    last: list[Endpoint] = []

    def news() -> tuple[Endpoint, ...] | None:
        nonlocal last
        entries: list[Any] = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = [(entry[0], entry[4]) for entry in entries]
        if sorted(found) == sorted(last):
            return None
        last = found
        return tuple(found)

    return news
