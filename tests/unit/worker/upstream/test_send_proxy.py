"""Connections that are one client's: taken again for the same announcement and for no other."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.stream import END, ScriptedStream
from fakes.upstream import connection, request_to, stream

from app.errors import BackendReset
from app.worker.upstream import connections
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.connections import Connection
from app.worker.upstream.send_proxy import MAX_IDLE, ClientLane, ProxyHeaderConnections

ANNA = b"PROXY TCP4 192.0.2.1 192.0.2.100 40000 80\r\n"
# The same client from its next port: another header, so another connection.
ANNA_LATER = b"PROXY TCP4 192.0.2.1 192.0.2.100 40001 80\r\n"
BERT = b"PROXY TCP4 192.0.2.2 192.0.2.100 40000 80\r\n"


@pytest.fixture(name="cache")
def _cache() -> ProxyHeaderConnections:
    return ProxyHeaderConnections("http", "192.0.2.50", 8000, 60.0)


def idle(cache: ProxyHeaderConnections, announcement: bytes) -> Connection:
    """An idle connection that began so."""
    one = connection(cache)
    one.announced = announcement
    cache.give_back(one)
    return one


def test_a_connection_is_taken_again_for_its_own_client_alone(
    cache: ProxyHeaderConnections,
) -> None:
    """The backend would take another's request for this client's."""
    annas = idle(cache, ANNA)
    for other in (BERT, ANNA_LATER, b""):
        assert cache.lane(other).take() is None
    assert cache.lane(ANNA).take() is annas
    assert cache.lane(ANNA).take() is None


def test_the_one_used_last_is_taken_first_among_a_clients_own(
    cache: ProxyHeaderConnections,
) -> None:
    first, others, last = idle(cache, ANNA), idle(cache, BERT), idle(cache, ANNA)
    lane = cache.lane(ANNA)
    assert [lane.take() for _ in range(3)] == [last, first, None]
    assert cache.idle == [others]


def test_one_that_ended_meanwhile_is_passed_over_and_others_are_let_be(
    cache: ProxyHeaderConnections,
) -> None:
    good, others, bad = idle(cache, ANNA), idle(cache, BERT), idle(cache, ANNA)
    stream(bad).say(END)
    stream(others).say(END)
    assert cache.lane(ANNA).take() is good
    assert stream(bad).is_closed
    assert not stream(others).is_closed


def test_what_a_taken_one_says_does_not_close_it(cache: ProxyHeaderConnections) -> None:
    one = idle(cache, ANNA)
    assert cache.lane(ANNA).take() is one
    stream(one).say(b"HTTP/1.1 200 OK\r\n\r\n")
    stream(one).event()
    assert not stream(one).is_closed


def test_a_new_connection_begins_with_the_announcement_and_keeps_to_it(
    cache: ProxyHeaderConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ScriptedStream()
    monkeypatch.setattr(connections, "connect", lambda *_: opened)
    lane: Any = cache.lane(ANNA)
    one = lane.open()
    assert opened.output == ANNA
    one.cache.give_back(one)
    assert cache.lane(BERT).take() is None
    assert lane.take() is one
    assert isinstance(lane, ClientLane)
    assert lane.cache is cache


def test_the_announcement_counts_among_the_bytes_that_were_sent(
    cache: ProxyHeaderConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the backend's kernel has taken is compared with it: what was not taken at all may go again."""
    asked: list[int] = []

    class Stream(ScriptedStream):
        def unacknowledged(self, total: int) -> bool:
            asked.append(total)
            return True

    monkeypatch.setattr(connections, "connect", lambda *_: Stream([END]))
    request: Any = request_to(cache, b"POST")
    request.connections = cache.lane(ANNA)
    with pytest.raises(BackendReset) as caught:
        Adapter().send(request)
    assert asked == [len(ANNA)]
    assert not caught.value.sent


def test_of_too_many_idle_ones_the_oldest_goes(cache: ProxyHeaderConnections) -> None:
    """Each client leaves some, and most never come back: they must not fill the backend."""
    made = [idle(cache, b"client %d" % number) for number in range(MAX_IDLE)]
    assert cache.idle == made
    newest = idle(cache, BERT)
    assert cache.idle == [*made[1:], newest]
    assert [stream(one).is_closed for one in made[:2]] == [True, False]


def test_a_closed_cache_keeps_nothing(cache: ProxyHeaderConnections) -> None:
    one = idle(cache, ANNA)
    cache.close()
    late = idle(cache, ANNA)
    assert stream(one).is_closed
    assert stream(late).is_closed
    assert cache.lane(ANNA).take() is None
