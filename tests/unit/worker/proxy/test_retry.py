"""Whether, where and when another attempt is made, and for which requests. No sockets."""

from __future__ import annotations

from time import monotonic
from typing import Any

import gevent
import pytest
from fakes.pool import Pool
from fakes.proxied import Proxied, forward, request_of
from fakes.session import Later

from app import config as configuration
from app.errors import (
    BackendError,
    BackendReset,
    BadResponse,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    ResponseTimeout,
    StaleConnection,
    Stalled,
)
from app.shared.layout import RETRIES
from app.worker.net.deadlines import NEVER, Expired
from app.worker.proxy.retry import Retrier


def taken(error: BackendError, sent: bool) -> BackendError:
    error.sent = sent
    return error


def test_refused_after_a_stale_connection_still_leaves_the_other_server() -> None:
    """A server dies: its kept connection ends, it refuses the next, and the healthy one is asked."""
    result = forward("GET", StaleConnection(), ConnectFailed())
    assert (result.status, len(result.tried)) == (200, 3)


def test_stale_connections_do_not_go_on_for_ever() -> None:
    """Only one of them is free."""
    result = forward("GET", *(StaleConnection() for _ in range(9)))
    assert (result.status, len(result.tried)) == (502, 3)


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", "", 200),
        ("POST", "", 502),
        ("POST", "Idempotency-Key: 7\r\n", 200),
        ("PATCH", "idempotency-key: 7\r\n", 200),
        # The server never sees it.
        ("POST", "Connection: Idempotency-Key\r\nIdempotency-Key: 7\r\n", 502),
        ("POST", "Idempotency_Key: 7\r\n", 502),
    ],
)
def test_what_may_have_been_acted_upon_is_not_sent_twice(
    method: str, fields: str, status: int
) -> None:
    """A connection that ended after the request was taken: again only what may be repeated."""
    result = forward(method, BackendReset(), fields=fields)
    assert result.status == status
    assert result.attempts[0].get("not_retried") == ("not_repeatable" if status == 502 else None)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_an_answer_that_is_refused_is_not_asked_for_again(method: str) -> None:
    """The request was carried out, and the next server would answer alike."""
    result = forward(method, BadResponse())
    assert (result.status, result.tried) == (502, ["server 0"])
    assert result.why_not == "bad_response"
    assert result.pool.told == [("server 0", "bad_response")]


def test_what_was_never_taken_is_sent_again_whatever_the_method() -> None:
    """A stale connection whose peer acknowledged nothing."""
    assert forward("POST", taken(StaleConnection(), False), ConnectFailed()).status == 200


def test_attempts_bound_the_servers_asked() -> None:
    """With two attempts a third server is not asked."""
    result = forward("GET", BackendReset(), BackendReset(), servers=3)
    assert (result.status, result.tried) == (502, ["server 0", "server 1"])
    assert result.why_not == "attempts_used"


def test_servers_that_refuse_the_connection_are_not_counted() -> None:
    """Nobody has had work with them: the third is asked, whatever the method."""
    result = forward("POST", ConnectFailed(), ConnectFailed(), servers=3)
    assert (result.status, result.tried) == (200, ["server 0", "server 1", "server 2"])


def test_more_refusals_than_eight_are_counted() -> None:
    """A request does not go through a thousand dead servers."""
    result = forward("GET", *(ConnectFailed() for _ in range(99)), servers=99)
    assert (result.status, len(result.tried)) == (502, 10)


@pytest.mark.parametrize("attempts", [0, 1])
def test_one_attempt_means_no_other_server(attempts: int) -> None:
    """Not even for a refused connection."""
    result = forward("GET", ConnectFailed(), attempts=attempts)
    assert (result.status, result.tried) == (502, ["server 0"])


def test_a_server_is_asked_again_after_a_pause_when_all_were(pauses: list[float]) -> None:
    """Within the attempts: the second round begins after some 25 ms, a third after twice that."""
    result = forward("GET", *[BackendReset()] * 9, servers=1, attempts=3)

    assert (result.status, len(result.tried)) == (502, 3)
    assert 0.0125 <= pauses[0] <= 0.025
    assert 0.025 <= pauses[1] <= 0.05
    assert len(pauses) == 2


