"""The pool: which backends a snapshot has, and which one a request gets. The table is a real one."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from fakes.pool_bench import PoolBench, server
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
    EJECTED,
    EJECTION,
    HEALTHY,
    MAINT,
    RAMP,
    READY,
    STATE,
    STREAK,
    TRIAL,
    TRUSTED,
    UNCHECKED,
    UNHEALTHY,
)
from app.shared.table import Table, identity_of
from app.telemetry import log
from app.worker.balance import algorithm as algorithms
from app.worker.balance import outcome_counter
from app.worker.balance import pool as pools
from app.worker.balance.pool import Pool

# --- who is available ----------------------------------------------------------------------------


def test_all_healthy_servers_take_turns() -> None:
    """Any n picks in a row are the n servers."""
    bench = PoolBench(1, 2, 3)
    picks = bench.picks(30)
    assert all(set(picks[at : at + 3]) == {1, 2, 3} for at in range(28))


@pytest.mark.parametrize(("cell", "value"), [(STATE, UNHEALTHY), (ADMIN, DRAIN), (ADMIN, MAINT)])
def test_one_that_is_unhealthy_or_not_ready_is_left_out_and_comes_back(
    cell: int, value: int
) -> None:
    """With the next pick after the change, in both directions."""
    bench = PoolBench(1, 2, 3)
    before = bench.read(2, cell)
    bench.write(2, cell, value)
    assert bench.available() == {1, 3}
    bench.write(2, cell, before)
    assert bench.available() == {1, 2, 3}


def test_an_unchanged_epoch_costs_no_new_snapshot() -> None:
    """What another process wrote is looked at when the epoch says so, and only then."""
    bench = PoolBench(1, 2)
    before = bench.pool.snapshot
    bench.table.cells[bench.table.server(bench.row(2)) + STATE] = UNHEALTHY
    assert bench.available() == {1, 2}
    assert bench.pool.snapshot is before
    bench.table.bump()
    assert bench.available() == {1}
    assert bench.pool.snapshot is not before


def test_no_healthy_server_is_a_reason_of_its_own() -> None:
    """Nothing to pick from: the client hears why."""
    bench = PoolBench(1, 2)
    bench.write(1, STATE, UNHEALTHY)
    bench.write(2, STATE, UNHEALTHY)
    assert bench.refusal() == "none_healthy"
    bench.write(1, STATE, HEALTHY)
    assert bench.available() == {1}


def test_healthy_servers_that_all_drain_are_another_reason() -> None:
    """Draining is not being ill."""
    bench = PoolBench(1, 2)
    bench.write(1, ADMIN, DRAIN)
    bench.write(2, STATE, UNHEALTHY)
    assert bench.refusal() == "all_draining"
    bench.write(1, ADMIN, READY)
    assert bench.available() == {1}


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_the_configuration_can_take_a_server_out(state: str) -> None:
    """And put it back, with its connections."""
    bench = PoolBench(1, server(2, state=state), 3)
    kept = bench.backend(2)
    assert bench.available() == {1, 3}
    bench.publish(1, 2, 3)
    assert bench.available() == {1, 2, 3}
    assert bench.backend(2) is kept
    bench.publish(server(1, state=state), server(2, state=state))
    assert bench.refusal() == "all_draining"


def test_servers_in_maintenance_are_not_ill() -> None:
    """They are not checked, so nothing is known of them: the reason is still what the operator did."""
    bench = PoolBench(server(1, state="maint"))
    bench.write(1, STATE, UNCHECKED)
    assert bench.refusal() == "all_draining"


def test_without_servers_there_is_none_healthy() -> None:
    """An empty configuration answers every request 503."""
    assert PoolBench().refusal() == "none_healthy"


def test_backups_serve_only_while_no_primary_can() -> None:
    """Unhealthy and draining primaries are both no primaries."""
    bench = PoolBench(1, 2, server(3, backup=True), server(4, backup=True))
    assert bench.available() == {1, 2}
    bench.write(1, STATE, UNHEALTHY)
    assert bench.available() == {2}
    bench.write(2, ADMIN, DRAIN)
    assert bench.available() == {3, 4}
    bench.write(1, STATE, HEALTHY)
    assert bench.available() == {1}


def test_weights_are_shares() -> None:
    """Exactly, over one cycle."""
    bench = PoolBench(server(1, weight=5), server(2, weight=1), 3)
    assert Counter(bench.picks(70)) == {1: 50, 2: 10, 3: 10}


# --- full ----------------------------------------------------------------------------------------


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
        bench.pool.pick_now()
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
    assert bench.pool.pick_now() is bench.backend(1)
    with pytest.raises(NoBackend) as caught:
        bench.pool.pick_now()
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


# --- slow start, panic ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["round_robin", "random", "random_two", "peak_ewma"])
def test_in_a_slow_start_a_server_gets_its_part_of_the_weight(algorithm: str) -> None:
    """Tenths of it, the others as before among themselves; then all of it again."""
    bench = PoolBench(server(1, weight=2), 2, 3, algorithm=algorithm, slow_start=30)
    bench.write(1, RAMP, 3)
    counts = Counter(bench.picks(2600))
    expected = {1: 600, 2: 1000, 3: 1000}
    slack = 0 if algorithm == "round_robin" else 150
    assert all(abs(counts[port] - expected[port]) <= slack for port in expected), counts
    bench.write(1, RAMP, 0)
    counts = Counter(bench.picks(2600))
    assert abs(counts[1] - 1300) <= slack


def test_servers_that_start_together_share_as_ever() -> None:
    """With a whole pool of new ones there is nobody to take the rest."""
    bench = PoolBench(1, server(2, weight=3), slow_start=30)
    for port in (1, 2):
        bench.write(port, RAMP, 1)
    assert Counter(bench.picks(40)) == {1: 10, 2: 30}


def test_under_load_a_slow_start_is_a_part_of_the_requests_in_flight() -> None:
    """least_connections divides by the weight as it is now."""
    bench = PoolBench(1, 2, algorithm="least_connections", slow_start=30)
    bench.write(2, RAMP, 2)
    for _ in range(60):
        bench.pool.pick()
    assert [bench.table.in_flight(bench.row(port)) for port in (1, 2)] == [50, 10]


def test_hash_keeps_its_keys_in_a_slow_start() -> None:
    """Each step would move keys, and those that move back had a warm server."""
    bench = PoolBench(1, 2, 3, algorithm={"name": "hash", "hash_on": "path"}, slow_start=30)
    asked = [request(f"/{number}") for number in range(60)]
    before = [bench.pool.pick((), one) for one in asked]
    bench.write(2, RAMP, 1)
    assert [bench.pool.pick((), one) for one in asked] == before


def test_without_slow_start_nobody_looks_for_it() -> None:
    """A cell left behind by an earlier configuration means nothing."""
    bench = PoolBench(1, 2)
    bench.write(1, RAMP, 1)
    assert Counter(bench.picks(20)) == {1: 10, 2: 10}


def test_panic_uses_all_that_are_ready() -> None:
    """Below the threshold, and only as long."""
    bench = PoolBench(1, 2, 3, server(4, state="drain"), health_check={"panic_threshold": 50})
    bench.write(1, STATE, UNHEALTHY)
    assert bench.available() == {2, 3}
    bench.write(2, STATE, UNHEALTHY)
    assert bench.available() == {1, 2, 3}
    bench.write(3, STATE, UNHEALTHY)
    assert bench.available() == {1, 2, 3}
    bench.write(1, STATE, HEALTHY)
    bench.write(2, STATE, HEALTHY)
    assert bench.available() == {1, 2}


# --- when to come back ---------------------------------------------------------------------------


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Both clocks, and no jitter."""
    clock = SimpleNamespace(wall_ms=10_000_000, monotonic=50.0)
    monkeypatch.setattr(pools, "time_ns", lambda: clock.wall_ms * 1_000_000)
    monkeypatch.setattr(pools, "monotonic", lambda: clock.monotonic)
    monkeypatch.setattr(pools.random, "random", lambda: 0.0)
    return clock


