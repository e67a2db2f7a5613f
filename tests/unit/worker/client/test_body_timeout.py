"""app.worker.client.body_timeout: how long a client is waited for while it sends a body."""

from __future__ import annotations

from app.worker.client.body_timeout import GRACE_SECONDS, patience, too_slow


def test_a_body_has_a_grace_and_then_its_rate() -> None:
    """Nothing received: the grace alone; each byte buys its share of a second, waiting uses it up."""
    assert patience(60.0, 0, 0.0, 100) == GRACE_SECONDS
    assert patience(60.0, 1000, 0.0, 100) == GRACE_SECONDS + 10
    assert patience(60.0, 1000, 15.0, 100) == GRACE_SECONDS - 5
    assert patience(60.0, 10, 6.0, 100) < 0


def test_a_piece_has_its_own_timeout_whatever_the_rate_allows() -> None:
    """And that alone where no rate is asked for."""
    assert patience(3.0, 1000, 0.0, 100) == 3.0
    assert patience(3.0, 0, 1e9, 0) == 3.0


def test_the_error_says_which_limit_it_was() -> None:
    """The rate, where that was the shorter one; both are 408."""
    rate, timeout = too_slow(2.0, 60.0), too_slow(60.0, 60.0)
    assert (rate.status, rate.reason) == (408, "body_too_slow")
    assert (timeout.status, timeout.reason) == (408, "client_timeout")
