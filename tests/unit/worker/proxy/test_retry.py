"""The retry loop: how often, where, and for which requests another attempt is made; what nobody foresaw.

No sockets.
"""

from __future__ import annotations

import json
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.exchange import ClientSide
from fakes.pool import Pool
from fakes.session import Answer, Session

from app import config as configuration
from app.errors import (
    Aborted,
    BackendError,
    BackendReset,
    ClientGone,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    ResponseTimeout,
    StaleConnection,
    Stalled,
)
from app.shared.table import ASKED, RETRIES
from app.worker.proxy import retry
from app.worker.proxy.handler import Proxy


class Result:
    """What came of one request."""

    def __init__(self, pool: Pool, session: Session, line: dict[str, Any], sent: list[Any]) -> None:
        self.pool, self.session, self.line, self.sent = pool, session, line, sent
        self.status = sent[0] if sent else 0
        self.movable: list[bool] = []
        self.attempts = line["attempts"]
        self.tried = [attempt["server"] for attempt in self.attempts]
        self.why_not = self.attempts[-1].get("not_retried")


@pytest.fixture(name="pauses", autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without waiting for them."""
    pauses: list[float] = []
    monkeypatch.setattr(retry.gevent, "sleep", pauses.append)
    return pauses


def taken(error: BackendError, sent: bool) -> BackendError:
    error.sent = sent
    return error


def forward(
    method: str,
    *outcomes: Exception | int | Answer,
    servers: int = 2,
    fields: str = "",
    body: bytes = b"",
    total: float = 0,
    others: int = 0,
    broken: str = "",
    **settings: Any,
) -> Result:
    """One request that meets these outcomes, attempt after attempt."""
    config = configuration.parse(
        json.dumps({"retries": settings, "timeouts": {"total": total, "read": 9}})
    )
    lines: list[dict[str, Any]] = []
    log: Any = SimpleNamespace(write=lines.append)
    pool = Pool(servers)
    session = Session(pool, outcomes)
    proxy = Proxy(config, pool, session, log)  # type: ignore[arg-type]
    pool.others = others
    if body:
        fields += f"Content-Length: {len(body)}\r\n"
    request = f"{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()
    exchange = ClientSide(request, body=body)
    if broken:
        setattr(exchange, broken, _raise)
    proxy.handle(exchange)
    assert len(lines) == 1
    assert pool.in_flight() == [0] * servers
    result = Result(pool, session, lines[0], exchange.got)
    result.movable = [proxy.may_move(request) for request in session.requests]
    return result


def _raise(*_: Any) -> None:
    raise ValueError("a mistake")


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
    ],
)
def test_what_may_have_been_acted_upon_is_not_sent_twice(
    method: str, fields: str, status: int
) -> None:
    """A connection that ended after the request was taken: again only what may be repeated."""
    result = forward(method, BackendReset(), fields=fields)
    assert result.status == status
    assert result.attempts[0].get("not_retried") == ("not_repeatable" if status == 502 else None)


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


def test_a_status_is_passed_on_unless_it_is_listed() -> None:
    """Without statuses the backend's answer is the client's."""
    result = forward("GET", 500, statuses=[])
    assert (result.status, result.tried) == (500, ["server 0"])
    assert forward("GET", 501).status == 501


@pytest.mark.parametrize("failed", [500, 502, 503, 504])
def test_by_default_another_server_is_asked_after_a_failure_of_the_first(failed: int) -> None:
    """Its answer is told to the pool, and the other's is the client's."""
    result = forward("GET", failed)
    assert (result.status, result.tried) == (200, ["server 0", "server 1"])
    assert result.pool.told == [("server 0", failed)]
    assert [attempt["status"] for attempt in result.attempts] == [failed, 200]


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", "", 200),
        ("PUT", "", 200),
        ("POST", "", 500),
        ("POST", "Idempotency-Key: 1\r\n", 200),
    ],
)
def test_a_listed_status_asks_another_server(method: str, fields: str, status: int) -> None:
    """With a request that may be repeated only: it was acted upon."""
    result = forward(method, 500, fields=fields, statuses=[500, 503])
    assert result.status == status


def test_the_last_answer_is_the_clients() -> None:
    """Where no other server is left, or no other attempt, the answer is not given up for an error."""
    alone = forward("GET", 503, servers=1)
    assert (alone.status, alone.tried, alone.why_not) == (503, ["server 0"], "no_other_server")
    assert forward("GET", 503, 500, 200, servers=3).status == 500


@pytest.mark.parametrize("failure", [ConnectFailed(), BackendReset(), ResponseTimeout()])
def test_an_answer_is_not_lost_when_the_retry_fails(failure: BackendError) -> None:
    """The held answer is the client's, and the line says which server it came from."""
    first = Answer(503, b"rest of the body")
    result = forward("GET", first, failure)

    assert result.sent == [503, b"rest of the body"]
    assert result.line["backend"] == "server 0"
    assert result.line["reason"] is None
    assert result.tried == ["server 0", "server 1"]
    assert result.pool.told == [("server 0", 503), ("server 1", failure.reason)]


def test_a_held_answer_is_in_flight_until_it_is_given_up() -> None:
    """Its connection is closed as soon as the other server has answered."""
    first = Answer(503, b"rest")
    result = forward("GET", first)
    assert result.session.in_flight == [[1, 0], [1, 1]]
    assert first.is_closed


def test_only_the_last_answer_is_held() -> None:
    """The one before is closed, and its place is free, when the next is there."""
    first, second = Answer(503, b"rest"), Answer(500, b"rest of the second")
    result = forward("GET", first, second, BackendReset(), servers=3, attempts=3)
    assert result.session.in_flight == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert result.sent == [500, b"rest of the second"]
    assert first.is_closed


def test_a_held_answer_that_breaks_off_is_cut() -> None:
    """Once its head is out it is a broken answer like any other."""
    result = forward("GET", Answer(503, Aborted(reason="truncated")), BackendReset())
    assert result.sent == [503, "cut"]
    assert (result.line["status"], result.line["reason"]) == (503, "truncated")
    assert result.line["backend"] == "server 0"


def test_a_client_that_leaves_ends_it() -> None:
    """No retry for somebody who is gone."""
    result = forward("GET", 503, ClientGone())
    assert (result.sent, result.line["status"]) == (["cut"], 499)


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
    assert result.session.expires_at == pytest.approx(plain.session.expires_at, abs=1)


def test_the_body_of_an_answer_has_more_time_than_its_first_byte() -> None:
    """The time for one try is over with the head."""
    result = forward("GET", per_try_timeout=0.5)
    assert result.session.requests[0].expires_at == float("inf")


def test_each_tick_counts_the_requests_so_far() -> None:
    """From the ids that were given out, the tick's own not among them."""
    config = configuration.parse("{}")
    pool = Pool(1)
    proxy = Proxy(config, pool, Session(pool, ()), None)  # type: ignore[arg-type]
    proxy.tick(1.0)
    assert pool.cells[ASKED] == 0
    for _ in range(3):
        proxy.refuse("127.0.0.1", ClientGone(), 0.0)
    proxy.tick(2.0)
    proxy.tick(3.0)
    assert pool.cells[ASKED] == 3


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
    config = configuration.parse("{}")
    pool = Pool(1)
    proxy = Proxy(config, pool, Session(pool, ()), None)  # type: ignore[arg-type]
    start = monotonic()
    proxy.tick(start)
    proxy._forwarder.retrier.charge()
    charged = []
    for later in (1.0, 10.0, 12.0):
        proxy.tick(start + later)
        charged.append(pool.cells[RETRIES])
    assert charged == [1, 1, 0]


# -- what nobody foresaw: an answer, a line, and no place kept ------------------------------------------


def test_whatever_is_raised_before_the_answer_is_a_500() -> None:
    """It is not the server's fault, and no reason to ask another."""
    result = forward("GET", ValueError("a mistake"))
    assert (result.status, len(result.tried)) == (500, 1)
    assert (result.line["status"], result.line["reason"]) == (500, "internal_error")
    assert result.attempts[0]["reason"] == "internal_error"
    assert result.pool.told == []


def test_whatever_is_raised_in_the_answer_cuts_it() -> None:
    """Its line has the status that the client has seen."""
    result = forward("GET", Answer(200, RuntimeError("a mistake")))
    assert result.sent == [200, "cut"]
    assert (result.line["status"], result.line["reason"]) == (200, "internal_error")


@pytest.mark.parametrize("outcome", [200, 503, "refused", "in two pieces"])
@pytest.mark.parametrize("broken", ["start", "write", "answer", "finish", "request_trailers"])
def test_a_client_s_side_that_breaks_leaves_a_line_too(broken: str, outcome: int | str) -> None:
    """Wherever it raises, also when it is told of the failure."""
    made = {"refused": ConnectFailed(), "in two pieces": Answer(200, b"rest")}
    result = forward("GET", made.get(outcome, outcome), servers=1, broken=broken)
    assert result.line["status"] in (200, 500, 502, 503)


@pytest.mark.parametrize("broken", ["start", "answer", "abort"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_two_mistakes_are_no_worse_than_one(broken: str, is_begun: bool) -> None:
    """The second is logged, and the first keeps its line."""
    mistake = RuntimeError("a mistake")
    result = forward("GET", Answer(200, mistake) if is_begun else mistake, broken=broken)
    assert result.line["reason"] == "internal_error"
