"""When a second attempt begins, for which requests, and who wins: no sockets, and nothing sleeps."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from fakes.proxied import Proxied, request_of
from fakes.session import Answer, Later, Outcome

from app.errors import (
    BackendReset,
    BadResponse,
    ClientGone,
    ConnectFailed,
    ShuttingDown,
)
from app.shared.layout import RETRIES
from app.worker.net.deadlines import Deadline
from app.worker.proxy.hedging import SAMPLES_KEPT, SAMPLES_LEAST, Hedger, percentile
from app.worker.upstream.adapter import Adapter


def hedger(after: float | str, has_other: bool = True) -> Hedger:
    pool: Any = SimpleNamespace(has_other=lambda _tried: has_other)
    nothing: Any = None
    return Hedger(after, pool, nothing, nothing)


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 51.0), (0.95, 96.0), (0.99, 100.0), (1.0, 100.0)]
)
def test_nearest_rank(share: float, value: float) -> None:
    """That share of the samples is below it."""
    assert percentile(deque(float(each) for each in range(100, 0, -1)), share) == value


def test_a_time_is_known_at_once() -> None:
    """And what answers take does not change it."""
    one = hedger(0.2)
    for _ in range(SAMPLES_LEAST):
        one.observe(9.0)
    one.tick()
    assert one.seconds == 0.2


def test_a_percentile_is_known_after_some_answers() -> None:
    """Until then nothing is hedged; later it follows the latest answers."""
    one = hedger("p95")
    for _ in range(SAMPLES_LEAST - 1):
        one.observe(1.0)
    one.tick()
    assert one.seconds < 0
    one.observe(1.0)
    one.tick()
    assert one.seconds == 1.0
    for _ in range(SAMPLES_KEPT):
        one.observe(2.0)
    one.tick()
    assert one.seconds == 2.0


def applies(
    method: bytes = b"GET",
    length: int = 0,
    is_last: bool = False,
    upgrade: bytes = b"",
    adapter: object = None,
    has_other: bool = True,
) -> bool:
    exchange: Any = SimpleNamespace(head=SimpleNamespace(method=method, length=length))
    request: Any = SimpleNamespace(
        is_last_attempt=is_last, upgrade=upgrade, adapter=adapter or Adapter()
    )
    course: Any = SimpleNamespace(tried=())
    return hedger(0.1, has_other).applies(exchange, course, request)


def test_for_which_requests() -> None:
    """Idempotent, without a body, no handshake, through our own adapter, with somebody else to ask."""
    assert applies()
    assert applies(method=b"DELETE")
    assert not applies(method=b"POST")
    assert not applies(method=b"PUT", length=1)
    assert not applies(method=b"PUT", length=-1)
    assert not applies(is_last=True)
    assert not applies(upgrade=b"websocket")
    assert not applies(adapter=object())
    assert not applies(has_other=False)


# -- races ---------------------------------------------------------------------------------------------


class Race(Proxied):
    """One GET, hedged at once, at servers that do what the test says; its line when it is over."""

    def __init__(self, *sends: Outcome | Later, servers: int = 2, others: int = 0, **settings: Any):
        retries = {"hedge_after": 0.001, **settings}
        super().__init__(*sends, servers=servers, others=others, retries=retries)
        self.exchange = request_of("GET")
        self.greenlet = gevent.spawn(self._handle)

    def _handle(self) -> None:
        self.exchange.deadline = Deadline()  # of this greenlet
        self.proxy.handle(self.exchange)

    def hedge_now(self) -> None:
        """Until the time has come at which a second attempt begins."""
        gevent.get_hub().join(timeout=0.01)  # returns when nothing else is to happen

    def throw(self, error: Exception) -> None:
        """What ends a wait from outside: the client has gone, the worker has to."""
        gevent.get_hub().loop.run_callback(self.greenlet.throw, error)

    def over(self) -> list[str | None]:
        """Wait for the end, look for what may never be left behind; the reasons of the attempts."""
        self.greenlet.join(5)
        gevent.idle()  # who was killed ends now
        assert self.greenlet.successful()
        assert self.pool.in_flight() == [0] * len(self.pool.backends)
        (self.line,) = self.lines
        assert sum(self.pool.asked()) == len(self.line["attempts"])
        return [attempt["reason"] for attempt in self.line["attempts"]]

    @property
    def statuses(self) -> list[int | None]:
        return [attempt["status"] for attempt in self.line["attempts"]]

    @property
    def answered_by(self) -> int:
        """Which attempt's server the line names."""
        servers = [attempt["server"] for attempt in self.line["attempts"]]
        return servers.index(self.line["backend"])