def test_who_was_refused_may_come_back_after_the_checks_that_are_needed(
    clock: SimpleNamespace,
) -> None:
    """Of the server that can be healthy first; found out ten times a second at most."""
    check = {"interval": 10, "healthy_threshold": 2}
    bench = PoolBench(1, 2, server(3, state="maint"), health_check=check)
    for port in (1, 2, 3):
        bench.write(port, STATE, UNHEALTHY)
        bench.write(port, CHECKED_MS, clock.wall_ms - 4000)
    assert bench.refusal() == "none_healthy"
    assert bench.pool.retry_after("none_healthy") == 16
    bench.write(2, STREAK, 1)
    bench.write(3, CHECKED_MS, 0)
    assert bench.pool.retry_after("none_healthy") == 16
    clock.monotonic += 0.1
    assert bench.pool.retry_after("none_healthy") == 6


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


# --- algorithms ----------------------------------------------------------------------------------


def request(target: str = "/", *fields: tuple[bytes, bytes]) -> Any:
    """An exchange as far as a key is looked for in it."""
    head = SimpleNamespace(target=target.encode(), fields=list(fields), forwarded_for=None)
    return SimpleNamespace(head=head, peer="192.0.2.7", is_trusted=False)


def test_hash_keeps_a_key_at_its_server() -> None:
    """And different keys go to all servers."""
    bench = PoolBench(1, 2, 3, algorithm={"name": "hash", "hash_on": "path"})
    where = {
        target: {bench.pool.pick((), request(target)).server.port for _ in range(5)}
        for target in (f"/{number}" for number in range(50))
    }
    assert all(len(ports) == 1 for ports in where.values())
    assert set.union(*where.values()) == {1, 2, 3}


