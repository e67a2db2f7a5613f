"""Which backends a snapshot has, for new clients and for sticky ones, as the table says."""

from __future__ import annotations

import pytest
from fakes.pool_bench import STICKY, PoolBench, bound, server

from app.errors import NoBackend
from app.shared.layout import (
    ADMIN,
    DRAIN,
    EJECTED,
    EJECTION,
    HEALTHY,
    MAINT,
    READY,
    STATE,
    TRIAL,
    TRUSTED,
    UNCHECKED,
    UNHEALTHY,
)
from app.worker.balance import pool as pools


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


# --- sticky clients ------------------------------------------------------------------------------


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