def test_the_first_answers_before_there_is_a_second() -> None:
    """Nothing is sent twice."""
    race = Race(200)
    assert race.over() == [None]
    assert (race.exchange.got, race.line["reason"]) == ([200], None)


def test_the_first_answers_and_the_second_is_abandoned() -> None:
    """Its wait is ended, its place is free."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    first.is_(200)

    assert race.over() == [None, "abandoned"]
    assert (race.exchange.got, race.statuses, race.answered_by) == ([200], [200, None], 0)
    assert isinstance(second.ended_by, gevent.GreenletExit)
    assert race.pool.cells[RETRIES] == 1


def test_the_second_answers_and_the_first_is_abandoned() -> None:
    """The line has the second's times and no reason; its attempt is marked."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    second.is_(Answer(200, b"whole"))

    assert race.over() == ["abandoned", "hedged"]
    assert (race.exchange.got, race.statuses, race.answered_by) == ([200, b"whole"], [None, 200], 1)
    assert (race.line["status"], race.line["reason"]) == (200, None)
    assert race.line["first_byte_ms"] == race.line["attempts"][1]["first_byte_ms"] >= 0
    assert first.ended_by is not None
    assert race.pool.told == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "second"])
def test_both_answer_in_one_turn_of_the_loop(order: tuple[int, int]) -> None:
    """One of them is the client's; the other's answer is closed, and its place given back like any other."""
    sends, answers = (Later(), Later()), (Answer(200, b"first"), Answer(200, b"second"))
    race = Race(*sends)
    sends[1].is_asked()
    for each in order:
        sends[each].is_(answers[each])

    assert race.over() == [None, "abandoned"]
    assert race.exchange.got == [200, b"first"]
    assert answers[1].is_closed


def test_the_first_fails_and_the_second_is_waited_for() -> None:
    """Its answer is the client's."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    first.is_(BackendReset())
    gevent.idle()
    assert race.pool.in_flight() == [0, 1]
    second.is_(200)

    assert race.over() == ["reset_before_head", "hedged"]
    assert (race.exchange.got, race.answered_by) == ([200], 1)
    assert race.pool.told == [("server 0", "reset_before_head")]


def test_the_second_fails_and_the_first_goes_on_alone() -> None:
    """No third attempt is made."""
    first, second = Later(), Later()
    race = Race(first, second, servers=3)
    second.is_asked()
    second.is_(BackendReset())
    gevent.idle()
    assert race.pool.in_flight() == [1, 0, 0]
    first.is_(200)

    assert race.over() == [None, "reset_before_head"]
    assert (race.exchange.got, race.answered_by) == ([200], 0)
    assert race.pool.told == [("server 1", "reset_before_head")]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_fail(order: tuple[int, int]) -> None:
    """The failure of the one that failed last is the client's, and each has its own reason."""
    sends, failures = (Later(), Later()), (BackendReset(), BadResponse())
    race = Race(*sends)
    sends[1].is_asked()
    for each in order:
        sends[each].is_(failures[each])
        gevent.idle()

    assert race.over() == ["reset_before_head", "bad_response"]
    assert (race.exchange.got, race.line["status"]) == ([502], 502)
    assert race.line["reason"] == failures[order[1]].reason
    assert sorted(race.pool.told) == [
        ("server 0", "reset_before_head"),
        ("server 1", "bad_response"),
    ]
    assert race.line["attempts"][order[1]]["not_retried"] == "attempts_used"


def test_a_third_server_answers_where_both_have_failed() -> None:
    """That is a retry like any other: nothing in its line says that there was a race before."""
    first, second = Later(), Later()
    race = Race(first, second, 200, servers=3, attempts=3)
    second.is_asked()
    first.is_(BackendReset())
    second.is_(BackendReset())

    assert race.over() == ["reset_before_head", "reset_before_head", None]
    assert (race.exchange.got, race.answered_by) == ([200], 2)


