"""The way of one request to an answer: pick, to_backend, attempt, and again if the outcome asks for it.

Owns the loop, and which of its answers is the client's. Runs in workers, in the request's greenlet. Whether
there is another attempt, and where, is said by app.worker.proxy.retry; a second one at the same time is
app.worker.proxy.hedging's affair. Never logs, and answers nothing itself.
"""

from __future__ import annotations

from functools import partial
from time import monotonic

from app.config import Config
from app.errors import BackendError, OutOfTime
from app.worker.balance.pool import Pool
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.hedging import Hedger, Race
from app.worker.proxy.replay import Replay, replay_of
from app.worker.proxy.retry import Retrier, RetryState
from app.worker.proxy.to_backend import ToBackend
from app.worker.proxy.to_client import ToClient
from app.worker.upstream.session import Session


class Forwarder:
    """Forwards requests to the backends of one pool, under one configuration."""

    __slots__ = (
        "_deliver",
        "_has_per_try",
        "_hedger",
        "_needs_state",
        "_pool",
        "_retry_statuses",
        "_send",
        "_to_backend",
        "retrier",
    )

    def __init__(
        self,
        config: Config,
        pool: Pool,
        session: Session,
        to_backend: ToBackend,
        to_client: ToClient,
    ) -> None:
        self._pool = pool
        self._send = session.send
        self._to_backend = to_backend.request
        self._deliver = to_client.deliver
        self.retrier = Retrier(config, pool)
        after = config.retries.hedge_after
        self._hedger = Hedger(after, pool, session, self.retrier) if after else None
        self._retry_statuses = self.retrier.statuses
        self._has_per_try = config.retries.per_try_timeout > 0
        # Without them it is made by the first attempt that brings no answer for the client: by few requests.
        self._needs_state = self._has_per_try or self._hedger is not None

    def tick(self, now: float, requests: int) -> None:
        """Have budget and percentile follow what was seen lately; see app.worker.proxy.handler.Proxy.tick."""
        self.retrier.tick(now, requests)
        if self._hedger is not None:
            self._hedger.tick()

    def forward(
        self, exchange: Exchange, request_id: str, expires_at: float, attempts: list[Attempt]
    ) -> Attempt:
        """Ask backends until one has answered for the client; the attempt whose answer was sent.

        Each attempt is put into ``attempts`` as it begins. ``expires_at`` is monotonic, NEVER for no limit.
        Raises a ProxyError where there is no answer to send, and whatever else happened.
        """
        pool = self._pool  # the step "route": all requests have the one pool there is
        replay: Replay | None = None
        if exchange.read_body is not None:
            replay = replay_of(exchange, exchange.read_body, self.retrier.buffer)
        state = RetryState(expires_at) if self._needs_state else None
        raw_id = request_id.encode()
        backend = pool.pick((), exchange)
        try:
            while True:
                attempt = Attempt(pool, backend, exchange)
                attempts.append(attempt)
                try:  # in a function of its own this would cost each request 0.1 µs
                    request = self._to_backend(exchange, backend, raw_id, expires_at, replay)
                    attempt.request = request
                    attempt.sent_at = monotonic()
                    if state is None:
                        attempt.response = self._send(request)
                    else:
                        attempt = self._send_bounded(attempt, exchange, raw_id, state, attempts)
                except BaseException as error:
                    attempt.fail(error)
                    if not isinstance(error, BackendError):
                        raise  # it is not the backend's fault: nobody else is asked
                if attempt.error is None:
                    status = attempt.response.head.status
                    # RFC 8470 §5.2: a 425 to a request that came early is the client's to act on.
                    if status not in self._retry_statuses or (
                        status == 425 and exchange.head.early_data
                    ):
                        if replay is not None:
                            replay.release()
                        if self._has_per_try and attempt.request is not None:
                            attempt.request.expires_at = expires_at
                        self._deliver(exchange, attempt, raw_id)
                        return attempt
                if state is None:
                    state = RetryState(expires_at)
                state.take(attempt, len(attempts))
                other = self.retrier.next(state, exchange, replay)
                if other is None:
                    return self._last_word(state, exchange, raw_id)
                backend = other
        finally:
            if state is not None:
                state.drop()

    def _send_bounded(
        self,
        attempt: Attempt,
        exchange: Exchange,
        request_id: bytes,
        state: RetryState,
        attempts: list[Attempt],
    ) -> Attempt:
        """Send an attempt whose first byte is not waited for without end: per_try_timeout, hedge_after.

        The attempt that has come to an end: where the one that was begun took too long, maybe its hedge.
        """
        request = attempt.request
        assert request is not None
        self.retrier.bound(attempt, state, exchange, attempts)
        hedger = self._hedger
        try:
            if hedger is not None and hedger.applies(exchange, state, request):
                make = partial(
                    self._to_backend, exchange, request_id=request_id, expires_at=state.expires_at
                )
                return Race(hedger, attempt, exchange, state, attempts, make).run()
            attempt.response = self._send(request)
            return attempt
        finally:
            request.deadline.outlast = None

    def _last_word(self, state: RetryState, exchange: Exchange, request_id: bytes) -> Attempt:
        """There is no other attempt: an answer that is held says more than the failure that came after it."""
        held = state.held
        if held is None:
            assert state.failure is not None
            raise state.failure from None
        if not held.response.complete and monotonic() >= state.expires_at:
            raise OutOfTime("no time is left for the rest of the answer that was held")
        self._deliver(exchange, held, request_id, is_counted=True)
        return held
