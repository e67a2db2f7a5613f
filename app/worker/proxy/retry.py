"""What comes after an attempt: another one, when and where, or the end.

Owns what a request has met so far (RetryState, with the answer that is held while another backend is asked)
and this worker's part of the retry budget. Runs in workers. It gathers facts; the rules are
app.worker.proxy.retry_rules' and app.worker.proxy.retry_budget's; which backend is the pool's affair; sending
is app.worker.proxy.forward's.
"""

from __future__ import annotations

import random
from functools import partial
from time import monotonic

from gevent import sleep

from app.config import Config
from app.errors import (
    BackendError,
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    NoBackend,
    StaleConnection,
)
from app.shared.layout import ASKED, RETRIES
from app.telemetry import log
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import NEVER, Expired
from app.worker.proxy import retry_rules
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.replay import Replay
from app.worker.proxy.retry_budget import WINDOW, GrowthWindow, limit
from app.worker.proxy.retry_rules import Facts
from app.worker.upstream.request import UpstreamRequest


class RetryState:
    """What one request has met so far, from the first attempt on that is not the end.

    ``last`` is the latest of the ``made`` attempts that brought no answer for the client, ``failure`` the
    latest error, ``held`` the attempt whose answer is held. ``tried`` are the backends not to be asked again
    in this round over all, ``rounds`` how many there were before. ``stale`` and ``refused`` count attempts
    that may be free (see retry_rules.counted). ``was_unusable``: an answer came that we refuse.
    """

    __slots__ = (
        "expires_at",
        "failure",
        "held",
        "last",
        "made",
        "refused",
        "rounds",
        "stale",
        "tried",
        "was_unusable",
    )

    last: Attempt

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self.tried: tuple[Backend, ...] = ()
        self.made = self.stale = self.refused = self.rounds = 0
        self.was_unusable = False
        self.failure: BackendError | None = None
        self.held: Attempt | None = None

    def take(self, attempt: Attempt, made: int) -> None:
        """Remember how the last of ``made`` attempts ended; of two answers only the later one is held."""
        self.last = attempt
        self.made = made
        error = attempt.error
        if error is None:
            self.drop()
            self.held = attempt
            attempt.hold()
            if attempt.request is not None:  # its body is not bounded by what its first byte was
                attempt.request.expires_at = self.expires_at
        else:
            self.failure = error
            self.was_unusable |= isinstance(
                error, BadResponse
            )  # of two that ran side by side: of either
            if isinstance(error, StaleConnection):
                self.stale += 1
                return  # it says nothing about the backend: the next attempt may go there
            # In a second round everything counts, or a dead pool would be gone through again and again.
            self.refused += isinstance(error, ConnectFailed) and not self.rounds
        self.tried += (attempt.backend,)

    def drop(self) -> None:
        """Give up the answer that is held, if it was not passed on."""
        if self.held is not None:
            self.held.close()
            self.held = None


