"""app.worker.admission: how many connections each client has."""

from __future__ import annotations

import pytest

from app.worker.admission import PerClient, client_of


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
