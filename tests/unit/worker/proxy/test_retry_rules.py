"""The rules of sending a request again, as functions over values."""

from __future__ import annotations

from typing import Any

import pytest

from app.worker.proxy import retry_rules
from app.worker.proxy.retry_rules import Facts

FINE: dict[str, Any] = {
    "was_sent": False,
    "was_unusable": False,
    "is_repeatable": False,
    "is_replayable": True,
    "costs": True,
    "has_budget": True,
    "counted": 1,
    "attempts": 2,
    "now": 1.0,
    "expires_at": 2.0,
}


def line(name: bytes, value: bytes) -> list[bytes]:
    """A field as it is sent on."""
    return [name, b": ", value, b"\r\n"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, ""),
        ({"was_sent": True}, "not_repeatable"),
        ({"was_sent": True, "is_repeatable": True}, ""),
        ({"was_sent": True, "was_unusable": True, "is_repeatable": True}, "bad_response"),
        ({"is_replayable": False}, "body_gone"),
        ({"was_sent": True, "is_repeatable": True, "is_replayable": False}, "body_gone"),
        ({"counted": 2}, "attempts_used"),
        ({"counted": 0, "attempts": 1}, ""),
        ({"now": 2.0}, "out_of_time"),
        ({"has_budget": False}, "over_budget"),
        ({"has_budget": False, "costs": False}, ""),
        ({"has_budget": False, "is_replayable": False}, "body_gone"),
    ],
)
def test_why_there_is_no_other_attempt(facts: dict[str, Any], reason: str) -> None:
    """By what left the building, what it is, and what is left of attempts and time."""
    assert retry_rules.refusal(Facts(**{**FINE, **facts})) == reason


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"])
def test_idempotent_methods_may_be_repeated(method: bytes) -> None:
    """Those of RFC 9110 §9.2.2."""
    assert retry_rules.is_repeatable(method, ())


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"get", b"CONNECT", b"PROPFIND"])
def test_other_methods_may_not_unless_the_client_says_so(method: bytes) -> None:
    """Idempotency-Key in any spelling, with a value."""
    assert not retry_rules.is_repeatable(method, line(b"Content-Type", b"a/b"))
    assert not retry_rules.is_repeatable(method, line(b"Idempotency-Key", b""))
    assert retry_rules.is_repeatable(method, line(b"a", b"b") + line(b"IDEMPOTENCY-key", b'"8e03"'))


@pytest.mark.parametrize(
    ("made", "stale", "refused", "attempts", "counted"),
    [
        (3, 0, 0, 2, 3),
        (3, 1, 0, 2, 2),
        (3, 3, 0, 2, 2),
        (3, 0, 2, 2, 1),
        (3, 1, 1, 2, 1),
        (12, 0, 12, 2, 4),
        (2, 1, 1, 1, 1),
    ],
)
def test_what_counts_as_an_attempt(
    made: int, stale: int, refused: int, attempts: int, counted: int
) -> None:
    """Not the first stale connection, and not eight refusals where there may be a retry at all."""
    assert retry_rules.counted(made, stale, refused, attempts) == counted


def test_pauses_grow_up_to_a_limit_and_are_spread() -> None:
    """Between half and all of 25, 50, 100, 200, 250, 250 ms."""
    shortest = [retry_rules.pause(False, 502, rounds, 0.0) for rounds in range(6)]
    longest = [retry_rules.pause(False, 502, rounds, 1.0) for rounds in range(6)]
    assert longest == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.25, 0.25])
    assert shortest == pytest.approx([length / 2 for length in longest])


def test_no_pause_helps_an_answer_or_a_timeout() -> None:
    """Those are the end once all servers were asked."""
    assert retry_rules.pause(True, 0, 0, 0.5) < 0
    assert retry_rules.pause(False, 504, 0, 0.5) < 0


def test_the_budget_is_for_what_gave_a_server_work() -> None:
    """What was sent, and a connect that timed out: it looks like a queue that is full."""
    assert retry_rules.costs(True, 502)
    assert retry_rules.costs(False, 504)
    assert not retry_rules.costs(False, 502)
