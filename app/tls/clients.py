"""TLS towards clients: the certificate that is shown to them, and what is accepted of their handshakes.

``require`` runs in the master and in ``check``, before anything is started or replaced; ``certificates`` in
workers. Knows no socket.
"""

from __future__ import annotations

import ssl
from functools import partial
from importlib.util import find_spec

from app.config import Config, ConfigError, Problem, Tls
from app.tls import backends
from app.tls.files import VERSIONS, WatchedContext, load_authorities, load_chain


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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.minimum_version]
    # CVE-2009-3555 and its kin: renegotiation costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if offers_http2 else ["http/1.1"])
    load_chain(context, "tls", tls.certificate, tls.key)
    if tls.client_ca is not None:
        load_authorities(context, "tls.client_ca", tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def certificates(tls: Tls, offers_http2: bool) -> WatchedContext:
    """The context for new connections of clients, made anew when its files change."""
    files = (tls.certificate, tls.key, tls.client_ca)
    return WatchedContext(partial(make_context, tls, offers_http2), "tls", files)
