"""Handshakes with clients that came to nothing: counted, and told of once a minute for each reason.

A line for each would let anybody fill the log. Runs in workers; knows no socket.
"""

from __future__ import annotations

import ssl

from app.telemetry import log
from app.tls import backends
from app.tls.handshake import NoCommonProtocol

LINE_SECONDS = 60.0
_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")  # as OpenSSL knows some of them


class HandshakeFailures:
    """How many there were of each reason since the last line about it, with the latest as the example."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, tuple[str, str]] = {}
        self._lines_at: dict[str, float] = {}  # reason -> monotonic

    def count(self, reason: str, client: str, detail: str = "") -> None:
        """One more, by ``client``; ``detail``: OpenSSL's words."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._examples[reason] = client, detail

    def tick(self, now: float) -> None:
        """Log what is due at ``now`` (monotonic): a reason that is new at once, then once a minute."""
        if not self._counts:
            return
        for reason in [*self._counts]:
            if (
                now >= self._lines_at.get(reason, 0.0) + LINE_SECONDS
                or reason not in self._lines_at
            ):
                self._lines_at[reason] = now
                self._tell(reason)

    def tell_rest(self) -> None:
        """Log what is left, at the end of the worker."""
        for reason in [*self._counts]:
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        client, detail = self._examples.pop(reason)
        log.event(
            "tls",
            "warning",
            "TLS handshakes with clients failed",
            reason=reason,
            count=self._counts.pop(reason),
            client=client,
            detail=detail or None,
        )


def reason_of(error: OSError) -> tuple[str, str]:
    """The slug for a handshake that ended with ``error``, and the words for its detail."""
    if isinstance(error, NoCommonProtocol):
        return "no_application_protocol", ""
    if isinstance(error, TimeoutError):
        return "timeout", ""
    if getattr(error, "reason", None) in _HTTP:
        return "plain_http", ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate_invalid", backends.words(error)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return "tls_error", backends.words(error)
    return "connection_closed", ""
