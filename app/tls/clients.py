"""TLS towards clients: the certificate that is shown to them, and what is accepted of their handshakes.

``require`` runs in the master and in ``check``, before anything is started or replaced, ``prepare`` in the
master; ``certificates`` in workers. Knows no socket.
"""

from __future__ import annotations

import ssl
from functools import partial
from importlib.util import find_spec

from app.config import Config, ConfigError, Problem, Tls
from app.tls import backends, tickets
from app.tls.files import VERSIONS, WatchedContext, load_authorities, load_chain
from app.tls.parameters import set_ciphers, set_curves
from app.tls.tickets import Tickets

_HTTP1 = ("http/1.1", "http/1.0")


def require(config: Config) -> None:
    """Raise ConfigError if TLS is configured, on either side, and a file of it cannot be used."""
    if config.tls is not None:
        make_context(config.tls)
        if config.tls.http2 and find_spec("h2") is None:
            remedy = "install requirements.lock again, or set it to false"
            raise ConfigError([Problem("tls.http2", f"the package h2 is not installed: {remedy}")])
    if any(server.scheme == "https" for server in config.servers):
        backends.require(config.backend_tls)


def make_context(tls: Tls, offers_http2: bool = False) -> ssl.SSLContext:
    """A server's context from the files. Raises ConfigError, which names the file and the remedy."""
    # ssl.SSLContext is looked up now: gevent may have replaced it since this module was loaded.
    return _fill(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls, offers_http2)


def prepare(config: Config) -> None:
    """In the master, before it forks workers: what has to be theirs by inheritance (app.tls.tickets)."""
    tls = config.tls
    if tls is not None and tls.client_ca is None:
        tickets.hand_down(partial(_fill, tls=tls, offers_http2=tls.http2))


def certificates(
    tls: Tls, offers_http2: bool, shared_tickets: Tickets | None = None
) -> WatchedContext:
    """The context for new connections of clients, made anew when its files change.

    ``shared_tickets``: those that all workers read; None for a context with tickets of its own.
    """
    files = (tls.certificate, tls.key, tls.client_ca)
    make = partial(_make_to_serve, tls, offers_http2, shared_tickets)
    return WatchedContext(make, "tls", files)


def protocols(offers_http2: bool) -> tuple[str, ...]:
    """What is agreed on by ALPN, best first. http/1.0 too: a client that offers only that is served."""
    return ("h2", *_HTTP1) if offers_http2 else _HTTP1


def _make_to_serve(tls: Tls, offers_http2: bool, shared_tickets: Tickets | None) -> ssl.SSLContext:
    context = make_context(tls, offers_http2)
    if shared_tickets is None or tls.client_ca is not None:
        return context

    def refill(inherited: ssl.SSLContext) -> None:
        inherited.set_alpn_protocols(list(protocols(offers_http2)))
        load_chain(inherited, "tls", tls.certificate, tls.key)

    return shared_tickets.serve_with(context, refill)


def _fill(context: ssl.SSLContext, tls: Tls, offers_http2: bool) -> ssl.SSLContext:
    context.minimum_version = VERSIONS[tls.minimum_version]
    # CVE-2009-3555 and its kin: renegotiation costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    set_ciphers(context, "tls", tls.ciphers, tls.http2)
    set_curves(context, "tls", tls.curves)
    context.set_alpn_protocols(list(protocols(offers_http2)))
    load_chain(context, "tls", tls.certificate, tls.key)
    if tls.client_ca is not None:
        load_authorities(context, "tls.client_ca", tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        tickets.refuse(context)
    return context
