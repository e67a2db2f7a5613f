"""Answers that no backend gave: what went wrong and why, by name; nothing of the inside.

Owns the bodies of errors, their fields (Retry-After, Allow), and the last resort when nobody foresaw what was
raised. Runs in workers, in the request's greenlet. Never tells an address or a traceback.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from app.errors import ClientError, InternalError, ProxyError
from app.telemetry import log
from app.wire.status import ALLOWED_METHODS, STATUS_TEXT
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.exchange import Exchange


class LocalReply:
    """Answers for us under one configuration.

    ``retry_after(reason)`` gives the seconds after which a client that gets a 503 or 429 should come again.
    """

    def __init__(
        self, retry_after: Callable[[str], int], server_field: list[tuple[str, str]]
    ) -> None:
        self._retry_after = retry_after
        self._server_field = server_field

    def options(self, exchange: Exchange, request_id: str) -> int:
        """Answer an OPTIONS that must go no further (RFC 9110 §7.6.2); its status."""
        fields = [("Allow", ALLOWED_METHODS.decode()), ("X-Request-Id", request_id)]
        exchange.answer(200, fields, b"")
        return 200

    def fail(self, exchange: Exchange, error: ProxyError, request_id: str) -> int:
        """Tell the client that its request has failed; the status for the log."""
        if error.status == 499:
            exchange.abort()
            return 499
        fields, body = self.to(error, request_id, prefers_text(exchange.head.accept))
        try:
            exchange.answer(error.status, fields, body)
        except ClientError:
            exchange.abort()
        return error.status

    def to(
        self, error: ProxyError, request_id: str, is_text: bool
    ) -> tuple[list[tuple[str, str]], bytes]:
        """The fields and the body that a client is told an error with."""
        fields = error_fields(error, self._retry_after, is_text)
        fields.append(("X-Request-Id", request_id))
        return fields + self._server_field, error_body(error, request_id, is_text)

    def fail_unforeseen(
        self, exchange: Exchange, error: Exception, request_id: str, last: Attempt | None
    ) -> int:
        """Put a mistake of ours, or of foreign code, into the log and answer 500 if that can be done.

        The status for the access line: that of the ``last`` attempt's answer if it was on its way.
        """
        log.uncaught("proxy", f"request {request_id} failed", error)
        try:
            if not exchange.is_begun:
                return self.fail(exchange, InternalError(str(error)), request_id)
        except Exception as second:  # noqa: BLE001 - the exchange itself is broken
            log.uncaught("proxy", f"request {request_id} not answered", second)
        try:
            exchange.abort()
        except Exception as second:  # noqa: BLE001
            log.uncaught("proxy", f"request {request_id} not cut", second)
        begun = last.response.head.status if last is not None and last.response is not None else 0
        return begun or InternalError.status


def prefers_text(accept: bytes | None) -> bool:
    """Whether an error is told as text: as JSON unless a client names text and not JSON, since whoever reads
    our errors is mostly a program."""
    return accept is not None and b"text/" in accept and b"json" not in accept


def error_fields(
    error: ProxyError, retry_after: Callable[[str], int], is_text: bool
) -> list[tuple[str, str]]:
    """What the head of an error says beside what every answer's does: the type of its body, and what to do.

    When to come back (RFC 9110 §10.2.3), or what is allowed (§15.5.6). ``retry_after`` as in LocalReply.
    """
    fields = [("Content-Type", "text/plain; charset=utf-8" if is_text else "application/json")]
    if error.status in (429, 503):
        fields.append(("Retry-After", str(retry_after(error.reason))))
    elif error.status == 405:
        fields.append(("Allow", ALLOWED_METHODS.decode()))
    return fields


def error_body(error: ProxyError, request_id: str, is_text: bool) -> bytes:
    """What a client reads of an error, with the id that leads to its line in the log."""
    text = STATUS_TEXT.get(error.status, "Error")
    if is_text:
        return f"{error.status} {text}\nreason: {error.reason}\nrequest id: {request_id}\n".encode()
    return (
        orjson.dumps(
            {
                "status": error.status,
                "error": text,
                "reason": error.reason,
                "request_id": request_id,
            }
        )
        + b"\n"
    )
