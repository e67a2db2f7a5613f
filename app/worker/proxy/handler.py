"""One request from its head to its access line, as steps that can be recited:

request (may it be forwarded?) → route (there is one pool) → pick → to_backend → attempt → to_client → access

Owns the first and the last of them, the ids of requests, and that each request gets an answer and a line
whatever happens; app.worker.proxy.forward walks those between. Runs in workers, in the greenlet of a client's
request. The client's side is an Exchange (one file a protocol in app.worker.client). Must never know sockets
or how anything is parsed.
"""

from __future__ import annotations

import os
from time import monotonic

from app.config import Config
from app.errors import InternalError, LoopDetected, PlainHttp, ProxyError
from app.shared.layout import INSTANCE
from app.telemetry.access_log import AccessLog
from app.wire import fields, via
from app.wire.forwarded import Trust, trusted_request_id
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import NEVER
from app.worker.proxy.access import AccessLine
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.body_limit import check_size
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.forward import Forwarder
from app.worker.proxy.local_reply import LocalReply
from app.worker.proxy.to_backend import ToBackend
from app.worker.proxy.to_client import ToClient
from app.worker.upstream.session import Session


class Proxy:
    """Handles the requests of one worker, under one configuration.

    Beside ``handle`` it has what the client's side asks: ``is_trusted(address)`` (is it a trusted proxy's?),
    and ``body_limit`` in bytes; and what the stall watch asks: ``may_move`` (see Retrier).
    """

    def __init__(
        self, config: Config, pool: Pool, session: Session, access_log: AccessLog | None
    ) -> None:
        """Without ``access_log`` no lines are written."""
        fields.trust_only(config.trusted_headers)
        trust = Trust(config.trusted_proxies, config.forwarded)
        self.is_trusted = trust.is_trusted
        self.pool = pool
        self.body_limit = config.limits.body
        self._total_timeout = config.timeouts.total or NEVER
        self._mark = via.mark(pool.table.cells[INSTANCE])
        to_client = ToClient(config, pool)
        self.to_backend = ToBackend(config, trust, self._mark)
        self._forwarder = Forwarder(config, pool, session, self.to_backend, to_client)
        self._forward = self._forward_bounded if config.timeouts.total else self._forwarder.forward
        self.may_move = self._forwarder.retrier.may_move
        self._reply = LocalReply(pool.retry_after, to_client.server_field)
        self.access = AccessLine(config, trust, access_log) if access_log is not None else None
        # 64 random bits for the worker, 64 for the request: unique without asking the kernel each time. What
        # is counted from is random too, so that ids say nothing about how many requests there were.
        self._id_prefix = os.urandom(8).hex()
        self._first_id = self._last_id = int.from_bytes(os.urandom(4), "big")
        self._not_forwarded = 0  # of the requests that have an id
        self._forwarded = 0

    def handle(self, exchange: Exchange) -> None:
        """Forward one request, answer it whatever happens, and write its line. Never raises a ProxyError.

        Where sessions are sticky, the cookie is taken out of the head: ``fields`` still have it, ``lines`` do
        not.
        """
        started = monotonic()
        self._last_id += 1
        request_id = self._id_prefix + self._last_id.to_bytes(8, "big").hex()
        head = exchange.head
        attempts: list[Attempt] = []
        answer: Attempt | None = None
        reason: str | None
        try:
            try:
                if exchange.is_trusted and (given := trusted_request_id(head)) is not None:
                    request_id = given.decode("ascii")
                if self.pool.sticky is not None:
                    head.sticky = self.pool.sticky.take(head)
                if head.length:
                    self._check_body(exchange)
                if head.cdn_loop is not None and via.is_loop(head.cdn_loop, self._mark):
                    raise LoopDetected("our own mark in CDN-Loop, or too many")
                if head.max_forwards is None or head.max_forwards:
                    expires_at = started + self._total_timeout
                    answer = self._forward(exchange, request_id, expires_at, attempts)
                    status, reason = answer.response.head.status, answer.reason
                else:
                    self._not_forwarded += 1
                    status, reason = self._reply.options(exchange, request_id), "max_forwards"
            except ProxyError as error:
                answer = attempts[-1] if attempts else None
                self._not_forwarded += answer is None
                status, reason = self._reply.fail(exchange, error, request_id), error.reason
        except Exception as error:  # noqa: BLE001 - whatever it is, there is an answer and a line
            answer = attempts[-1] if attempts else None
            status = self._reply.fail_unforeseen(exchange, error, request_id, answer)
            reason = InternalError.reason
        if self.access is not None:
            self.access.write(exchange, request_id, started, status, reason, attempts, answer)

    def drop(self, exchange: Exchange, error: ProxyError) -> None:
        """Log a request that was read and is not handled: there is no client for its answer."""
        request_id = self._new_id()
        if self.access is not None:
            status, reason = error.status, error.reason
            self.access.write(exchange, request_id, monotonic(), status, reason, [], None)

    def refuse(
        self, peer: str, error: ProxyError, started: float
    ) -> tuple[list[tuple[str, str]], bytes]:
        """Log a request whose head could not be read; its answer. ``started`` is monotonic."""
        request_id = self._new_id()
        if self.access is not None:
            self.access.write_refused(request_id, peer, started, error)
        return self._reply.to(error, request_id, is_text=isinstance(error, PlainHttp))

    def tick(self, now: float) -> None:
        """Tell the retry budget, ten times a second, how many requests this worker has sent to backends.

        Those are the ids that were given, less what was refused: nobody can buy retries with bad requests.
        One that waits is counted already; where it then is refused, another takes its place. ``now`` is
        monotonic.
        """
        self._forwarded = max(self._forwarded, self.requests - self._not_forwarded)
        self._forwarder.tick(now, self._forwarded)

    @property
    def requests(self) -> int:
        """How many requests this worker has had, refused ones too."""
        return self._last_id - self._first_id

    def _forward_bounded(
        self, exchange: Exchange, request_id: str, expires_at: float, attempts: list[Attempt]
    ) -> Attempt:
        """As Forwarder.forward, where timeouts.total bounds all that is waited for, the client too."""
        exchange.deadline.limit = expires_at
        try:
            return self._forwarder.forward(exchange, request_id, expires_at, attempts)
        finally:
            exchange.deadline.limit = NEVER

    def _new_id(self) -> str:
        """An id of a request that is not forwarded. ``handle`` makes its own, without a call.

        64 bits in hexadecimal digits behind the prefix, by way of bytes: 0.09 µs; a format takes 0.17.
        """
        self._last_id += 1
        self._not_forwarded += 1
        return self._id_prefix + self._last_id.to_bytes(8, "big").hex()

    def _check_body(self, exchange: Exchange) -> None:
        """Refuse a body for what is known of it before anything was sent. Raises ClientError."""
        if exchange.failure is not None:
            raise exchange.failure
        check_size(exchange.head.length, self.body_limit)
