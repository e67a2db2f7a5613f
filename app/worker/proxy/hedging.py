"""A second attempt beside the first that has taken too long: the first answer wins (retries.hedge_after).

Owns when that is (a time, or a percentile of this worker's latest first-byte times), the race of two
attempts, and the end of the one that lost. The first runs in the request's own greenlet, as without hedging;
the second in one of its own, begun by a timer. Runs in workers. What may be sent twice is
app.worker.proxy.retry_rules' affair, whether the budget allows it app.worker.proxy.retry's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from app.errors import BackendError, ClientError, InternalError, NoBackend, ProxyError
from app.telemetry import log
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import deadlines
from app.worker.proxy import retry_rules
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.retry import HeldResponse, Retrier, RetryState
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.session import Session

# Of the latest answers; a percentile of fewer than the least says nothing.
SAMPLES_KEPT = 1000
SAMPLES_LEAST = 50


class Overtaken(Exception):
    """Thrown into the first attempt when the second has its answer."""


class Abandoned(gevent.GreenletExit):  # type: ignore[misc]
    """Thrown into the second attempt when the first has its answer, or nobody wants one."""


class Lap(NamedTuple):
    """One attempt: where, what, its part of the access line, and since when."""

    backend: Backend
    request: UpstreamRequest
    attempt: dict[str, Any]
    sent_at: float

    def close(self, reason: str | None) -> None:
        """It is over."""
        self.attempt["reason"] = reason
        if self.request.connect_seconds is not None:
            self.attempt["connect_ms"] = int(self.request.connect_seconds * 1e6) / 1e3


class Hedger:
    """Says when a second attempt begins, under one configuration."""

    def __init__(
        self,
        after: float | str,
        pool: Pool,
        session: Session,
        retrier: Retrier,
    ) -> None:
        self.pool = pool
        self.session = session
        self.retrier = retrier
        self._share = float(after[1:]) / 100 if isinstance(after, str) else 0.0
        self.seconds = -1.0 if isinstance(after, str) else after  # negative: not known yet
        self._seen: deque[float] = deque(maxlen=SAMPLES_KEPT)

    def __repr__(self) -> str:
        return f"<Hedger after {self.seconds} s, {len(self._seen)} samples>"

    def tick(self) -> None:
        """Ten times a second."""
        if self._share and len(self._seen) >= SAMPLES_LEAST:
            self.seconds = percentile(self._seen, self._share)

    def observe(self, seconds: float) -> None:
        """Take a first-byte time into account; of an abandoned attempt, how long it was waited for."""
        if self._share:
            self._seen.append(seconds)

    def applies(self, exchange: Exchange, course: RetryState, request: UpstreamRequest) -> bool:
        """Whether a second attempt may be made beside this one."""
        return (
            not exchange.head.length
            and exchange.head.method in retry_rules.IDEMPOTENT
            and not request.is_last_attempt
            and not request.upgrade
            and type(request.adapter) is Adapter  # another's attempt cannot be abandoned
            and self.pool.has_other(course.tried)
        )

    def race(
        self,
        exchange: Exchange,
        course: RetryState,
        attempts: list[dict[str, Any]],
        first: Lap,
        make: Callable[[Backend], UpstreamRequest],
    ) -> Race:
        """One request's first attempt, and maybe another; ``make`` makes the request for that."""
        return Race(self, exchange, course, attempts, first, make)


