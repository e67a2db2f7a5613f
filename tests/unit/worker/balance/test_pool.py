"""The pool: the places at its backends, who waits, who gets which. The table is a real one."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from fakes.pool_bench import STICKY, PoolBench, bound, server
from fakes.world import url

from app import config as configuration
from app.errors import (
    BadRequest,
    NoBackend,
)
from app.shared import publication
from app.shared.layout import (
    ADMIN,
    CHECKED_MS,
    DRAIN,
    HEALTHY,
    STATE,
    UNHEALTHY,
    WAITING_NS,
)
from app.shared.table import Table, identity_of
from app.telemetry import log
from app.worker.balance import pool as pools
from app.worker.balance.pool import Pool

# --- places --------------------------------------------------------------------------------------


def test_a_full_server_is_passed_over_whoever_filled_it() -> None:
    """Requests of all workers count."""
    bench = PoolBench(server(1, max_connections=3), 2)
    bench.load(1, 2)
    bench.pool.cells[bench.backend(1).in_flight] = 1
    assert bench.available() == {2}
    bench.load(1, 1)
    assert bench.available() == {1, 2}


def test_all_full_is_a_reason_of_its_own() -> None:
    """Every server has as many as it may have."""
    bench = PoolBench(server(1, max_connections=1), server(2, max_connections=2))
    bench.load(1, 1)
    bench.load(2, 2)
    assert bench.refusal() == "all_full"


def test_the_last_one_with_room_is_found_among_many() -> None:
    """However unlikely the policy is to hit it."""
    bench = PoolBench(*[server(port, max_connections=1) for port in range(1, 17)])
    for port in range(1, 17):
        bench.load(port, port != 11)
    assert bench.available() == {11}


def test_a_place_is_held_until_it_is_released() -> None:
    """By pick and by take alike; what is not limited is counted too."""
    bench = PoolBench(server(1, max_connections=2), 2)
    limited, other = bench.backend(1), bench.backend(2)
    assert [bench.pool.claim(limited) for _ in range(3)] == [True, True, False]
    assert {bench.pool.pick() for _ in range(3)} == {other}
    assert bench.table.in_flight(other.row) == 3
    bench.pool.release(limited)
    assert bench.available() == {1, 2}
    assert [bench.pool.claim(other) for _ in range(3)] == [True, True, True]


def test_a_worker_without_a_slot_keeps_to_the_limit_too() -> None:
    """Others cannot see its requests; it sees theirs and its own."""
    bench = PoolBench(server(1, max_connections=3))
    pool = Pool(bench.table, -1, bench.connect, bench.disconnected.append)
    bench.load(1, 1)
    assert [pool.claim(pool.backends[0]) for _ in range(3)] == [True, True, False]
    assert not pool.has_room(pool.backends[0])


def test_two_workers_never_share_the_last_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have added when they look: both give it back and try again."""
    bench = PoolBench(server(1, max_connections=1))
    backend = bench.backend(1)
    seen: list[int] = []

    def in_flight(_table: Table, row: int) -> int:
        assert row == backend.row
        own = bench.pool.cells[backend.in_flight]
        other = len(seen) < 4  # is there whenever we look after adding, until it gives up
        seen.append(own)
        return own + (own and other)

    monkeypatch.setattr(Table, "in_flight", in_flight)
    assert bench.pool.claim(backend)
    assert seen == [0, 1, 0, 1, 0, 1]
    assert bench.pool.cells[backend.in_flight] == 1


