"""app.worker.client.http2.patience: how long a connection waits for its client's next bytes."""

from __future__ import annotations

from app.worker.client.contract import DRAIN_IDLE_SECONDS, DRAIN_LOOK_SECONDS
from app.worker.client.http2.patience import Patience
from app.worker.net.deadlines import NEVER


def patience() -> Patience:
    """Opened at 100, ready at 101, ten seconds for a head, an hour for idleness."""
    return Patience(100.0, 101.0, 10.0, 3600.0)


def test_the_first_request_is_due_from_the_connect_on() -> None:
    """The handshake is part of it; a frame that has begun is due no later."""
    waits = patience()
    assert waits.until(False, False, 105.0) == 110.0
    assert waits.until(False, True, 105.0) == 110.0
    assert not waits.has_spoken()


def test_an_idle_connection_has_its_keepalive() -> None:
    """From its last stream's end."""
    waits = patience()
    waits.is_new = False
    waits.idle_since = 200.0
    assert waits.until(False, False, 300.0) == 3800.0
    assert waits.until(True, False, 300.0) == NEVER, "while a stream is served nothing is due"


def test_a_frame_is_due_from_its_first_byte() -> None:
    """More bytes of it put nothing off, whole frames do."""
    waits = patience()
    waits.is_new = False
    waits.fed(False, 3, 200.0)
    waits.fed(True, 3, 205.0)
    assert waits.until(True, True, 206.0) == 210.0
    assert (waits.frame_is_late(209.9), waits.frame_is_late(210.0)) == (False, True)
    waits.fed(True, 4, 207.0)
    assert waits.until(True, True, 208.0) == 217.0


def test_in_a_drain_an_idle_client_has_until_then() -> None:
    """And a look's time at least, for what is on its way."""
    waits = patience()
    waits.is_new = False
    waits.refuses_after = 150.0
    assert waits.until(False, False, 140.0) == 150.0
    assert waits.until(False, False, 160.0) == 160.0 + DRAIN_LOOK_SECONDS


def test_in_a_drain_nobody_has_longer_than_else() -> None:
    """A worker that others follow waits for its idle clients, but not beyond their usual time."""
    waits = patience()
    waits.refuses_after = 150.0
    assert waits.until(False, False, 105.0) == 110.0
    waits.is_new = False
    waits.refuses_after = 9999.0
    assert waits.until(False, False, 300.0) == 101.0 + 3600.0


def test_in_a_drain_a_client_that_was_served_has_a_moment() -> None:
    """Its next requests are another worker's; those on their way are still served."""
    waits = patience()
    waits.is_new = False
    waits.refuses_after = 150.0
    waits.idle_since = 120.0
    waits.part()
    assert waits.until(False, False, 121.0) == 120.0 + DRAIN_IDLE_SECONDS
    waits.idle_since = 121.0
    waits.part()
    assert waits.refuses_after == 120.0 + DRAIN_IDLE_SECONDS, "nothing puts it off"


def test_who_has_sent_a_frame_has_spoken() -> None:
    """It gets a line in the log when it stops in the middle of another."""
    waits = patience()
    waits.fed(False, 1, 102.0)
    assert waits.has_spoken()