def test_a_retry_with_hash_goes_to_another_and_always_the_same_one() -> None:
    """The keys of one server spread over all others."""
    bench = PoolBench(*range(1, 6), algorithm={"name": "hash", "hash_on": "path"})
    others = Counter()
    for number in range(400):
        asked = request(f"/{number}")
        first = bench.pool.pick((), asked)
        if first.server.port == 1:
            second = {bench.pool.pick((first,), asked).server.port for _ in range(3)}
            assert len(second) == 1
            others.update(second)
    assert set(others) == {2, 3, 4, 5}
    assert max(others.values()) < 0.6 * sum(others.values())


def test_a_missing_key_can_be_refused() -> None:
    """With a status of the client's fault, for the client left it out."""
    bench = PoolBench(
        1, 2, algorithm={"name": "hash", "hash_on": "header:X", "missing_key": "none"}
    )
    with pytest.raises(BadRequest) as caught:
        bench.pool.pick((), request())
    assert (caught.value.status, caught.value.reason) == (400, "key_missing")
    assert bench.pool.pick((), request("/", (b"x", b"1")))


def test_a_missing_key_falls_back_to_round_robin() -> None:
    """Unless configured otherwise."""
    bench = PoolBench(1, 2, algorithm={"name": "hash", "hash_on": "header:X"})
    assert [bench.pool.pick((), request()).server.port for _ in range(4)] in (
        [1, 2, 1, 2],
        [2, 1, 2, 1],
    )


def test_least_connections_counts_all_workers() -> None:
    """The loads that others wrote decide."""
    bench = PoolBench(1, 2, 3, algorithm="least_connections")
    bench.load(1, 4)
    bench.load(3, 4)
    assert set(bench.picks(10)) == {2}


