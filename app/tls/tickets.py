"""Session tickets that every worker reads, whichever of them wrote one.

A ticket is the client's session, encrypted by us; with keys of its own each worker would read its own tickets
only, and most clients would shake hands in full again. So the keys lie in the shared table
(app.shared.ticket_keys), and ``Tickets`` puts them into a worker's contexts, whichever certificate these
have.

An SSL_CTX has one set of keys. A ticket begins with the name of the keys that it was written with, in the
clear, and so does each ClientHello that brings it: for a step of the handshake in which the old name comes,
the old keys are put in, and a new ticket, which belongs to the end of the handshake, has the new ones again.

Where OpenSSL cannot be told of keys (app.tls.openssl), the master makes one context before it forks, with
keys that OpenSSL made for it, and every worker serves with that one: only certificates are loaded into it
again (ssl's own setters recurse without end on a context that is older than gevent's patch). Its keys live as
long as the master, and a certificate of another kind of key (RSA, EC) comes beside the old one. Runs in
workers, ``hand_down`` in the master. Knows no socket.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from app.shared import ticket_keys
from app.shared.layout import TICKETS_NS
from app.shared.table import Table
from app.shared.ticket_keys import TicketKeys
from app.tls import openssl

NAME_BYTES = 16

_inherited: ssl.SSLContext | None = None  # made before the fork, where keys cannot be put in


def hand_down(fill: Callable[[ssl.SSLContext], object]) -> None:
    """In the master, before it forks workers: have ``fill`` make the context that they inherit fit.

    Only where keys cannot be put into theirs.
    """
    global _inherited
    if openssl.is_reachable():
        return
    if _inherited is None:
        _inherited = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fill(_inherited)


class Tickets:
    """The keys of tickets in the context that a worker serves with."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._keys: TicketKeys | None = None
        self._old_name = b""
        self._context: ssl.SSLContext | None = None
        self._follow()

    @classmethod
    def for_sockets(cls, table: Table) -> Tickets | None:
        """For contexts that wrap sockets: the inherited one is older than gevent's patch, and would block."""
        return cls(table) if openssl.is_reachable() else None

    def serve_with(
        self, context: ssl.SSLContext, refill: Callable[[ssl.SSLContext], object]
    ) -> ssl.SSLContext:
        """The context to serve with: ``context`` with the keys, or the inherited one, refilled.

        ``context`` was made of the same files, so what ``refill`` loads is known to be good.
        """
        if not openssl.is_reachable():
            if _inherited is None:
                return context
            refill(_inherited)
            return _inherited
        self._context = context
        self._put_in()
        return context

    def look(self, _now: float) -> None:
        """At every tick: go on with other keys where the master has renewed them."""
        version = self._table.cells[TICKETS_NS]
        if version and (self._keys is None or self._keys.version != version):
            self._follow()
            self._put_in()

    def step(self, tls: ssl.SSLObject, hello: bytes) -> None:
        """One step of a handshake; ``hello``: what the client has said in it. Raises as do_handshake."""
        keys = self._keys
        if keys is None or not self._old_name or self._old_name not in hello:
            tls.do_handshake()
            return
        openssl.set_ticket_keys(tls.context, keys.old)
        try:
            tls.do_handshake()
        finally:
            openssl.set_ticket_keys(tls.context, keys.current)

    def _follow(self) -> None:
        keys = ticket_keys.read(self._table)
        if keys is not None and openssl.is_reachable():
            self._keys, self._old_name = keys, keys.old[:NAME_BYTES]

    def _put_in(self) -> None:
        if self._context is not None and self._keys is not None:
            openssl.set_ticket_keys(self._context, self._keys.current)


def refuse(context: ssl.SSLContext) -> None:
    """Issue no tickets, take none, and remember no session.

    For a context that demands certificates: a session begun where none was asked for would pass as one of a
    client that has shown its own.
    """
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    openssl.keep_no_sessions(context)
