"""TLS towards backends: whose certificates are accepted, under which name, and which we show.

The same for requests and for health checks, so that both see the same server. ``require`` runs in the master
and in ``check``, before anything is started or replaced; ``BackendTrust`` in workers and in the control
process. Knows no socket: who connects brings the kind of context that its sockets need.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import certifi

from app.config import BackendTls, ConfigError
from app.telemetry import log
from app.tls.files import VERSIONS, WatchedContext, load_authorities, load_chain
from app.tls.parameters import set_ciphers, set_curves

# The alerts by which a server refuses a client's certificate (RFC 8446 §6.2), as OpenSSL names them.
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
    """Raise ConfigError if a file cannot be used for what the configuration names it for."""
    make_context(settings)


def make_context(settings: BackendTls, kind: type[ssl.SSLContext] | None = None) -> ssl.SSLContext:
    """A client's context from the settings. Raises ConfigError, which names the file and the remedy."""
    # ssl.SSLContext is looked up now: gevent may have replaced it since this module was loaded.
    context = (kind or ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[settings.minimum_version]
    if settings.ciphers:
        set_ciphers(context, "backend_tls", settings.ciphers)
    if settings.curves:
        set_curves(context, "backend_tls", settings.curves)
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
    """The context for new connections to backends, made anew when its files change.

    The files were fit when the configuration was taken over. A process that starts later, when they are not
    any more, trusts nobody until they are again.
    """

    def __init__(self, settings: BackendTls, kind: type[ssl.SSLContext] | None = None) -> None:
        self.settings = settings
        self._kind = kind
        self._followed: WatchedContext | None = None
        self._complaint = ""
        self._follow()

    def context(self, now: float) -> ssl.SSLContext:
        """The context to connect with at ``now`` (monotonic). Raises SSLError while the files allow none."""
        if self._followed is None:
            self._follow()
        if self._followed is None:
            raise ssl.SSLError(self._complaint)
        self._followed.look(now)
        return self._followed.context

    def name(self, host: str) -> str:
        """The name that the certificate of ``host`` must bear, and that is sent as SNI."""
        return self.settings.server_name or host

    def _follow(self) -> None:
        """Make the first context; where the files allow none, log why, once for each reason."""
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
    """The slug for a handshake that failed: "certificate_invalid", or "tls_error" for anything else."""
    is_certificate = isinstance(error, ssl.SSLCertVerificationError)
    return "certificate_invalid" if is_certificate else "tls_error"


def words(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, in words for an operator: OpenSSL's, without its source lines."""
    message: Any = getattr(error, "verify_message", None)  # of a certificate that was not accepted
    if isinstance(message, str) and message:
        return message
    name: Any = getattr(error, "reason", None)
    return name.lower().replace("_", " ") if isinstance(name, str) else str(error)