def test_there_is_no_pause_while_a_server_was_not_asked(pauses: list[float]) -> None:
    """The other one is asked at once."""
    assert forward("GET", BackendReset()).status == 200
    assert pauses == []


def test_refusals_count_once_all_servers_were_asked(pauses: list[float]) -> None:
    """One dead server and two attempts are two attempts."""
    result = forward("GET", *[ConnectFailed()] * 9, servers=1)
    assert (result.status, len(result.tried), len(pauses)) == (502, 2, 1)


@pytest.mark.parametrize("error", [ConnectTimeout, ResponseTimeout])
def test_who_took_too_long_is_not_asked_again(
    error: type[BackendError], pauses: list[float]
) -> None:
    """Another server may be asked, but there is no second round after a timeout."""
    result = forward("GET", error(), servers=1)
    assert (result.status, len(result.tried), pauses) == (504, 1, [])
    assert result.why_not == "no_other_server"
    assert forward("GET", error()).status == 200


def test_a_second_round_is_no_longer_than_the_attempts() -> None:
    """Two dead servers and three attempts: both, and one of them again."""
    assert len(forward("GET", *[ConnectFailed()] * 9, attempts=3).tried) == 3


def test_there_is_no_second_round_past_the_deadline(pauses: list[float]) -> None:
    """A pause that would end after timeouts.total is not begun."""
    result = forward("GET", BackendReset(), servers=1, total=0.001)
    assert (result.status, len(result.tried), pauses) == (502, 1, [])


@pytest.mark.parametrize(
    ("buffer", "failure", "status"),
    [
        (4, BackendReset(), 200),
        (3, BackendReset(), 502),
        (0, BackendReset(), 502),
        (0, ConnectFailed(), 200),
        (0, ConnectTimeout(), 200),
        (0, 503, 503),
    ],
)
def test_a_body_longer_than_the_buffer_is_not_sent_twice(
    buffer: int, failure: ProxyError | int, status: int
) -> None:
    """Unless none of it was sent."""
    result = forward("PUT", failure, body=b"body", buffer=buffer)
    assert result.status == status
    assert result.why_not == (None if status == 200 else "body_gone")


def test_over_the_budget_the_failure_is_the_clients() -> None:
    """All workers together have made as many retries as they may."""
    assert forward("GET", BackendReset(), others=29).status == 200
    result = forward("GET", BackendReset(), others=30)
    assert (result.status, result.why_not) == (502, "over_budget")
    assert forward("GET", 500, others=30).status == 500


def test_a_retry_is_charged_to_the_worker_that_makes_it() -> None:
    """Once for each that is made, and not for one that finds no other server."""
    assert forward("GET", BackendReset()).pool.cells[RETRIES] == 1
    assert forward("GET", 500).pool.cells[RETRIES] == 1
    assert forward("GET", 500, servers=1).pool.cells[RETRIES] == 0
    assert forward("GET", ConnectTimeout()).pool.cells[RETRIES] == 1


def test_what_never_left_is_not_charged() -> None:
    """A server that has died is no storm: everybody who is refused goes elsewhere."""
    result = forward("GET", ConnectFailed(), others=30)
    assert (result.status, result.pool.cells[RETRIES]) == (200, 0)
    assert forward("POST", taken(BackendReset(), False), others=30).status == 200


def test_a_retry_waits_for_a_place_no_longer_than_the_total() -> None:
    """The queue's own timeout begins anew with each wait."""
    proxied = Proxied(BackendReset(), timeouts={"total": 60})
    exchange = request_of("GET")
    first, untils = proxied.pool.pick, list[float]()

    def pick(tried: tuple[Any, ...], of: Any = None) -> Any:
        untils.append(exchange.deadline.at)
        if tried:
            raise Expired
        return first(tried, of)

    proxied.pool.pick = pick  # type: ignore[method-assign]
    line = proxied.handle(exchange)
    assert untils == [NEVER, proxied.session.expires_at[0]]
    assert exchange.deadline.at == NEVER
    assert (line["status"], line["attempts"][0]["not_retried"]) == (502, "out_of_time")


