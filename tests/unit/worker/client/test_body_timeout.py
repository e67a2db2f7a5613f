"""app.worker.client.body_timeout: how long a client is waited for while it sends a body."""

from __future__ import annotations

import pytest

from app.worker.client.body_timeout import GRACE_SECONDS, patience, too_slow


def test_a_body_has_a_grace_and_then_its_rate() -> None:
    """Nothing received: the grace alone; each byte buys its share of a second, waiting uses it up."""
    assert patience(60.0, 0, 0.0, 2000) == GRACE_SECONDS
    assert patience(60.0, 20_000, 0.0, 2000) == GRACE_SECONDS + 10
    assert patience(60.0, 20_000, 12.0, 2000) == GRACE_SECONDS - 2
    assert patience(60.0, 10, 6.0, 2000) < 0


@pytest.mark.parametrize(
    ("rate", "grace"), [(1 << 20, 5), (1200, 5), (600, 10), (100, 60), (1, 60)]
)
def test_a_low_rate_is_taken_over_a_long_time(rate: int, grace: float) -> None:
    """A minute at the default: who is silent at first, or now and then, is no attack."""
    assert patience(1000.0, 0, 0.0, rate) == grace


def test_a_byte_now_and_then_does_not_hold_a_server_for_ever() -> None:
    """At the default rate: a byte before each timeout puts the end off by a hundredth of a second."""
    received = waited = 0
    while patience(60.0, received, waited, 100) > 0:
        received += 1
        waited += 10
    assert waited <= 70


def test_a_piece_has_its_own_timeout_whatever_the_rate_allows() -> None:
    """And that alone where no rate is asked for."""
    assert patience(3.0, 1000, 0.0, 100) == 3.0
    assert patience(3.0, 0, 1e9, 0) == 3.0


def test_the_error_says_which_limit_it_was() -> None:
    """The rate, where that was the shorter one; both are 408."""
    rate, timeout = too_slow(2.0, 60.0), too_slow(60.0, 60.0)
    assert (rate.status, rate.reason) == (408, "body_too_slow")
    assert (timeout.status, timeout.reason) == (408, "client_timeout")