class Retrier:
    """Decides about attempts after the first, under one configuration.

    ``statuses`` are those of answers that another attempt may better. Bodies of up to ``buffer`` bytes can be
    sent again.
    """

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

    def __repr__(self) -> str:
        return f"<Retrier of {self._attempts} attempts, {self._charges} charged>"

    def tick(self, now: float, requests: int) -> None:
        """Publish this worker's part of the budget and read the limit of all, ten times a second.

        ``requests`` is how many this worker has forwarded since it began.
        """
        pool = self._pool
        pool.cells[ASKED] = self._asked.observe(now, requests)
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
        """Charge one retry to the budget."""
        self._charges += 1
        self._pool.cells[RETRIES] += 1

    def bound(
        self, attempt: Attempt, state: RetryState, exchange: Exchange, attempts: list[Attempt]
    ) -> None:
        """Set whether an attempt that begins now is the last one, and its deadline by per_try_timeout."""
        request = attempt.request
        assert request is not None
        request.is_last_attempt = self._counted(state, state.made + 1) >= self._attempts
        until = attempt.sent_at + self._per_try_timeout
        if self._per_try_timeout and not request.is_last_attempt and until < state.expires_at:
            request.expires_at = until
            request.deadline.outlast = partial(self._outlast, attempt, state, exchange, attempts)

    def _outlast(
        self,
        attempt: Attempt,
        state: RetryState,
        exchange: Exchange,
        attempts: list[Attempt],
        now: float,
    ) -> float:
        """In the hub, when an attempt has waited in vain: until when it waits on (monotonic).

        Where it is per_try_timeout that is over, it is given up only if somebody else would be asked now.
        Else it has the time that it would have had without: what it waits for may still come.
        """
        request = attempt.request
        assert request is not None
        if request.expires_at > now or self._would_move(attempt, state, exchange, attempts, now):
            return 0.0
        request.expires_at = state.expires_at
        if not request.sent_at:
            return min(attempt.sent_at + request.connect_timeout, state.expires_at)
        return request.next_deadline(request.sent_at)

    def _would_move(
        self,
        attempt: Attempt,
        state: RetryState,
        exchange: Exchange,
        attempts: list[Attempt],
        now: float,
    ) -> bool:
        """Whether there would be another attempt if this one, which has no answer yet, were given up now."""
        request = attempt.request
        was_sent = request is not None and request.sent_at > 0.0
        facts = Facts(
            was_sent=was_sent,
            was_unusable=state.was_unusable,
            is_repeatable=retry_rules.is_repeatable(exchange.head.method, exchange.head.lines),
            # Before all of it is here the client may be the one who takes long.
            is_replayable=not was_sent
            or (exchange.read_body is None and len(exchange.body) <= self.buffer),
            costs=True,
            has_budget=self.has_budget(),
            counted=self._counted(state, len(attempts)),
            attempts=self._attempts,
            now=now,
            expires_at=state.expires_at,
        )
        if retry_rules.refusal(facts):
            return False
        going = [one.backend for one in attempts[state.made :]]  # a hedge's too
        return self._pool.has_place_besides([*state.tried, attempt.backend, *going])

    def next(self, state: RetryState, exchange: Exchange, replay: Replay | None) -> Backend | None:
        """The backend for another attempt, with a place there, after a pause if need be.

        None if there is none; the last attempt's ``not_retried`` then says why.
        """
        facts = self._facts(state, exchange, replay)
        why_not = retry_rules.refusal(facts)
        if why_not == "over_budget":
            self._denied += 1
        backend = None
        if not why_not:
            exchange.deadline.at = state.expires_at  # the queue's own timeout begins anew
            try:
                backend = self._pick(state, exchange)
            except Expired:
                why_not = "out_of_time"
            finally:
                exchange.deadline.at = NEVER
        if backend is None:
            state.last.not_retried = why_not or "no_other_server"
        elif facts.costs:
            self.charge()
        return backend

    def _facts(self, state: RetryState, exchange: Exchange, replay: Replay | None) -> Facts:
        last = state.last
        was_sent = last.was_sent
        return Facts(
            was_sent=was_sent,
            was_unusable=state.was_unusable,
            is_repeatable=retry_rules.is_repeatable(exchange.head.method, exchange.head.lines),
            is_replayable=self._is_replayable(exchange, last, replay),
            costs=retry_rules.costs(was_sent, _status_of(last)),
            has_budget=self.has_budget(),
            counted=self._counted(state, state.made),
            attempts=self._attempts,
            now=monotonic(),
            expires_at=state.expires_at,
        )

    def _pick(self, state: RetryState, exchange: Exchange) -> Backend | None:
        """A backend that was not tried; when all were, wait a moment and begin again."""
        # Who has an answer in hand does not wait for a place elsewhere.
        pick = self._pool.pick if state.held is None else self._pool.pick_now
        try:
            return pick(state.tried, exchange)
        except NoBackend as error:
            pause = self._pause(state) if error.reason == "all_tried" else -1.0
            if pause < 0.0:
                return None
        sleep(pause)
        state.tried = ()
        state.refused = 0
        state.rounds += 1
        try:
            return self._pool.pick((), exchange)
        except NoBackend:
            return None

    def _pause(self, state: RetryState) -> float:
        """Seconds until a second round may begin; negative for never."""
        was_answered = state.held is not None
        pause = retry_rules.pause(
            was_answered, _status_of(state.last), state.rounds, random.random()
        )
        is_over = state.made - min(state.stale, 1) >= self._attempts
        return -1.0 if is_over or monotonic() + pause >= state.expires_at else pause

    def _counted(self, state: RetryState, made: int) -> int:
        return retry_rules.counted(made, state.stale, state.refused, self._attempts)

    def _is_replayable(self, exchange: Exchange, last: Attempt, replay: Replay | None) -> bool:
        """Whether the request's body can be sent (again), or there is none."""
        if not exchange.head.length or isinstance(last.error, (ConnectFailed, ConnectTimeout)):
            return True
        if replay is not None:
            return replay.is_whole
        if exchange.read_body is None:
            return len(exchange.body) <= self.buffer
        request = last.request
        return request is None or (not request.began_body and not request.raw_body)


def _status_of(attempt: Attempt) -> int:
    """What a failure would be told as; 0 of an answer."""
    return attempt.error.status if attempt.error is not None else 0