def test_the_time_for_one_try_bounds_all_but_the_last() -> None:
    """The first attempt ends early, for there is another server; the second has the read timeout."""
    result = forward("GET", ResponseTimeout(), per_try_timeout=1, total=5)
    first, second = result.session.expires_at
    assert second - first == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize(
    ("method", "servers", "attempts", "body"),
    [("POST", 2, 2, b""), ("GET", 1, 2, b""), ("GET", 2, 1, b""), ("PUT", 2, 2, b"long")],
)
def test_the_time_for_one_try_never_ends_the_only_one(
    method: str, servers: int, attempts: int, body: bytes
) -> None:
    """A request that could not be sent elsewhere waits as long as without it."""
    settings: dict[str, Any] = {"per_try_timeout": 0.5, "total": 60, "buffer": 3}
    result = forward(method, servers=servers, attempts=attempts, body=body, **settings)
    plain = forward(method, body=body, total=60)
    request = result.session.requests[0]
    if attempts > 1:  # asked when the time is over, it has what is left of the read timeout
        assert result.session.outlasted == [request.sent_at + 9]
        assert request.deadline.outlast is None
    assert request.expires_at == pytest.approx(plain.session.requests[0].expires_at, abs=1)


def test_the_time_for_one_try_ends_none_when_the_budget_is_spent() -> None:
    """That is asked when it is over: what all servers take longer for is answered all the same."""
    assert forward("GET", per_try_timeout=0.5).session.outlasted == [0.0]
    spent = forward("GET", per_try_timeout=0.5, others=30)
    assert spent.session.outlasted == [spent.session.requests[0].sent_at + 9]


def test_the_time_for_one_try_ends_none_that_would_wait_for_a_place() -> None:
    """The others are full: the server that is asked may answer before they have room."""
    proxied = Proxied(retries={"per_try_timeout": 0.5}, timeouts={"read": 9})
    proxied.pool.has_places = False
    proxied.handle(request_of("GET"))
    assert proxied.session.outlasted == [proxied.session.requests[0].sent_at + 9]


@pytest.mark.parametrize(("others", "wait"), [(0, 0.0), (30, 3.0)])
def test_the_time_for_one_try_counts_from_before_the_connection(others: int, wait: float) -> None:
    """Nothing was sent: any request may go elsewhere. Else it has the connect timeout that there is."""
    proxied = Proxied(others=others, retries={"per_try_timeout": 0.5}, timeouts={"connect": 3})
    proxied.session.is_connecting = True
    proxied.handle(request_of("POST", body=b"123456789"))
    [until] = proxied.session.outlasted
    begun = proxied.session.expires_at[0] - 0.5
    assert until == pytest.approx(begun + wait if wait else 0.0)


def test_a_timeout_that_is_not_the_one_for_a_try_stands() -> None:
    """The read timeout, say, that is shorter: nothing is asked then."""
    proxied = Proxied(Later(), others=30, retries={"per_try_timeout": 5})
    exchange = request_of("GET")
    greenlet = gevent.spawn(proxied.handle, exchange)
    gevent.idle()
    assert exchange.deadline.outlast is not None
    assert exchange.deadline.outlast(monotonic()) == 0.0
    greenlet.kill()


def test_what_may_be_moved_from_a_stalled_server() -> None:
    """What may be repeated, while an attempt is left: a wait is not given up for an error."""
    assert forward("GET", Stalled(), servers=3).movable == [True, False]
    assert forward("PUT", StaleConnection(), Stalled(), servers=3).movable == [True, True, False]
    assert forward("GET", servers=3, attempts=1).movable == [False]
    assert forward("POST", ConnectFailed(), servers=3, attempts=3).movable == [False, False]
    assert forward("PUT", body=b"body", buffer=3).movable == [False]
    assert forward("GET", others=30).movable == [False]


def test_a_charge_is_forgotten_after_ten_seconds() -> None:
    """Until then all workers see it."""
    pool = Pool(1)
    retrier = Retrier(configuration.parse("{}"), pool)  # type: ignore[arg-type]
    start = monotonic()
    retrier.tick(start, 0)
    retrier.charge()
    charged = []
    for later in (1.0, 10.0, 12.0):
        retrier.tick(start + later, 0)
        charged.append(pool.cells[RETRIES])
    assert charged == [1, 1, 0]