def test_peak_ewma_prefers_the_faster_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are watched, and a server that was slow once is tried again after a rest."""
    bench = PoolBench(1, 2, algorithm="peak_ewma")
    clock = SimpleNamespace(now=100.0)
    for module in (algorithms, outcome_counter):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    assert all(backend.is_watched for backend in bench.pool.backends)
    bench.pool.answered(bench.backend(1), 200, 1.0)
    bench.pool.answered(bench.backend(2), 200, 0.01)
    for port in (1, 2):
        bench.load(port, 1)
    assert set(bench.picks(20)) == {2}
    clock.now += 60
    bench.pool.answered(bench.backend(2), 200, 0.01)
    assert set(bench.picks(20)) == {1}


def test_only_an_algorithm_that_reads_latency_has_answers_watched() -> None:
    """Round robin pays nothing for what others need; a new configuration changes it."""
    bench = PoolBench(1, 2)
    assert not any(backend.is_watched for backend in bench.pool.backends)
    bench.publish(1, 2, algorithm="peak_ewma")
    bench.pool.refresh()
    assert all(backend.is_watched for backend in bench.pool.backends)
    bench.publish(1, 2)
    bench.pool.refresh()
    assert not any(backend.is_watched for backend in bench.pool.backends)


def test_a_backup_takes_what_every_primary_has_failed_at() -> None:
    """In the same request, before anything is noticed (as nginx)."""
    bench = PoolBench(1, 2, server(3, backup=True))
    tried = (bench.backend(1), bench.backend(2))
    assert bench.pool.pick(tried).server.port == 3
    assert bench.refusal(1, 2, 3) == "all_tried"


def test_a_users_class_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its options, and guarded: what it spoils is round robin's, told once."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda *words, **fields: told.append(fields))
    bench = PoolBench(1, 2, 3, algorithm="tests.unit.policies.broken_policies.Good")
    assert len(set(bench.picks(6))) >= 1
    assert told == []
    bench.publish(1, 2, 3, algorithm="tests.unit.policies.broken_policies.Raises")
    assert bench.available() == {1, 2, 3}
    assert [fields["reason"] for fields in told] == ["raised"]


def test_a_class_that_is_gone_when_a_worker_wants_it_is_round_robin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was there when the master tried it: the requests must not suffer."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda *words, **fields: told.append(fields))
    bench = PoolBench(1, 2, algorithm="no.such.Thing")
    assert bench.available() == {1, 2}
    assert [fields["reason"] for fields in told] == ["load_failed"]


# --- set aside -----------------------------------------------------------------------------------


def test_an_ejected_server_is_left_out_unless_there_is_no_other() -> None:
    """A backup comes first; better an ejected one than none."""
    bench = PoolBench(1, 2, server(3, backup=True))
    bench.write(1, EJECTION, EJECTED)
    assert bench.available() == {2}
    bench.write(2, STATE, UNHEALTHY)
    assert bench.available() == {3}
    bench.write(3, STATE, UNHEALTHY)
    assert bench.available() == {1}


def test_what_comes_back_into_service_has_no_latency_yet() -> None:
    """It may have been repaired: its share must not wait until the old times are forgotten."""
    bench = PoolBench(1, 2, algorithm="peak_ewma")
    for port in (1, 2):
        bench.pool.answered(bench.backend(port), 200, 5.0)
    for state in (UNHEALTHY, HEALTHY):
        bench.write(1, STATE, state)
        bench.pool.refresh()
    now = pools.monotonic()
    assert bench.backend(1).latency.read(now) == 0.0
    assert bench.backend(2).latency.read(now) > 4.0


def test_on_trial_it_gets_one_request_at_a_time() -> None:
    """Of all workers; its answer is watched."""
    bench = PoolBench(1, 2)
    bench.write(1, EJECTION, TRIAL)
    assert bench.available() == {1, 2}
    assert bench.backend(1).is_watched
    bench.load(1, 1)
    assert bench.available() == {2}
    bench.pool.answered(bench.backend(1), 200, 0.1)
    assert bench.counted(1) == [0, 0, 0, 0, 1]
    bench.write(1, EJECTION, TRUSTED)
    assert bench.available() == {1, 2}
    assert not bench.backend(1).is_watched


# --- sticky sessions -----------------------------------------------------------------------------

STICKY = {"secret": "0123456789abcdef"}


def bound(bench: PoolBench, *ports: int, cookie: bytes | None = None, tried: int = 0) -> list[int]:
    """Where a client with a server's cookie (or this one) is sent, in a dozen requests."""
    said = [bench.backend(port).cookie for port in ports] or [cookie]
    requests = [SimpleNamespace(head=SimpleNamespace(sticky=value)) for value in said]
    left_out = (bench.backend(tried),) if tried else ()
    return [bench.pool.pick(left_out, one).server.port for one in requests for _ in range(12)]