class Race:
    """One request's two attempts; ``lap`` is the one whose answer, or failure, ``run`` ended with.

    The place of ``lap`` at its backend is the caller's to release, the other's is released here.
    """

    __slots__ = (
        "_attempts",
        "_course",
        "_exchange",
        "_first",
        "_greenlet",
        "_hedger",
        "_is_first_waiting",
        "_make",
        "_outcome",
        "_over",
        "_second",
        "lap",
    )

    def __init__(
        self,
        hedger: Hedger,
        exchange: Exchange,
        course: RetryState,
        attempts: list[dict[str, Any]],
        first: Lap,
        make: Callable[[Backend], UpstreamRequest],
    ) -> None:
        self._hedger = hedger
        self._exchange = exchange
        self._course = course
        self._attempts = attempts
        self._first = self.lap = first
        self._make = make
        self._second: Lap | None = None
        self._outcome: Any = None  # of the second: its response or its BackendError
        self._greenlet: Any = None
        self._over = Event()
        self._is_first_waiting = False

    def mark(self, attempt: dict[str, Any]) -> dict[str, Any]:
        """What became of an answer, as it was; in the line a second attempt's is marked."""
        if attempt["reason"] is not None or self.lap is self._first:
            return attempt
        answer = dict(attempt)
        attempt["reason"] = "hedged"
        return answer

    def run(self) -> Any:
        """The response, or the failure, that is to be acted upon."""
        hedger = self._hedger
        timer = gevent.get_hub().loop.timer(max(hedger.seconds, 0.0))
        if hedger.seconds >= 0.0:
            timer.start(self._begin)
        try:
            self._is_first_waiting = True
            response = hedger.session.send(self._first.request)
        except Overtaken:
            self._first.close("abandoned")
            hedger.observe(monotonic() - self._first.sent_at)
            hedger.pool.release(self._first.backend)
            return self._pass_to_second()
        except BackendError as error:
            self._is_first_waiting = False
            if not self._is_second_going:
                raise
            self._first.close(error.reason)
            hedger.pool.failed(self._first.backend, error)
            return self._wait_for_second(error)
        except BaseException:
            self._abandon()
            raise
        finally:
            self._is_first_waiting = False
            timer.stop()
            timer.close()
        hedger.observe(response.first_byte_at - self._first.sent_at)
        status = response.head.status
        if status in hedger.retrier.statuses and self._is_second_going:
            self._first.attempt["status"] = status
            self._first.close(None)
            hedger.pool.answered(
                self._first.backend, status, response.first_byte_at - self._first.sent_at
            )
            return self._wait_for_second(
                HeldResponse(self._first.backend, response, self._first.attempt, hedger.pool)
            )
        self._abandon()
        return response

    # -- in the first attempt's greenlet -----------------------------------------------------------

    @property
    def _is_second_going(self) -> bool:
        return self._second is not None and self._second.attempt["reason"] is None

    def _wait_for_second(self, outcome: BackendError | HeldResponse) -> Any:
        """The first is over and not good enough: what the second brings."""
        self._course.take(self._first.backend, outcome, len(self._attempts))
        self._hedger.pool.release(self._first.backend)
        self.lap = self._second  # type: ignore[assignment]
        try:
            self._over.wait()
        except BaseException:  # nobody wants it any more
            self._greenlet.kill(Abandoned, block=False)
            if self._outcome is not None and not isinstance(self._outcome, ProxyError):
                self._outcome.close()
            raise
        if isinstance(self._outcome, ProxyError):
            raise self._outcome
        return self._pass_to_second()

    def _pass_to_second(self) -> Any:
        assert self._second is not None
        self.lap = self._second
        # Its body is read here, in the request's own greenlet.
        self._second.request.deadline = self._exchange.deadline
        return self._outcome

    def _abandon(self) -> None:
        """End the second, wherever it is."""
        second, greenlet = self._second, self._greenlet
        if greenlet is None:
            return
        greenlet.kill(Abandoned, block=False)
        if second is None or second.attempt["reason"] is not None:
            return
        second.close("abandoned")
        if self._outcome is not None:  # it had its answer, a moment too late
            self._outcome.close()
            self._hedger.pool.release(second.backend)

    # -- the second attempt ------------------------------------------------------------------------

    def _first_waits(self) -> bool:
        """Asked anew each time: other greenlets change it, of which a type checker knows nothing."""
        return self._is_first_waiting

    def _begin(self) -> None:
        """In the hub: the first has taken too long."""
        self._greenlet = gevent.spawn(self._run_second)

    def _run_second(self) -> None:
        hedger, course = self._hedger, self._course
        if not self._first_waits() or not hedger.retrier.has_budget():
            return
        try:
            backend = hedger.pool.pick_now((*course.tried, self._first.backend), self._exchange)
        except (NoBackend, ClientError):
            return
        hedger.retrier.charge()
        deadline = deadlines.enter()
        try:
            request = self._make(backend)
            request.deadline = deadline
            request.on_interim = None  # the client has but one answer in front of it
            request.is_last_attempt = True
            attempt = {
                "server": backend.name,
                "connect_ms": None,
                "first_byte_ms": None,
                "status": None,
                "reason": None,
            }
            self._attempts.append(attempt)
            hedger.pool.cells[backend.requests] += 1
            self._second = second = Lap(backend, request, attempt, monotonic())
            response = hedger.session.send(request)
        except BackendError as error:
            self._lose(error)
            return
        except BaseException as error:
            if self.lap is self._first:
                hedger.pool.release(backend)
            if isinstance(error, Abandoned):
                raise
            self._break(error)
            return
        finally:
            deadlines.leave(deadline)
        hedger.observe(response.first_byte_at - second.sent_at)
        if self._first_waits() and response.head.status in hedger.retrier.statuses:
            self._hold(response)
            return
        self._outcome = response
        self._over.set()
        if self._is_first_waiting:
            gevent.get_hub().loop.run_callback(self._overtake)

    def _break(self, error: BaseException) -> None:
        """The client's side has failed, or what nobody foresaw: nobody may wait for the second for ever."""
        if not isinstance(error, ProxyError):
            log.uncaught("proxy", "hedged attempt failed", error)
            error = InternalError(str(error))
        if self.lap is not self._first:
            self._outcome = error
            self._over.set()
        elif self._second is not None:
            self._second.close(error.reason)

    def _lose(self, error: BackendError) -> None:
        """The second has failed: that of the first is waited for, or this is how both ended."""
        second = self._second
        assert second is not None
        if not self._is_first_waiting:
            self._outcome = error
            self._over.set()
            return
        second.close(error.reason)
        self._hedger.pool.failed(second.backend, error)
        self._course.take(second.backend, error, len(self._attempts))
        self._hedger.pool.release(second.backend)

    def _hold(self, response: Any) -> None:
        """An answer that the first may still better."""
        second, pool = self._second, self._hedger.pool
        assert second is not None
        status = response.head.status
        second.attempt["status"] = status
        second.request.deadline = self._exchange.deadline
        seconds = response.first_byte_at - second.sent_at
        second.attempt["first_byte_ms"] = int(seconds * 1e6) / 1e3
        pool.answered(second.backend, status, seconds)
        self._course.take(
            second.backend,
            HeldResponse(second.backend, response, second.attempt, pool),
            len(self._attempts),
        )
        pool.release(second.backend)
        self._second = None
        self._greenlet = None

    def _overtake(self) -> None:
        """In the hub: if the first still waits, it need not any more."""
        if self._is_first_waiting:
            self._is_first_waiting = False
            deadlines.throw(self._exchange.deadline, Overtaken)


def percentile(samples: deque[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
