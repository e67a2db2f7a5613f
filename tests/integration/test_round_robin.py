"""Round robin as clients see it: exact over all workers, whatever dies, reloads or changes.

One backend that listens on all of 127.0.0.0/8 plays every server, and knows them apart by the address a
request came to; so the counts are exact and a test with 64 servers costs one socket.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from harness import (
    PATIENT,
    Backend,
    Balancer,
    Exchange,
    burst,
    handlers,
    health_check,
    seconds,
    wait_until,
)


@pytest.fixture(name="farm")
def _farm() -> Iterator[Backend]:
    with Backend(answer_address, bind="0.0.0.0") as farm:
        yield farm


def answer_address(exchange: Exchange) -> None:
    """200 with the address that the request came to."""
    exchange.reply(body=exchange.request.local[0].encode())


def spread(counts: Counter[str], servers: int) -> int:
    """The largest count less the smallest; a server that got nothing counts."""
    values = [*counts.values(), *[0] * (servers - len(counts))]
    return max(values) - min(values)


def order(balancer: Balancer, count: int) -> list[str]:
    """Who answers, one request after the other, each on a connection of its own."""
    responses = [balancer.get() for _ in range(count)]
    assert {response.status for response in responses} == {200}, responses
    return [response.text for response in responses]


def is_cycle(answers: list[str], servers: int) -> bool:
    """Whether every server comes once before any comes again."""
    return len(set(answers[:servers])) == min(servers, len(answers)) and all(
        answers[position] == answers[position - servers]
        for position in range(servers, len(answers))
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_concurrent_clients_are_spread_exactly(farm: Backend, workers: int) -> None:
    """Many clients on many connections, through any number of workers: equal to within one."""
    with Balancer(farm.urls(5), workers=workers) as balancer:
        for count in (501, 503):
            farm.clear()
            burst(balancer.address, count, clients=12, per_connection=7)
            assert spread(farm.counts(), 5) <= 1, farm.counts()
            assert sum(farm.counts().values()) == count
        everything = Counter(line["backend"] for line in balancer.wait_for_access(1004))

        assert spread(everything, 5) <= 1


def test_workers_share_one_order(farm: Backend) -> None:
    """One request after another goes round in one fixed order, though four workers take turns."""
    with Balancer(farm.urls(4), workers=4) as balancer:
        assert is_cycle(order(balancer, 60), 4)


def test_first_server_is_not_always_favoured_after_start(farm: Backend) -> None:
    """Each start begins at another of 64 servers (four starts alike: once in 260,000 runs)."""
    firsts = set()
    for _ in range(4):
        with Balancer(farm.urls(64)) as balancer:
            firsts.update(order(balancer, 1))

    assert len(firsts) > 1


def test_order_survives_hup_and_the_death_of_a_worker(farm: Backend) -> None:
    """After HUP, and after kill -9 of each worker, the next request goes to the next server."""
    with Balancer(farm.urls(5), workers=2) as balancer:
        answers = order(balancer, 7)
        balancer.reload()
        answers += order(balancer, 8)
        for pid in sorted(balancer.worker_pids()):
            balancer.signal(signal.SIGKILL, pid)
            balancer.wait_for_workers(gone={pid})
            answers += order(balancer, 4)

        assert is_cycle(answers, 5), answers


def test_order_survives_an_upgrade(farm: Backend) -> None:
    """USR2 starts a second master that goes on where the first one is."""
    with Balancer(farm.urls(7), workers=1) as balancer:
        answers = order(balancer, 5)
        old = balancer.upgrade()
        balancer.signal(signal.SIGTERM, old)
        wait_until(lambda: old not in balancer.pids(), PATIENT)
        answers += order(balancer, 10)

        assert is_cycle(answers, 7), answers


def test_neighbour_of_a_dead_server_gets_no_double_load(farm: Backend) -> None:
    """Without a server that failed its checks the others share equally, in one order."""
    dead = "127.0.0.2"

    def probe(exchange: Exchange) -> None:
        is_dead = exchange.request.local[0] == dead
        (handlers.answer(503) if is_dead else handlers.answer(200))(exchange)

    farm.probe = probe
    with Balancer(farm.urls(4), workers=2, health_check=health_check(0.5)) as balancer:
        answers = order(balancer, 30)
        burst(balancer.address, 301, clients=8)

        assert dead not in farm.counts()
        assert is_cycle(answers, 3)
        assert spread(farm.counts(), 3) <= 1, farm.counts()


def test_neighbour_of_a_refusing_server_gets_no_double_load(farm: Backend) -> None:
    """Not even when nobody has noticed yet: what a refusing server misses is shared by all others."""
    refusing = Backend()
    refusing.down()
    servers = [*farm.urls(3)[:2], refusing.url, farm.urls(3)[2]]
    with refusing, Balancer(servers, workers=2) as balancer:
        order(balancer, 120)
        counts = farm.counts()

        assert sum(counts.values()) == 120
        # A fourth of the requests is moved: on one neighbour alone, it would have 60 of the 120.
        assert max(counts.values()) <= 45, counts


def test_others_are_not_disturbed_by_one_server_that_comes_and_goes(farm: Backend) -> None:
    """While the set is stable, before and after each change, shares are equal to within one."""
    state = {"is_up": True}
    flapping = "127.0.0.3"

    def probe(exchange: Exchange) -> None:
        is_down = exchange.request.local[0] == flapping and not state["is_up"]
        (handlers.answer(503) if is_down else handlers.answer(200))(exchange)

    farm.probe = probe
    check = health_check(0.05, healthy_threshold=1, unhealthy_threshold=1)
    with Balancer(farm.urls(3), workers=2, health_check=check) as balancer:
        for is_up in (False, True, False, True):
            mark = balancer.log_mark
            state["is_up"] = is_up
            balancer.log.wait_for(1, "health", mark)
            available = 3 if is_up else 2
            # The change reaches each worker with its next request: after these, all know it.
            wait_until(lambda size=available: len(set(order(balancer, 12))) == size, seconds(5))
            farm.clear()
            answers = order(balancer, 24)
            assert is_cycle(answers, available), answers
            burst(balancer.address, 100, clients=6)
            assert spread(farm.counts(), available) <= 1, farm.counts()


def test_weights_are_kept_exactly(farm: Backend) -> None:
    """Weights 5, 1, 1 give 5/7, 1/7, 1/7 of the requests, and never five in a row to one server."""
    servers = [
        {"url": url, "weight": weight} for url, weight in zip(farm.urls(3), (5, 1, 1), strict=True)
    ]
    with Balancer(servers, workers=2) as balancer:
        answers = order(balancer, 70)

        assert Counter(answers) == {"127.0.0.1": 50, "127.0.0.2": 10, "127.0.0.3": 10}
        assert "127.0.0.1" * 5 not in "".join(answers)
