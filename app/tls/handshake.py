"""Our side of a handshake with a client, where it is more than OpenSSL's: tickets and protocols.

Runs in workers. Knows no socket: who has the bytes calls ``step`` with them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from app.tls.files import WatchedContext
from app.tls.tickets import Tickets
from app.wire.client_hello import ALPN, offered_protocols


class NoCommonProtocol(ssl.SSLError):
    """The client speaks none of our protocols (ALPN): RFC 7301 §3.2 has the handshake end then."""


class SpeaksHttp(OSError):
    """A client has begun with a request where TLS is spoken; its connection is as it was."""


class ServerSide:
    """What a worker's handshakes with clients have in common.

    ``protocols``: those that we speak. OpenSSL's way, as Python uses it, is to go on where a client offers
    none of them, and it would be spoken to in a protocol that it has not asked for.
    """

    def __init__(
        self, certificates: WatchedContext, tickets: Tickets | None, protocols: Iterable[str]
    ) -> None:
        self._certificates = certificates
        self._tickets = tickets
        self._protocols = frozenset(name.encode() for name in protocols)

    @property
    def context(self) -> ssl.SSLContext:
        """For a new connection."""
        return self._certificates.context

    def step(self, tls: ssl.SSLObject, said: bytes) -> None:
        """One step; ``said``: by the client, since it was last answered. Raises as do_handshake."""
        if self._tickets is None:
            tls.do_handshake()
        else:
            self._tickets.step(tls, said)

    def check_protocol(self, tls: ssl.SSLObject, hello: bytes) -> None:
        """Raise NoCommonProtocol where ``hello``, which was just answered, offers what we do not speak."""
        if tls.selected_alpn_protocol() is None and ALPN in hello:
            offered = offered_protocols(hello)
            if offered and self._protocols.isdisjoint(offered):
                raise NoCommonProtocol(ssl.SSL_ERROR_SSL, "no common protocol")
