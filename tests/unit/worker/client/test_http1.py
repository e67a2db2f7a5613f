"""app.worker.client.http1: what a client is waited for."""

from __future__ import annotations

from app.worker.client.http1 import BODY_GRACE_SECONDS, body_patience


def test_a_body_has_a_grace_and_then_its_rate() -> None:
    """Nothing received: the grace alone; each byte buys its share of a second, waiting uses it up."""
    assert body_patience(0, 0.0, 100) == BODY_GRACE_SECONDS
    assert body_patience(1000, 0.0, 100) == BODY_GRACE_SECONDS + 10
    assert body_patience(1000, 15.0, 100) == BODY_GRACE_SECONDS - 5
    assert body_patience(10, 6.0, 100) < 0
