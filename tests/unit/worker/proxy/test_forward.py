"""The loop over attempts: whose answer is the client's, which is held, and when places are given back."""

from __future__ import annotations

from time import monotonic

import pytest
from fakes.proxied import forward
from fakes.session import Answer

from app.errors import (
    Aborted,
    BackendError,
    BackendReset,
    ClientGone,
    ConnectFailed,
    ResponseTimeout,
)
from app.worker.proxy import forward as forward_module


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


def test_a_held_answer_for_whose_body_no_time_is_left_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be cut; one that is all here is passed on."""
    hang = ResponseTimeout()
    monkeypatch.setattr(forward_module, "monotonic", lambda: monotonic() + 60)
    result = forward("GET", Answer(503, b"rest"), hang, total=50)
    assert (result.sent, result.line["reason"]) == ([504], "total_timeout")
    assert forward("GET", Answer(503), hang, total=50).sent == [503]


def test_a_client_that_leaves_ends_it() -> None:
    """No retry for somebody who is gone."""
    result = forward("GET", 503, ClientGone())
    assert (result.sent, result.line["status"]) == (["cut"], 499)


def test_the_body_of_an_answer_has_more_time_than_its_first_byte() -> None:
    """The time for one try is over with the head."""
    result = forward("GET", per_try_timeout=0.5)
    assert result.session.requests[0].expires_at == float("inf")
