"""What can go wrong with one request, as one tree, split by whose fault it is.

    ProxyError
    ├─ ClientError            the client's message or behaviour; never counts against a backend
    │  ├─ BadRequest          400, or the finer status given
    │  ├─ PlainHttp           400, answered in the clear
    │  ├─ BodyTimeout         408
    │  ├─ TooManyConnections  429, of one client address
    │  └─ ClientGone          499, logged only: there is nobody left to answer
    ├─ LoopDetected           508: the message has come through here before
    ├─ OutOfTime              504, or cut: timeouts.total is over, whoever took the time
    ├─ ShuttingDown           503, or cut: graceful_timeout is over
    ├─ NoBackend              503 + Retry-After: nowhere to send it
    ├─ BackendError           the backend failed before a response head could be forwarded
    │  ├─ ConnectFailed       502, nothing was sent
    │  ├─ ConnectTimeout      504, nothing was sent
    │  ├─ StaleConnection     502, a reused connection died before any byte of the response
    │  ├─ BackendReset        502, a fresh connection died before the head was complete
    │  ├─ BadResponse         502, what came back cannot be read in one way
    │  ├─ ResponseTimeout     504
    │  └─ Stalled             504, given up because the server answers nobody any more
    ├─ Aborted                the head has been sent; the connection is cut, never ended well
    └─ InternalError          500: a mistake of ours, or of an adapter or policy that a user has added

Pure: values only. Every class carries the same facts: ``status`` (what the client is told), ``reason``
(the slug used in the log line, the error body and the tests) and ``sent`` (whether a byte of the request
may have reached the backend, which is what decides about a retry).
"""

from __future__ import annotations


class ProxyError(Exception):
    """Base of the tree; raise a leaf. ``detail`` is for the log and is never sent to a client."""

    status = 500
    reason = "internal_error"
    sent = False

    def __init__(self, detail: str = "", *, reason: str = "", status: int = 0) -> None:
        super().__init__(detail or reason or self.reason)
        self.detail = detail
        if reason:
            self.reason = reason
        if status:
            self.status = status


class ClientError(ProxyError):
    """The client's message or behaviour; never counts against a backend."""

    status = 400
    reason = "bad_request"


class BadRequest(ClientError):
    """The request cannot be read in exactly one way, or is over a limit."""


class PlainHttp(ClientError):
    """A request without TLS where TLS is spoken. Told as text: who does this is a person or a mistake."""

    reason = "plain_http"


class BodyTimeout(ClientError):
    """The client stopped sending its body (RFC 9110 §15.5.9)."""

    status = 408
    reason = "client_timeout"


class TooManyConnections(ClientError):
    """One client address has as many connections as it may (RFC 6585 §4)."""

    status = 429
    reason = "too_many_connections_of_client"


class ClientGone(ClientError):
    """The client closed its connection before it was answered (nginx's 499)."""

    status = 499
    reason = "client_gone"


class NoBackend(ProxyError):
    """No backend can be picked: ``none_healthy``, ``all_draining``, ``all_full`` or ``all_tried``."""

    status = 503
    reason = "none_healthy"


class LoopDetected(ProxyError):
    """The request has come through this balancer before (RFC 5842 §7.2, by its CDN-Loop)."""

    status = 508
    reason = "loop"


class OutOfTime(ProxyError):
    """``timeouts.total`` is over, and it cannot be said that the backend took the time."""

    status = 504
    reason = "total_timeout"


class ShuttingDown(ProxyError):
    """The worker has to go and the request did not finish in time."""

    status = 503
    reason = "shutting_down"


class BackendError(ProxyError):
    """The backend failed before a response head could be forwarded."""

    status = 502
    reason = "backend_error"
    sent = True


class ConnectFailed(BackendError):
    """Refused, unreachable, or the TLS handshake failed: no byte of the request left."""

    reason = "connect_failed"
    sent = False


class ConnectTimeout(BackendError):
    """No connection within ``timeouts.connect``."""

    status = 504
    reason = "connect_timeout"
    sent = False


class StaleConnection(BackendError):
    """A reused connection died before any byte of the response: almost always a keep-alive race."""

    reason = "stale_connection"


class BackendReset(BackendError):
    """A fresh connection ended before the response head was complete."""

    reason = "reset_before_head"


class BadResponse(BackendError):
    """The response head or framing cannot be read in exactly one way."""

    reason = "bad_response"


class ResponseTimeout(BackendError):
    """No byte of the response for ``timeouts.read``, or ``timeouts.total`` is over."""

    status = 504
    reason = "response_timeout"


class Stalled(BackendError):
    """The server has stopped answering altogether: thrown at a request that may go elsewhere."""

    status = 504
    reason = "stalled"


class Aborted(ProxyError):
    """The response head was sent and the body cannot be finished: cut the connection."""

    status = 502
    reason = "aborted"
    sent = True


class InternalError(ProxyError):
    """Something was raised that nobody foresaw; its traceback is in the log."""