def test_who_never_gets_the_last_place_gives_up_with_nothing_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue tries again."""
    bench = PoolBench(server(1, max_connections=1))
    backend = bench.backend(1)
    cells = bench.pool.cells
    monkeypatch.setattr(Table, "in_flight", lambda _table, _row: 2 * cells[backend.in_flight])
    assert not bench.pool.claim(backend)
    assert cells[backend.in_flight] == 0


QUEUE = {"size": 10, "timeout": 3}


def test_where_all_are_full_a_request_waits_for_the_next_place() -> None:
    """Of this worker at once, of another one soon."""
    bench = PoolBench(server(1, max_connections=1), server(2, max_connections=1), queue=QUEUE)
    first, second = bench.pool.pick(), bench.pool.pick()
    waiting = [gevent.spawn(bench.pool.pick) for _ in range(2)]
    gevent.sleep(0)
    bench.pool.release(second)
    waiting[0].join(1)
    assert waiting[0].value is second
    assert not waiting[1].dead
    bench.pool.cells[first.in_flight] = 0
    waiting[1].join(1)
    assert waiting[1].value is first


def test_nobody_comes_between() -> None:
    """Who comes while others wait goes behind them, even where a place is free."""
    bench = PoolBench(server(1, max_connections=1), queue=QUEUE)
    only = bench.pool.pick()
    waiting = gevent.spawn(bench.pool.pick)
    gevent.sleep(0)
    bench.pool.cells[only.in_flight] = 0
    with pytest.raises(NoBackend) as caught:
        bench.pool.pick_now((), None)
    assert caught.value.reason == "all_full"
    later = gevent.spawn(bench.pool.pick)
    waiting.join(1)
    assert waiting.value is only
    assert not later.dead
    bench.pool.release(only)
    later.join(1)
    assert later.value is only


def test_who_cannot_wait_is_told_at_once() -> None:
    """pick_now takes a place or none."""
    bench = PoolBench(server(1, max_connections=1), queue=QUEUE)
    assert bench.pool.pick_now((), None) is bench.backend(1)
    with pytest.raises(NoBackend) as caught:
        bench.pool.pick_now((), None)
    assert caught.value.reason == "all_full"


def test_a_place_at_a_server_that_drains_is_given_to_nobody() -> None:
    """Its last requests end and none follows."""
    bench = PoolBench(server(1, max_connections=1), server(2, max_connections=1), queue=QUEUE)
    picked = {bench.pool.pick() for _ in range(2)}
    waiting = gevent.spawn(bench.pool.pick)
    gevent.sleep(0)
    bench.write(1, ADMIN, DRAIN)
    bench.pool.refresh()
    for backend in sorted(picked, key=lambda one: one.server.port):
        assert not waiting.dead
        bench.pool.release(backend)
        gevent.sleep(0)
    waiting.join(1)
    assert waiting.value is bench.backend(2)


def test_waiting_ends_with_the_last_server() -> None:
    """It would be in vain."""
    bench = PoolBench(server(1, max_connections=1), queue=QUEUE)
    bench.pool.pick()

    def wait() -> str:
        with pytest.raises(NoBackend) as caught:
            bench.pool.pick()
        return caught.value.reason

    waiting = gevent.spawn(wait)
    gevent.sleep(0)
    bench.write(1, STATE, UNHEALTHY)
    waiting.join(1)
    assert waiting.value == "none_healthy"


# --- when to come back ---------------------------------------------------------------------------


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that durations go by, and no jitter."""
    clock = SimpleNamespace(monotonic=50.0)
    monkeypatch.setattr(pools, "monotonic", lambda: clock.monotonic)
    monkeypatch.setattr(pools.random, "random", lambda: 0.0)
    return clock


def test_who_was_refused_may_come_back_after_the_next_fast_check(clock: SimpleNamespace) -> None:
    """Of the server that can be healthy first; found out ten times a second at most."""
    check = {"interval": 60, "fast_interval": 10, "healthy_threshold": 2}
    bench = PoolBench(1, 2, server(3, state="maint"), health_check=check)
    for port in (1, 2, 3):
        bench.write(port, STATE, UNHEALTHY)
        bench.write(port, CHECKED_MS, int(clock.monotonic * 1000) - 4000)
    assert bench.refusal() == "none_healthy"
    assert bench.pool.retry_after("none_healthy") == 6
    bench.write(2, CHECKED_MS, int(clock.monotonic * 1000) - 7000)
    bench.write(3, CHECKED_MS, 0)
    assert bench.pool.retry_after("none_healthy") == 6
    clock.monotonic += 0.1
    assert bench.pool.retry_after("none_healthy") == 3


def test_who_found_all_full_may_come_back_when_the_queue_has_moved(clock: SimpleNamespace) -> None:
    """With nothing known of its speed: after the longest wait that there is."""
    bench = PoolBench(server(1, max_connections=1), queue={"size": 5, "timeout": 7})
    assert bench.pool.retry_after("all_full") == 7


@pytest.mark.parametrize(
    ("servers", "reason", "expected"),
    [
        ([], "none_healthy", 5),
        ([server(1, state="drain")], "all_draining", 5),
        ([1], "shutting_down", 1),
    ],
)
def test_what_nobody_knows_is_said_all_the_same(
    clock: SimpleNamespace, servers: list[Any], reason: str, expected: int
) -> None:
    """Soon where this worker alone refuses."""
    assert PoolBench(*servers).pool.retry_after(reason) == expected


