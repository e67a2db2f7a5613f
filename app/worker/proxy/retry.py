"""What comes after an attempt: another one, when and where, or the end.

Owns what a request has met so far (RetryState), answers that are held while another backend is asked
(HeldResponse), and this worker's part of the retry budget. Runs in workers. The rules are
app.worker.proxy.retry_rules' and app.worker.proxy.retry_budget's; which backend is the pool's affair; sending
is the proxy's.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import Any

import gevent

from app.config import Config
from app.errors import BackendError, ConnectFailed, ConnectTimeout, NoBackend, StaleConnection
from app.shared.layout import ASKED, RETRIES
from app.telemetry import log
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.proxy import retry_rules
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.replay import Replay
from app.worker.proxy.retry_budget import WINDOW, GrowthWindow, limit
from app.worker.upstream.request import UpstreamRequest


class HeldResponse:
    """An answer that is not the client's yet: another backend is asked, whose answer would be better.

    It keeps its place at its backend while its body has not all come.
    """

    __slots__ = ("_has_place", "_pool", "attempt", "backend", "response")

    sent = True
    status = 0

    def __init__(
        self, backend: Backend, response: Any, attempt: dict[str, Any], pool: Pool
    ) -> None:
        self.backend = backend
        self.response = response
        self.attempt = attempt
        self._pool = pool
        self._has_place = not response.complete
        if self._has_place:
            pool.hold(backend)
        if response.upload is not None:
            response.upload.stop()  # the rest of the body is for the next backend

    def drop(self) -> None:
        """Give it up, or say that it was passed on."""
        if not self.response.complete:
            self.response.close()
        if self._has_place:
            self._pool.release(self.backend)


class RetryState:
    """What one request has met so far, from the first attempt on that is not the end."""

    __slots__ = (
        "expires_at",
        "failure",
        "held",
        "made",
        "outcome",
        "refused",
        "rounds",
        "stale",
        "tried",
    )

    outcome: BackendError | HeldResponse

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self.tried: tuple[Backend, ...] = ()
        self.made = self.stale = self.refused = self.rounds = 0
        self.failure: BackendError | None = None
        self.held: HeldResponse | None = None

    def take(self, backend: Backend, outcome: BackendError | HeldResponse, made: int) -> None:
        """Remember how the last of ``made`` attempts ended."""
        self.outcome = outcome
        self.made = made
        if isinstance(outcome, HeldResponse):
            self.drop()
            self.held = outcome
        else:
            self.failure = outcome
            if isinstance(outcome, StaleConnection):
                self.stale += 1
                return  # it says nothing about the backend: the next attempt may go there
            # In a second round everything counts, or a dead pool would be gone through again and again.
            self.refused += isinstance(outcome, ConnectFailed) and not self.rounds
        self.tried += (backend,)

    def drop(self) -> None:
        """No answer is held any more."""
        if self.held is not None:
            self.held.drop()
            self.held = None


class Retrier:
    """Decides about attempts after the first, under one configuration."""

    def __init__(self, config: Config, pool: Pool) -> None:
        settings = config.retries
        self.statuses = frozenset(settings.statuses)
        self.buffer = settings.buffer
        self._per_try_timeout = settings.per_try_timeout
        self._pool = pool
        self._attempts = max(1, settings.attempts)
        self._budget = settings.budget / 100.0, settings.min_per_second
        self._asked, self._charged = GrowthWindow(), GrowthWindow()
        self._charges = 0
        self._limit = 0.0
        self._denied = 0
        self._told_at = 0.0
        self.tick(monotonic(), 0)

    def tick(self, now: float, asked: int) -> None:
        """Ten times a second: ``asked`` is how many requests this worker has had."""
        pool = self._pool
        pool.cells[ASKED] = self._asked.observe(now, asked)
        pool.cells[RETRIES] = self._charged.observe(now, self._charges)
        self._limit = limit(pool.total(ASKED), *self._budget)
        if self._denied and now - self._told_at >= WINDOW:
            log.event("proxy", "warning", "retries over budget", denied=self._denied)
            self._denied, self._told_at = 0, now

    def may_move(self, request: UpstreamRequest) -> bool:
        """Whether a request that was sent and not answered yet may be given up and sent elsewhere."""
        return (
            self._attempts > 1
            and not request.is_last_attempt
            and request.read_body is None
            and len(request.raw_body) <= self.buffer
            and retry_rules.is_repeatable(request.raw_method, ())
            and self.has_budget()
        )

    def has_budget(self) -> bool:
        """Whether all workers together may make one more attempt than there are requests."""
        return self._pool.total(RETRIES) < self._limit

    def charge(self) -> None:
        """One more was made."""
        self._charges += 1
        self._pool.cells[RETRIES] += 1

    def bound(
        self, request: UpstreamRequest, course: RetryState, exchange: Exchange, now: float
    ) -> None:
        """Say of an attempt that begins now whether it is the last one, and when it ends for another."""
        request.is_last_attempt = self._counted(course, course.made + 1) >= self._attempts
        if self._per_try_timeout:
            request.expires_at = self._first_byte_until(course, exchange, now)

    def _first_byte_until(self, course: RetryState, exchange: Exchange, now: float) -> float:
        until = now + self._per_try_timeout
        why_not = retry_rules.refusal(
            was_sent=True,
            is_repeatable=_is_repeatable(exchange),
            # Before all of it is here the client may be the one who takes long.
            is_replayable=exchange.read_body is None and len(exchange.body) <= self.buffer,
            made=self._counted(course, course.made + 1),
            attempts=self._attempts,
            now=until,
            expires_at=course.expires_at,
        )
        return course.expires_at if why_not or not self._pool.has_other(course.tried) else until

    def next(
        self,
        course: RetryState,
        exchange: Exchange,
        request: UpstreamRequest,
        replay: Replay | None,
    ) -> tuple[Backend | None, str]:
        """The backend for another attempt, after a pause if need be; or None, and why there is none."""
        outcome = course.outcome
        why_not = retry_rules.refusal(
            was_sent=outcome.sent,
            is_repeatable=_is_repeatable(exchange),
            is_replayable=self._is_replayable(exchange, request, replay, outcome),
            made=self._counted(course, course.made),
            attempts=self._attempts,
            now=monotonic(),
            expires_at=course.expires_at,
        )
        if why_not:
            return None, why_not
        costs = retry_rules.costs(outcome.sent, outcome.status)
        if costs and not self.has_budget():
            self._denied += 1
            return None, "over_budget"
        backend = self._pick(course, exchange)
        if backend is None:
            return None, "no_other_server"
        if costs:
            self.charge()
        return backend, ""

    def _pick(self, course: RetryState, exchange: Exchange) -> Backend | None:
        """A backend that was not tried; when all were, wait a moment and begin again."""
        # Who has an answer in hand does not wait for a place elsewhere.
        pick = self._pool.pick if course.held is None else self._pool.pick_now
        try:
            return pick(course.tried, exchange)
        except NoBackend as error:
            pause = self._pause(course) if error.reason == "all_tried" else -1.0
            if pause < 0.0:
                return None
        gevent.sleep(pause)
        course.tried = ()
        course.refused = 0
        course.rounds += 1
        try:
            return self._pool.pick((), exchange)
        except NoBackend:
            return None

    def _pause(self, course: RetryState) -> float:
        was_answered = course.held is not None
        pause = retry_rules.pause(
            was_answered, course.outcome.status, course.rounds, random.random()
        )
        is_over = course.made - min(course.stale, 1) >= self._attempts
        return -1.0 if is_over or monotonic() + pause >= course.expires_at else pause

    def _counted(self, course: RetryState, made: int) -> int:
        return retry_rules.counted(made, course.stale, course.refused, self._attempts)

    def _is_replayable(
        self,
        exchange: Exchange,
        request: UpstreamRequest,
        replay: Replay | None,
        outcome: BackendError | HeldResponse,
    ) -> bool:
        """Whether the request's body can be sent (again), or there is none."""
        if not exchange.head.length or isinstance(outcome, (ConnectFailed, ConnectTimeout)):
            return True
        if replay is not None:
            return replay.is_whole
        if exchange.read_body is None:
            return len(exchange.body) <= self.buffer
        return not request.began_body and not request.raw_body


def _is_repeatable(exchange: Exchange) -> bool:
    return retry_rules.is_repeatable(exchange.head.method, exchange.head.fields)
