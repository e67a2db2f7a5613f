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
from typing import Any

import gevent
from gevent.event import Event

from app.errors import BackendError, ClientError, InternalError, NoBackend, ProxyError
from app.telemetry import log
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.net.deadlines import deadlines
from app.worker.proxy import retry_rules
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.retry import Retrier, RetryState
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.session import Session

# Of the latest answers; a percentile of fewer than the least says nothing.
SAMPLES_KEPT = 1000
SAMPLES_LEAST = 50

Make = Callable[[Backend], UpstreamRequest]


class Overtaken(Exception):
    """Thrown into the first attempt when the second has its answer."""


class Abandoned(gevent.GreenletExit):  # type: ignore[misc]
    """Thrown into the second attempt when the first has its answer, or nobody wants one."""


class Hedger:
    """Says whether and when a second attempt begins, under one configuration."""

    def __init__(
        self,
        after: float | str,
        pool: Pool,
        session: Session,
        retrier: Retrier,
    ) -> None:
        """``after`` is a time in seconds, or a percentile of first-byte times: "p95"."""
        self.pool = pool
        self.session = session
        self.retrier = retrier
        self._share = float(after[1:]) / 100 if isinstance(after, str) else 0.0
        self.seconds = -1.0 if isinstance(after, str) else after  # negative: not known yet
        self._seen: deque[float] = deque(maxlen=SAMPLES_KEPT)

    def __repr__(self) -> str:
        return f"<Hedger after {self.seconds} s, {len(self._seen)} samples>"

    def tick(self) -> None:
        """Find the percentile of the latest samples anew, ten times a second: sorting them takes 0.1 ms."""
        if self._share and len(self._seen) >= SAMPLES_LEAST:
            self.seconds = percentile(self._seen, self._share)

    def observe(self, seconds: float) -> None:
        """Take a first-byte time into account; of an abandoned attempt, how long it was waited for."""
        if self._share:
            self._seen.append(seconds)

    def applies(self, exchange: Exchange, state: RetryState, request: UpstreamRequest) -> bool:
        """Whether a second attempt may be made beside this one."""
        return (
            not exchange.head.length
            and exchange.head.method in retry_rules.IDEMPOTENT
            and not request.is_last_attempt
            and not request.upgrade
            and type(request.adapter) is Adapter  # another's attempt cannot be abandoned
            and self.pool.has_other(state.tried)
        )


