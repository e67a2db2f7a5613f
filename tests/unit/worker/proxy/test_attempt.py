"""One try at a backend: its place, taken once and given back once, and its entry in the access line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from fakes.pool import Pool
from fakes.session import Answer

from app.errors import BackendReset, ClientGone, ConnectFailed
from app.worker.proxy.attempt import Attempt, milliseconds


def begun() -> tuple[Pool, Any]:
    """An attempt at a place that the pool has given."""
    pool = Pool(1)
    return pool, Attempt(pool, pool.pick(()), None)  # type: ignore[arg-type]


def answered(status: int = 200, rest: bytes = b"") -> tuple[Pool, Any]:
    pool, attempt = begun()
    attempt.response = Answer(status, rest)
    attempt.response.first_byte_at, attempt.sent_at = 12.25, 12.0
    return pool, attempt


def test_it_takes_a_place_and_gives_it_back_once() -> None:
    """However often it is ended."""
    pool, attempt = begun()
    assert (pool.in_flight(), pool.asked()) == ([1], [1])
    attempt.end()
    attempt.end()
    assert (pool.in_flight(), pool.asked()) == ([0], [1])


@pytest.mark.parametrize(
    ("error", "reason", "told", "kept"),
    [
        (BackendReset(), "reset_before_head", True, True),
        (ClientGone(), "client_gone", True, False),
        (ValueError(), "internal_error", False, False),
        (gevent.GreenletExit(), None, False, False),
    ],
)
def test_how_it_fails(error: BaseException, reason: str | None, told: bool, kept: bool) -> None:
    """The place is free, and the pool is told what may be the backend's fault: it judges that itself."""
    pool, attempt = begun()
    attempt.fail(error)
    assert (attempt.reason, attempt.error) == (reason, error if kept else None)
    assert pool.told == ([("server 0", reason)] if told else [])
    assert pool.in_flight() == [0]


@pytest.mark.parametrize(
    ("sent", "target"), [(b"/a?b", b"/a?b"), (b"/app/a?b", b"/a?b"), (b"*", b"*")]
)
def test_it_knows_what_was_asked(sent: bytes, target: bytes) -> None:
    """By the client: whatever the server's prefix, which the asterisk is sent without."""
    _, attempt = begun()
    assert attempt.asked is None
    attempt.backend.prefix = b"/app"
    head = b"GET %b HTTP/1.1\r\nHost: a b\r\n\r\n" % sent
    attempt.request = SimpleNamespace(raw_method=b"GET", head=head)
    assert attempt.asked.very == b"GET " + target


def test_what_is_over_does_not_fail_again() -> None:
    """Neither an answer nor a first failure is forgotten for a later one."""
    pool, attempt = begun()
    attempt.fail(ConnectFailed())
    attempt.fail(ClientGone())
    assert attempt.reason == "connect_failed"
    pool, attempt = answered(503, b"rest")
    attempt.fail(ClientGone())
    assert (attempt.reason, pool.in_flight()) == (None, [1])


def test_what_a_backend_may_have_acted_on() -> None:
    """Everything but what was never sent."""
    _, attempt = begun()
    attempt.fail(ConnectFailed())
    assert not attempt.was_sent
    _, attempt = begun()
    attempt.fail(BackendReset())
    assert attempt.was_sent
    assert answered()[1].was_sent


def test_an_abandoned_one_keeps_its_place_until_its_wait_has_ended() -> None:
    """One whose answer came a moment too late has no wait, and no status."""
    pool, attempt = begun()
    attempt.abandon("abandoned")
    assert pool.in_flight() == [1]
    pool, attempt = answered(200, b"rest")
    response = attempt.response
    attempt.abandon("abandoned")
    assert (response.is_closed, pool.in_flight()) == (True, [0])
    assert (attempt.record()["status"], attempt.record()["reason"]) == (None, "abandoned")


@pytest.mark.parametrize(("rest", "place"), [(b"", 0), (b"rest", 1)])
def test_a_held_answer_keeps_its_place_while_its_body_has_not_come(rest: bytes, place: int) -> None:
    """The rest of the request's body is for the next backend, and the pool is told of the answer."""
    pool, attempt = answered(503, rest)
    stopped: list[bool] = []
    attempt.response.upload = SimpleNamespace(stop=lambda: stopped.append(True))
    attempt.hold()
    assert (pool.in_flight(), pool.told, stopped) == ([place], [("server 0", 503)], [True])
    attempt.close()
    assert pool.in_flight() == [0]
    assert attempt.response.is_closed == bool(rest)


def test_its_entry_in_the_line() -> None:
    """Server, times, status, reason, and why no other attempt followed if that was asked."""
    _, attempt = begun()
    assert attempt.record() == {
        "server": "server 0", "connect_ms": None, "first_byte_ms": None, "status": None,
        "reason": None,
    }  # fmt: skip
    _, attempt = answered(503)
    attempt.request = SimpleNamespace(connect_seconds=0.0012345)
    attempt.not_retried = "attempts_used"
    assert list(attempt.record().items()) == [
        ("server", "server 0"),
        ("connect_ms", 1.234),
        ("first_byte_ms", 250.0),
        ("status", 503),
        ("reason", None),
        ("not_retried", "attempts_used"),
    ]


def test_a_winner_of_a_race_is_marked() -> None:
    """Unless it went wrong later, or its answer is held: then it has won nothing."""
    _, attempt = answered()
    attempt.is_winner = True
    assert attempt.record()["reason"] == "hedged"
    attempt.reason = "truncated"
    assert attempt.record()["reason"] == "truncated"
    _, attempt = answered(503)
    attempt.is_winner = True
    attempt.hold()
    assert attempt.record()["reason"] is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, 0.0), (0.0000009, 0.0), (0.0012349, 1.234), (2.5, 2500.0)]
)
def test_milliseconds_are_cut_after_the_third_digit(seconds: float, told: float) -> None:
    assert milliseconds(seconds) == told