# --- tried ---------------------------------------------------------------------------------------


def test_whether_another_would_find_a_place_at_once() -> None:
    """There is one that was not tried and has room; nobody waits for it already."""
    bench = PoolBench(server(1, max_connections=1), server(2, max_connections=1), queue=QUEUE)
    first = bench.pool.pick()
    assert bench.pool.has_place_besides((first,))
    assert not bench.pool.has_place_besides(bench.pool.backends)
    second = bench.pool.pick()
    assert not bench.pool.has_place_besides((first,))
    bench.pool.release(second)
    bench.pool.cells[WAITING_NS] = 1  # somebody waits, who comes first
    assert not bench.pool.has_place_besides((first,))


def test_a_retry_goes_elsewhere() -> None:
    """Never to one that was tried."""
    bench = PoolBench(1, 2, 3)
    tried = (bench.backend(1), bench.backend(3))
    assert {bench.pool.pick(tried).server.port for _ in range(20)} == {2}
    assert bench.table.in_flight(bench.row(2)) == 20


def test_when_all_were_tried_there_is_no_other() -> None:
    """Not the same as none being healthy or all being full."""
    bench = PoolBench(1, 2)
    assert bench.refusal(1, 2) == "all_tried"


def test_a_full_one_that_was_not_tried_makes_it_all_full() -> None:
    """Room may come back; the client may ask again."""
    bench = PoolBench(server(1, max_connections=1), 2)
    bench.load(1, 1)
    assert bench.refusal(2) == "all_full"


def test_a_backup_takes_what_every_primary_has_failed_at() -> None:
    """In the same request, before anything is noticed (as nginx)."""
    bench = PoolBench(1, 2, server(3, backup=True))
    tried = (bench.backend(1), bench.backend(2))
    assert bench.pool.pick(tried).server.port == 3
    assert bench.refusal(1, 2, 3) == "all_tried"


# --- a published configuration -------------------------------------------------------------------


def test_a_new_configuration_is_taken_over_with_the_next_pick() -> None:
    """Servers that are gone get nothing, new ones do."""
    bench = PoolBench(1, 2)
    bench.publish(2, 3)
    assert bench.available() == {2, 3}


def test_a_server_that_stays_keeps_its_connections_and_its_row() -> None:
    """Also one whose settings changed; those of one that goes are closed."""
    bench = PoolBench(1, 2, 3)
    kept = bench.backend(2)
    row = bench.row(2)
    bench.publish(2, server(3, weight=7), 4)
    bench.pool.refresh()
    assert bench.backend(2) is kept
    assert bench.row(2) == row
    assert bench.disconnected == ["connections to 127.0.0.1:1"]
    assert bench.backend(3).server.weight == 7
    assert Counter(bench.picks(18)) == {2: 2, 3: 14, 4: 2}


def test_the_cells_of_a_backend_are_its_row_in_this_workers_slot() -> None:
    """What the worker counts is what the others sum up."""
    bench = PoolBench(1, 2)
    backend = bench.backend(2)
    bench.pool.cells[backend.in_flight] += 5
    bench.load(2, 3)
    assert bench.table.in_flight(bench.row(2)) == 8
    assert bench.table.in_flight(bench.row(1)) == 0


def test_before_anything_is_published_nothing_is_picked() -> None:
    """A worker that is faster than its master refuses, and recovers."""
    table = Table.create(rows=4, slots=2, blob_bytes=10_000)
    pool = Pool(table, 1, lambda server: ("", ""), lambda connections: None)
    with pytest.raises(NoBackend):
        pool.pick()


# --- sticky sessions -----------------------------------------------------------------------------


def test_a_sticky_client_is_sent_to_its_server() -> None:
    """Others take turns, and so do those whose cookie means nothing."""
    bench = PoolBench(1, 2, 3, sticky=STICKY)
    assert set(bound(bench, 2)) == {2}
    assert set(bound(bench)) == {1, 2, 3}
    assert set(bound(bench, cookie=b"?")) == {1, 2, 3}


def test_a_sticky_client_is_retried_elsewhere() -> None:
    """A retry never goes to the same server."""
    assert set(bound(PoolBench(1, 2, 3, sticky=STICKY), 2, tried=2)) == {1, 3}


