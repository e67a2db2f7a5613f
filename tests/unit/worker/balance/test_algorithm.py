"""What a policy is given of the live system (weights, keys, loads, latencies), seen in what a pool picks."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.pool_bench import PoolBench, server

from app.errors import BadRequest
from app.shared.layout import RAMP
from app.telemetry import log
from app.worker.balance import algorithm as algorithms
from app.worker.balance import outcome_counter


def request(target: str = "/", *fields: tuple[bytes, bytes]) -> Any:
    """An exchange as far as a key is looked for in it."""
    head = SimpleNamespace(target=target.encode(), fields=list(fields), forwarded_for=None)
    return SimpleNamespace(head=head, peer="192.0.2.7", is_trusted=False)


def test_weights_are_shares() -> None:
    """Exactly, over one cycle."""
    bench = PoolBench(server(1, weight=5), server(2, weight=1), 3)
    assert Counter(bench.picks(70)) == {1: 50, 2: 10, 3: 10}


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


# --- slow start ----------------------------------------------------------------------------------


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
