"""app.worker.parking: idle connections without greenlets."""

from __future__ import annotations

from time import monotonic

import gevent
from fakes.stream import END, ScriptedStream

from app.worker.client.contract import PARK_SECONDS
from app.worker.parking import Parking


class Idle:
    """An idle connection."""

    def __init__(self) -> None:
        self.stream = ScriptedStream()
        self.runs = 0

    def run(self) -> None:
        self.runs += 1

    def close(self) -> None:
        self.stream.close()


def parked(parking: Parking) -> Idle:
    connection = Idle()
    parking.park(connection)
    return connection


def test_what_says_something_runs_on() -> None:
    """In a greenlet of its own, once, and is parked no more."""
    parking = Parking(10.0)
    connection = parked(parking)
    assert connection.stream.is_watched
    event = connection.stream.on_event
    assert event is not None
    event()
    event()
    gevent.sleep(0)
    assert connection.runs == 1
    assert connection.stream.on_event is None
    parking.sweep(float("inf"))
    assert not connection.stream.is_closed


def test_who_is_idle_too_long_is_closed_the_oldest_first() -> None:
    """It has been idle for PARK_SECONDS before it is parked."""
    parking = Parking(10.0)
    old = parked(parking)
    parking._parked[old] -= 5.0
    young = parked(parking)
    parking.sweep(monotonic() + 10.0 - PARK_SECONDS - 2.0)
    assert (old.stream.is_closed, young.stream.is_closed) == (True, False)
    parking.sweep(monotonic() + 10.0)
    assert young.stream.is_closed
    assert repr(parking) == "<Parking 0 connections>"


def test_without_a_limit_they_stay() -> None:
    """``timeouts.keepalive`` 0."""
    parking = Parking(0.0)
    connection = parked(parking)
    parking.sweep(monotonic() + 1e9)
    assert not connection.stream.is_closed


def test_all_are_closed_when_the_worker_goes_but_who_has_just_asked() -> None:
    """A request that came in the last moment is answered; who has closed itself is closed too."""
    parking = Parking(10.0)
    silent, asking, gone = (parked(parking) for _ in range(3))
    asking.stream.say(b"GET /")
    gone.stream.say(END)
    parking.close_idle()
    gevent.sleep(0)
    assert [one.stream.is_closed for one in (silent, asking, gone)] == [True, False, True]
    assert [one.runs for one in (silent, asking, gone)] == [0, 1, 0]