def test_a_sticky_client_of_a_full_server_gets_another() -> None:
    """Full over all workers, and there is no queue in which it could wait."""
    bench = PoolBench(1, server(2, max_connections=2), 3, sticky=STICKY, queue=False)
    bench.load(2, 2)
    assert set(bound(bench, 2)) == {1, 3}
    bench.load(2, 1)
    assert bench.pool.pick(
        (), SimpleNamespace(head=SimpleNamespace(sticky=bench.backend(2).cookie))
    ) is bench.backend(2)


def test_a_sticky_client_waits_for_its_full_server() -> None:
    """Though another one has room; and goes there when it has waited in vain, or its server is lost."""
    bench = PoolBench(1, server(2, max_connections=1), sticky=STICKY, queue={"timeout": 0.2})
    request = SimpleNamespace(head=SimpleNamespace(sticky=bench.backend(2).cookie))
    first = bench.pool.pick((), request)
    assert first.server.port == 2
    second = gevent.spawn(bench.pool.pick, (), request)
    gevent.sleep(0)
    assert not second.ready()
    bench.pool.release(first)
    assert second.get(timeout=1).server.port == 2
    assert bench.pool.pick((), request).server.port == 1

    third = gevent.spawn(bench.pool.pick, (), request)
    gevent.sleep(0)
    bench.write(2, STATE, UNHEALTHY)
    assert third.get(timeout=0.15).server.port == 1


def test_a_key_is_asked_for_only_where_the_cookie_does_not_decide() -> None:
    """Hashing is for new clients."""
    algorithm = {"name": "hash", "hash_on": "header:X-User", "missing_key": "none"}
    bench = PoolBench(1, 2, algorithm=algorithm, sticky=STICKY)
    assert set(bound(bench, 1)) == {1}
    request = SimpleNamespace(head=SimpleNamespace(sticky=None, fields=[]))
    with pytest.raises(BadRequest):
        bench.pool.pick((), request)


# --- a configuration of another release ----------------------------------------------------------


def publish_blob(bench: PoolBench, envelope: dict[str, Any], *ports: int) -> None:
    """As a master of another release does."""
    blob = json.dumps(envelope).encode()
    identities = [identity_of(url(port)) for port in ports]
    publication.publish(bench.table, publication.propose(bench.table, blob, identities))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    lines: list[tuple[str, str, Any]] = []
    monkeypatch.setattr(
        log, "event", lambda logger, level, _, **more: lines.append((logger, level, more))
    )
    return lines


def test_a_key_that_is_not_known_does_not_keep_a_worker_from_following() -> None:
    """Neither at the top nor in a server."""
    bench = PoolBench(1, 2)
    entry = {"url": url(2), "weight": 1, "brand_new": {"a": [1]}}
    publish_blob(bench, {"form": 1, "config": {"servers": [entry], "newer": "yes"}}, 2)
    assert bench.available() == {2}


def test_a_configuration_that_cannot_be_read_stops_no_request(
    said: list[tuple[str, str, Any]],
) -> None:
    """The one in use stays, health is followed still, and it is said once for each such one."""
    bench = PoolBench(1, 2)
    for form in (2, 3):
        publish_blob(bench, {"form": form}, 1, 2)
        assert bench.available() == {1, 2}
        bench.write(1, STATE, UNHEALTHY)
        assert bench.available() == {2}
        bench.write(1, STATE, HEALTHY)
        assert bench.available() == {1, 2}
    assert [(logger, level, more["sequence"]) for logger, level, more in said] == [
        ("pool", "error", 2),
        ("pool", "error", 3),
    ]
    bench.publish(1)
    assert bench.available() == {1}


def test_a_worker_that_boots_meanwhile_serves_by_its_own_master(
    said: list[tuple[str, str, Any]],
) -> None:
    """Until something comes that it can read."""
    bench = PoolBench(1, 2)
    publish_blob(bench, {"form": 2}, 1, 2)
    bench.pool = Pool(bench.table, 2, bench.connect, bench.disconnected.append)
    assert bench.refusal() == "none_healthy"
    document = {"servers": [url(1), url(2), url(3)], "queue": False}
    bench.pool.start_with(configuration.parse(json.dumps(document)))
    assert bench.available() == {1, 2}  # the third has no row in the table
    bench.write(2, STATE, UNHEALTHY)
    assert bench.available() == {1}
    bench.publish(2)
    bench.write(2, STATE, HEALTHY)
    assert bench.available() == {2}
    assert len(said) == 1
