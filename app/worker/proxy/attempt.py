"""One try of a request at one backend: its place there, what came of it, its part of the access line.

Owns the place: a request in flight holds one at its backend from the pick until ``end``, and nobody else in
app.worker.proxy touches the pool's counts. Runs in workers, in a request's greenlet or in that of its hedge.
Never sends, nor knows whether another attempt follows: app.worker.proxy.forward and .hedging do.
"""

from __future__ import annotations

from typing import Any

from app.errors import BackendError, InternalError, ProxyError
from app.worker.balance import blame
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.proxy.exchange import Exchange
from app.worker.upstream.request import UpstreamRequest


class Attempt:
    """One try. ``response`` (its head has come) or ``error`` (its backend failed) says what came of it.

    ``reason`` is the slug of what went wrong, at the backend or later, None if nothing did. ``not_retried``:
    why no other attempt followed, "" if that was not asked. ``sent_at`` is monotonic: from then on its first
    byte was waited for. ``is_winner``: it was begun beside another that took too long, and won the race.
    """

    __slots__ = (
        "_exchange",
        "_has_place",
        "_pool",
        "backend",
        "error",
        "is_winner",
        "not_retried",
        "reason",
        "request",
        "response",
        "sent_at",
    )

    def __init__(self, pool: Pool, backend: Backend, exchange: Exchange) -> None:
        """Take over the place that ``pool`` has just given at ``backend``."""
        self._pool = pool
        self._exchange = exchange
        self.backend = backend
        self.request: UpstreamRequest | None = None
        self.response: Any = None  # an UpstreamResponse or AdaptedResponse
        self.error: BackendError | None = None
        self.sent_at = 0.0
        self.reason: str | None = None
        self.not_retried = ""
        self.is_winner = False
        self._has_place = True
        pool.cells[backend.requests] += 1

    def __repr__(self) -> str:
        state = self.reason or (self.response and self.response.head.status) or "waiting"
        return f"<Attempt at {self.backend.name}: {state}>"

    @property
    def first_byte_seconds(self) -> float:
        """From when it was sent, connecting included, to the head of its answer."""
        seconds: float = self.response.first_byte_at - self.sent_at
        return seconds

    @property
    def was_sent(self) -> bool:
        """Whether its backend may have acted on the request."""
        return self.error is None or self.error.sent

    @property
    def asked(self) -> blame.Asked | None:
        """What was asked, for what is counted of its backend; None if the request was not even made."""
        request = self.request
        if request is None:
            return None
        target = request.head.split(b" ", 2)[1].removeprefix(self.backend.prefix)
        return blame.asked(request.raw_method, target, self._pool.bound_client(self._exchange))

    def fail(self, error: BaseException) -> None:
        """Take note that it ends without an answer. Does nothing where it had ended before."""
        if self.response is not None or self.reason is not None:
            return
        if isinstance(error, ProxyError):
            if isinstance(error, BackendError):
                self.error = error
            self.reason = error.reason
            self._pool.failed(self.backend, error, self.asked)
        elif isinstance(error, Exception):
            self.reason = InternalError.reason
        self.end()

    def abandon(self, reason: str) -> None:
        """Nobody wants its answer any more. Its place is given back by who ends its wait, if it waits."""
        self.reason = reason
        if self.response is not None:  # it came a moment too late
            self.response.close()
            self.response = None
            self.end()

    def hold(self) -> None:
        """Keep its answer from the client while another backend is asked, whose answer would be better.

        It keeps its place as long as its body has not all come.
        """
        self.is_winner = False
        response = self.response
        if response.complete:
            self.end()
        if response.upload is not None:
            response.upload.stop()  # the rest of the body is for the next backend
        status = response.head.status
        self._pool.answered(self.backend, status, self.first_byte_seconds, self.asked)

    def close(self) -> None:
        """Nothing more is read of its answer: it was passed on, or given up."""
        if not self.response.complete:
            self.response.close()
        self.end()

    def end(self) -> None:
        """Give its place back. Again is harmless."""
        if self._has_place:
            self._has_place = False
            self._pool.release(self.backend)

    def record(self) -> dict[str, Any]:
        """Its entry in ``attempts`` of the access line."""
        response, reason = self.response, self.reason
        first_byte = status = None
        if response is not None:
            first_byte = milliseconds(response.first_byte_at - self.sent_at)
            status = response.head.status
        connected = self.request.connect_seconds if self.request is not None else None
        record = {
            "server": self.backend.name,
            "connect_ms": None if connected is None else milliseconds(connected),
            "first_byte_ms": first_byte,
            "status": status,
            "reason": "hedged" if self.is_winner and reason is None else reason,
        }
        if self.not_retried:
            record["not_retried"] = self.not_retried
        return record


def milliseconds(seconds: float) -> float:
    """A time as log lines have it: in milliseconds, cut after the third digit.

    Not round(seconds * 1e3, 3): that goes by way of decimal digits and takes 0.22 µs, this 0.05; up to three
    times for a line.
    """
    return seconds * 1e6 // 1.0 / 1e3
