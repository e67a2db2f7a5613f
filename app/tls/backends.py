"""TLS towards backends: whom we trust, under which name, and who we are.

One set of settings for the requests and for the health checks, so that both see the same server. Runs in
the master and in ``check`` (``require``), in workers and in the control process (``BackendTrust``). Knows no
socket; whoever connects brings the kind of context that its sockets need.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import certifi

from app.config import BackendTls, ConfigError
from app.telemetry import log
from app.tls.files import VERSIONS, WatchedContext, load_authorities, load_chain

# What a server says of a client's certificate (RFC 8446 §6.2), in OpenSSL's words.
_REFUSALS = frozenset(
    (
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    )
)


def require(settings: BackendTls) -> None:
    """Raise ConfigError if the files are not fit for what they are named for."""
    make_context(settings)


def make_context(settings: BackendTls, kind: type[ssl.SSLContext] | None = None) -> ssl.SSLContext:
    """A client's context from the settings. ConfigError names the file and the remedy."""
    # Looked up now: gevent may have replaced it since this module was loaded.
    context = (kind or ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[settings.minimum_version]
    # What we speak is said: a server that speaks only something else refuses here, and by name.
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca is not None:
        load_authorities(context, "backend_tls.ca", settings.ca)
    else:
        context.load_verify_locations(certifi.where())
    if settings.certificate is not None and settings.key is not None:
        load_chain(context, "backend_tls", settings.certificate, settings.key)
    return context


class BackendTrust:
    """The context for connections to backends, following its files; ``server_name`` where one is set.

    The files were fit when the configuration was taken over. Where they are not any more when a process
    starts later, nothing is trusted until they are again.
    """

    def __init__(self, settings: BackendTls, kind: type[ssl.SSLContext] | None = None) -> None:
        self.settings = settings
        self._kind = kind
        self._followed: WatchedContext | None = None
        self._complaint = ""
        self._follow()

    def context(self, now: float) -> ssl.SSLContext:
        """The context that holds now. Raises SSLError where the files allow none."""
        if self._followed is None:
            self._follow()
        if self._followed is None:
            raise ssl.SSLError(self._complaint)
        self._followed.look(now)
        return self._followed.context

    def name(self, host: str) -> str:
        """The name that a server must prove, and is asked for by (SNI)."""
        return self.settings.server_name or host

    def _follow(self) -> None:
        settings = self.settings
        make = partial(make_context, settings, self._kind)
        files = (settings.ca, settings.certificate, settings.key)
        try:
            self._followed = WatchedContext(make, "backend_tls", files)
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.event(
                    "tls",
                    "error",
                    "no connection to https:// servers until this is mended",
                    reason="bad_certificate",
                    problems=[str(problem) for problem in error.problems],
                )


def is_refusal(error: ssl.SSLError) -> bool:
    """Whether a server has refused our certificate, or that there is none."""
    return getattr(error, "reason", None) in _REFUSALS


def reason(error: ssl.SSLError) -> str:
    """The slug for a handshake that failed: whether the certificate is to blame, or anything else."""
    is_certificate = isinstance(error, ssl.SSLCertVerificationError)
    return "certificate_invalid" if is_certificate else "tls_error"


def words(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, for an operator: the library's words without its source lines."""
    message: Any = getattr(error, "verify_message", None)  # of a certificate that was not accepted
    if isinstance(message, str) and message:
        return message
    name: Any = getattr(error, "reason", None)
    return name.lower().replace("_", " ") if isinstance(name, str) else str(error)