def test_a_sticky_client_is_sent_to_its_server() -> None:
    """Others take turns, and so do those whose cookie means nothing."""
    bench = PoolBench(1, 2, 3, sticky=STICKY)
    assert set(bound(bench, 2)) == {2}
    assert set(bound(bench)) == {1, 2, 3}
    assert set(bound(bench, cookie=b"?")) == {1, 2, 3}


def test_cookies_differ_and_do_not_depend_on_the_order_of_servers() -> None:
    """Another machine may list them otherwise."""
    one, other = PoolBench(1, 2, 3, sticky=STICKY), PoolBench(3, 1, sticky=STICKY)
    assert len({backend.cookie for backend in one.pool.backends}) == 3
    assert one.backend(3).cookie == other.backend(3).cookie


@pytest.mark.parametrize(
    ("cell", "value"), [(STATE, UNHEALTHY), (EJECTION, EJECTED), (ADMIN, MAINT)]
)
def test_a_sticky_client_of_a_lost_server_gets_another(cell: int, value: int) -> None:
    """Unhealthy, set aside or in maintenance: whoever is available."""
    bench = PoolBench(1, 2, 3, sticky=STICKY)
    bench.write(2, cell, value)
    assert set(bound(bench, 2)) == {1, 3}


@pytest.mark.parametrize("is_configured", [True, False])
def test_a_draining_server_keeps_its_sticky_clients(is_configured: bool) -> None:
    """By its state in the configuration or in the table; unless it is unhealthy or set aside."""
    bench = PoolBench(1, server(2, state="drain" if is_configured else "ready"), sticky=STICKY)
    bench.write(2, ADMIN, READY if is_configured else DRAIN)
    assert set(bound(bench, 2)) == {2}
    assert set(bound(bench)) == {1}
    bench.write(2, EJECTION, EJECTED)
    assert set(bound(bench, 2)) == {1}
    bench.write(2, EJECTION, TRUSTED)
    bench.write(2, STATE, UNHEALTHY)
    assert set(bound(bench, 2)) == {1}


def test_maintenance_in_either_place_ends_it() -> None:
    """A server that the configuration drains and a command puts in maintenance gets nobody."""
    bench = PoolBench(1, server(2, state="drain"), server(3, state="maint"), sticky=STICKY)
    bench.write(2, ADMIN, MAINT)
    bench.write(3, ADMIN, DRAIN)
    assert set(bound(bench, 2, 3)) == {1}


def test_while_all_are_draining_sticky_clients_are_served() -> None:
    """And new ones are told why they are not."""
    bench = PoolBench(server(1, state="drain"), server(2, state="drain"), sticky=STICKY)
    assert set(bound(bench, 2)) == {2}
    assert bench.refusal() == "all_draining"
    with pytest.raises(NoBackend):
        bound(bench)


def test_a_sticky_client_of_a_backup_stays_there() -> None:
    """HAProxy does so: its session is there. New clients get none."""
    bench = PoolBench(1, server(2, backup=True), sticky=STICKY)
    assert set(bound(bench, 2)) == {2}
    assert set(bound(bench)) == {1}


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


def test_sticky_sessions_come_and_go_with_a_configuration() -> None:
    """Off again, the cookie decides nothing and a pick is as cheap as before."""
    bench = PoolBench(1, 2)
    assert bench.pool.sticky is None
    assert bench.pool.snapshot.is_plain
    bench.publish(1, 2, sticky=STICKY)
    bench.picks(1)
    assert set(bound(bench, 2)) == {2}
    bench.publish(1, 2)
    bench.picks(1)
    assert bench.pool.sticky is None
    assert bench.pool.snapshot.is_plain


# -- a configuration of another release ------------------------------------------------------------


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