def second_holds(held: Answer) -> tuple[Race, Later]:
    """A race in which the second has an answer that may not be the best; the first is still to speak."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    second.is_(held)
    gevent.idle()
    return race, first


def test_an_answer_that_is_held_is_better_than_a_failure() -> None:
    """The second has a 503 and waits; the first fails: the 503 is the client's, all of it."""
    race, first = second_holds(Answer(503, b"rest"))
    assert race.pool.in_flight() == [1, 1]
    first.is_(BackendReset())

    assert race.over() == ["reset_before_head", None]
    assert (race.exchange.got, race.answered_by) == ([503, b"rest"], 1)
    assert race.pool.told == [("server 1", 503), ("server 0", "reset_before_head")]


def test_an_answer_that_is_held_is_given_up_for_a_better_one() -> None:
    """The first answers after all: the 503 of the second is closed."""
    held = Answer(503, b"rest")
    race, first = second_holds(held)
    first.is_(200)

    assert race.over() == [None, None]
    assert (race.exchange.got, race.statuses) == ([200], [200, 503])
    assert held.is_closed


@pytest.mark.parametrize("outcome", [200, 503, BackendReset()])
def test_the_first_is_held_while_the_second_may_do_better(outcome: Outcome) -> None:
    """Its 500 is passed on only if the second fails altogether."""
    first, second = Later(), Later()
    held = Answer(500, b"rest")
    race = Race(first, second)
    second.is_asked()
    first.is_(held)
    gevent.idle()
    assert race.pool.in_flight() == [1, 1]
    second.is_(outcome)

    reasons = race.over()
    if isinstance(outcome, int):
        assert reasons == [None, "hedged" if outcome == 200 else None]
        assert (race.exchange.got, race.answered_by) == ([outcome], 1)
        assert held.is_closed
    else:
        assert reasons == [None, "reset_before_head"]
        assert (race.exchange.got, race.answered_by) == ([500, b"rest"], 0)


@pytest.mark.parametrize(
    ("error", "status"), [(ClientGone(), 499), (ShuttingDown(), 503)], ids=["gone", "shutting down"]
)
def test_the_end_of_the_wait_ends_both(error: Exception, status: int) -> None:
    """A client that leaves, a worker that has to go."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    race.throw(error)

    assert race.over() == [error.reason, "abandoned"]  # type: ignore[attr-defined]
    assert race.line["status"] == status
    assert second.ended_by is not None


@pytest.mark.parametrize("outcome", [BackendReset(), Answer(500, b"rest")])
def test_the_end_of_the_wait_for_the_second_ends_it(outcome: Outcome) -> None:
    """The first is over, and the client leaves: what is held is closed."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    first.is_(outcome)
    gevent.idle()
    race.throw(ClientGone())

    over = race.over()
    assert over == [None if isinstance(outcome, Answer) else "reset_before_head", "client_gone"]
    assert (race.exchange.got, race.line["status"]) == (["cut"], 499)
    assert second.ended_by is not None
    assert not isinstance(outcome, Answer) or outcome.is_closed


def test_a_mistake_in_the_second_is_not_waited_for() -> None:
    """The first goes on alone; where it is over, the mistake is the answer."""
    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    second.is_(ValueError("a mistake"))
    gevent.idle()
    first.is_(200)
    assert race.over() == [None, "internal_error"]
    assert race.exchange.got == [200]

    first, second = Later(), Later()
    race = Race(first, second)
    second.is_asked()
    first.is_(ConnectFailed())
    gevent.idle()
    second.is_(ValueError("a mistake"))
    assert race.over() == ["connect_failed", "internal_error"]
    assert (race.exchange.got, race.line["reason"]) == ([500], "internal_error")


@pytest.mark.parametrize(("servers", "others"), [(2, 30), (1, 0)], ids=["budget", "server"])
def test_there_is_no_second_without_budget_or_server(servers: int, others: int) -> None:
    """The first is waited for as without hedging."""
    first = Later()
    race = Race(first, servers=servers, others=others)
    first.is_asked()
    race.hedge_now()
    first.is_(200)
    assert race.over() == [None]
    assert race.exchange.got == [200]


def test_the_body_of_a_held_answer_is_not_bounded_by_the_time_for_its_first_byte() -> None:
    """Neither the first's, which had per_try_timeout, nor the second's."""
    first, second = Later(), Later()
    race = Race(first, second, per_try_timeout=5)
    second.is_asked()
    assert race.session.expires_at[0] < float("inf")
    first.is_(Answer(500, b"rest"))
    gevent.idle()
    second.is_(BackendReset())
    race.over()
    assert race.exchange.got == [500, b"rest"]
    assert [request.expires_at for request in race.session.requests] == [float("inf")] * 2