class Race:
    """The two attempts of one request at the same time.

    What comes of the one that does not count is given to ``state``. ``make`` makes the request of the second,
    which is put into ``attempts``.
    """

    __slots__ = (
        "_attempts",
        "_exchange",
        "_first",
        "_greenlet",
        "_hedger",
        "_is_first_waiting",
        "_make",
        "_mistake",
        "_second",
        "_second_is_over",
        "_state",
    )

    def __init__(
        self,
        hedger: Hedger,
        first: Attempt,
        exchange: Exchange,
        state: RetryState,
        attempts: list[Attempt],
        make: Make,
    ) -> None:
        self._hedger = hedger
        self._first = first
        self._exchange = exchange
        self._state = state
        self._attempts = attempts
        self._make = make
        self._second: Attempt | None = None  # while it runs or has what the first is to know
        self._second_is_over = Event()
        self._mistake: ProxyError | None = None  # what ended the second and is no backend's fault
        self._greenlet: Any = None
        self._is_first_waiting = False

    def run(self) -> Attempt:
        """Send the first attempt, and another beside it if it takes too long; the one that counts.

        That is the one whose answer came first, or the last to fail. In the request's greenlet. Raises what
        ended the race and is no backend's fault.
        """
        hedger, first = self._hedger, self._first
        timer = gevent.get_hub().loop.timer(max(hedger.seconds, 0.0))
        if hedger.seconds >= 0.0:
            timer.start(self._begin)
        try:
            self._is_first_waiting = True
            first.response = hedger.session.send(first.request)
        except Overtaken:
            first.abandon("abandoned")
            first.end()
            hedger.observe(monotonic() - first.sent_at)
            return self._winner()
        except BackendError as error:
            self._is_first_waiting = False
            first.fail(error)
            return self._wait_for_second() if self._is_second_going else first
        except BaseException:
            self._abandon_second()
            raise
        finally:
            self._is_first_waiting = False
            timer.stop()
            timer.close()
        hedger.observe(first.first_byte_seconds)
        if first.response.head.status in hedger.retrier.statuses and self._is_second_going:
            return self._wait_for_second()
        self._abandon_second()
        return first

    # -- in the first attempt's greenlet -----------------------------------------------------------

    @property
    def _is_second_going(self) -> bool:
        return self._second is not None and self._second.reason is None

    def _wait_for_second(self) -> Attempt:
        """The first is over and not good enough: what the second brings."""
        self._state.take(self._first, len(self._attempts))
        try:
            self._second_is_over.wait()
        except BaseException as error:  # nobody wants it any more
            self._greenlet.kill(Abandoned, block=False)
            assert self._second is not None
            known = error if isinstance(error, ProxyError) else InternalError
            self._second.abandon(known.reason)
            raise
        if self._mistake is not None:
            raise self._mistake
        return self._winner()

    def _winner(self) -> Attempt:
        """The second counts, whether it has an answer or has failed."""
        second = self._second
        assert second is not None
        if second.response is not None:
            second.is_winner = True
            self._hand_over(second)
        return second

    def _hand_over(self, second: Attempt) -> None:
        """Its body is read in the request's own greenlet."""
        assert second.request is not None
        second.request.deadline = self._exchange.deadline

    def _abandon_second(self) -> None:
        """End the second, wherever it is."""
        if self._greenlet is not None:
            self._greenlet.kill(Abandoned, block=False)
            if self._second is not None and self._second.reason is None:
                self._second.abandon("abandoned")

    # -- the second attempt ------------------------------------------------------------------------

    def _first_waits(self) -> bool:
        """Asked anew each time: other greenlets change it, of which a type checker knows nothing."""
        return self._is_first_waiting

    def _begin(self) -> None:
        """In the hub: the first has taken too long."""
        self._greenlet = gevent.spawn(self._run_second)

    def _run_second(self) -> None:
        """In the second's own greenlet: from the pick to its answer."""
        hedger, tried = self._hedger, (*self._state.tried, self._first.backend)
        if not self._first_waits() or not hedger.retrier.has_budget():
            return
        try:
            backend = hedger.pool.pick_now(tried, self._exchange)
        except (NoBackend, ClientError):
            return
        second = self._second = Attempt(hedger.pool, backend, self._exchange)
        self._attempts.append(second)
        hedger.retrier.charge()
        deadline = deadlines.enter()
        try:
            request = second.request = self._make(backend)
            request.deadline = deadline
            request.on_interim = None  # the client has but one answer in front of it
            request.is_last_attempt = True
            second.sent_at = monotonic()
            second.response = hedger.session.send(request)
        except BackendError as error:
            self._second_failed(second, error)
        except Abandoned:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised in the request's greenlet
            self._second_broke(second, error)
        else:
            self._second_answered(second)
        finally:
            deadlines.leave(deadline)
            if second.response is None:
                second.end()

    def _second_answered(self, second: Attempt) -> None:
        """The first has lost, unless it may still bring something better than this."""
        hedger = self._hedger
        if second.reason is not None:  # it was abandoned, in this very turn of the loop
            second.abandon(second.reason)
            return
        hedger.observe(second.first_byte_seconds)
        if self._first_waits() and second.response.head.status in hedger.retrier.statuses:
            self._hand_over(second)
            self._state.take(second, len(self._attempts))
            self._second = self._greenlet = None  # the first goes on alone
            return
        self._second_is_over.set()
        if self._first_waits():
            gevent.get_hub().loop.run_callback(self._overtake)

    def _second_failed(self, second: Attempt, error: BackendError) -> None:
        """The first is waited for; if it has failed too, this is how both ended."""
        second.fail(error)
        if self._first_waits():
            self._state.take(second, len(self._attempts))
        else:
            self._second_is_over.set()

    def _second_broke(self, second: Attempt, error: BaseException) -> None:
        """The client's side has failed, or what nobody foresaw: nobody may wait for the second for ever."""
        if not isinstance(error, ProxyError):
            log.uncaught("proxy", "hedged attempt failed", error)
            error = InternalError(str(error))
        second.fail(error)
        self._mistake = error
        self._second_is_over.set()

    def _overtake(self) -> None:
        """In the hub: if the first still waits, it need not any more."""
        if self._is_first_waiting:
            self._is_first_waiting = False
            deadlines.throw(self._exchange.deadline, Overtaken)


def percentile(samples: deque[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
