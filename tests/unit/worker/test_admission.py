"""app.worker.admission: the one count of connections, and the limits that are held by it."""

from __future__ import annotations

from typing import Any

import pytest

from app.worker.admission import Admission, PerClient, client_of


def test_each_client_has_its_own_limit() -> None:
    """At the limit it is let in, over it not; another client is."""
    crowd = PerClient(2)
    assert [crowd.enter(b"a"), crowd.enter(b"a"), crowd.enter(b"a")] == [True, True, False]
    assert crowd.enter(b"b")


def test_a_connection_that_ends_makes_room() -> None:
    """One that was refused was not counted; a client that has gone costs no memory."""
    crowd = PerClient(1)
    assert crowd.enter(b"a")
    assert not crowd.enter(b"a")
    crowd.leave(b"a")
    assert crowd._counts == {}
    assert crowd.enter(b"a")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("", "", True),
    ],
)
def test_who_is_one_client(one: str, other: str, same: bool) -> None:
    """An IPv4 address, however it is written; the /64 of an IPv6 address."""
    assert (client_of(one) == client_of(other)) is same


# -- the one count ---------------------------------------------------------------------------------


class Connection:
    """One that is served."""

    deadline: Any = None
    is_idle = True

    def drain(self) -> None:
        pass

    def cut(self) -> None:
        pass


def test_a_socket_is_counted_once_whatever_becomes_of_it() -> None:
    """Arriving, served, parked and served again, or gunicorn's: one, until it is closed."""
    admission, connection = Admission(), Connection()
    place = admission.enter()
    counts = [(admission.count, admission.only_arriving(), len(admission.running()))]
    for step in (lambda: place.begin(connection), place.pause, lambda: place.begin(connection)):
        step()
        counts.append((admission.count, admission.only_arriving(), len(admission.running())))
    place.leave()
    place.leave()
    assert counts == [(1, True, 0), (1, False, 1), (1, False, 0), (1, False, 1)]
    assert admission.count == 0
    assert admission.running() == []


def test_what_gunicorn_serves_is_waited_for_and_cannot_be_told() -> None:
    """It counts, it is not arriving any more, and there is no connection of ours."""
    admission = Admission()
    place = admission.enter()
    place.hand_over()
    assert (admission.count, admission.only_arriving(), admission.running()) == (1, False, [])


def test_over_the_limit_a_connection_is_refused() -> None:
    """Itself not counted in it; whoever arrives is, and who is turned away makes room at once."""
    admission = Admission(2)
    places = [admission.enter() for _ in range(3)]
    assert admission.admit(places[0], "10.0.0.1") is not None, "two others are here"
    places[1].leave()
    assert admission.admit(places[0], "10.0.0.1") is None
    one_more = admission.enter()
    refusal = admission.admit(one_more, "10.0.0.1")
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (503, "too_many_connections")
    one_more.leave()
    assert admission.admit(places[2], "10.0.0.1") is None


def test_a_client_over_its_limit_is_refused() -> None:
    """Others are not, nor is a proxy that is trusted; a connection that ends gives its share back."""
    admission = Admission(0, 1, lambda peer: peer == "10.9.9.9")
    first, second, other, *trusted = (admission.enter() for _ in range(5))
    assert admission.admit(first, "10.0.0.1") is None
    refusal = admission.admit(second, "10.0.0.1")
    assert refusal is not None
    assert refusal.status == 429
    second.leave()
    assert admission.admit(other, "10.0.0.2") is None
    assert [admission.admit(place, "10.9.9.9") for place in trusted] == [None, None]
    first.leave()
    assert admission.admit(admission.enter(), "10.0.0.1") is None


def test_without_limits_everybody_comes_in() -> None:
    """As where another application than ours is served."""
    admission = Admission()
    assert [admission.admit(admission.enter(), "10.0.0.1") for _ in range(3)] == [None] * 3
    assert repr(admission) == "<Admission 3 connections, 3 arriving, 0 running>"
