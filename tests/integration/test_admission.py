"""Full servers through the real balancer: exact places, and requests that wait for them in turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import (
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    Load,
    Truncated,
    burst,
    handlers,
    health_check,
    processes,
    seconds,
    wait_until,
)


class Meter:
    """A handler that knows how many requests it has at once."""

    def __init__(self, service: float = 0.002) -> None:
        self.now = self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self._service = service
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            exchange.read_body()
            self.gate.wait(20)
            time.sleep(self._service)
        finally:
            # Before the answer: the next request may be here before this thread goes on.
            with self._lock:
                self.now -= 1
        handlers.ok(exchange)


class Asker:
    """One request in a thread; ``status`` when it is answered, -1 when its connection ends instead."""

    def __init__(self, balancer: Balancer, target: str = "/") -> None:
        self.status = 0
        self.retry_after = ""
        self._client = balancer.connect()
        self._thread = threading.Thread(target=self._run, args=(target,), daemon=True)
        self._thread.start()

    def _run(self, target: str) -> None:
        try:
            response = self._client.get(target)
            self.retry_after = response.get("Retry-After") or ""
            self.status = response.status
        except (OSError, Truncated):
            self.status = -1
        finally:
            self._client.close()

    def join(self) -> int:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.status


def connections(balancer: Balancer, each: int) -> dict[int, list[Client]]:
    """That many for every worker, by its pid; who accepts one is the kernel's choice."""
    workers = balancer.worker_pids()
    found: dict[int, list[Client]] = {pid: [] for pid in workers}
    for _ in range(400):
        client = balancer.connect()
        owner = wait_until(lambda c=client: processes.owner_of(c.socket, workers))
        if len(found[owner]) < each:
            found[owner].append(client)
        else:
            client.close()
        if all(len(mine) == each for mine in found.values()):
            return found
    raise AssertionError(f"one worker accepts all connections: {found}")


def has_read_all(client: Client) -> None:
    """Its worker has read what came before: it answers a request that needs no server."""
    client.send(b"nonsense\r\n\r\n")
    assert client.read_response().status == 400


def limited(backend: Backend, places: int, **more: Any) -> dict[str, Any]:
    return {"url": backend.url, "max_connections": places, **more}


@pytest.fixture(name="meter")
def _meter() -> Meter:
    return Meter()


@pytest.fixture(name="server")
def _server(meter: Meter) -> Iterator[Backend]:
    with Backend(meter) as backend:
        yield backend
        meter.gate.set()


@pytest.mark.parametrize("algorithm", ["round_robin", "least_connections", "random"])
def test_no_server_gets_more_than_its_places(server: Backend, meter: Meter, algorithm: str) -> None:
    """Three workers that all want the last place: never one too many, and nobody is turned away."""
    other = Meter()
    with Backend(other) as second:
        servers = [limited(server, 2), limited(second, 1)]
        with Balancer(servers, workers=3, algorithm=algorithm) as balancer:
            responses = burst(balancer.address, 600, clients=24, per_connection=5)

    assert {response.status for response in responses} == {200}
    assert (meter.most, other.most) == (2, 1)
    assert len(server.requests) > len(second.requests) > 50


def test_who_waits_too_long_is_told_when_to_come_back(server: Backend, meter: Meter) -> None:
    """503 all_full after queue.timeout; the one in front is not disturbed."""
    meter.gate.clear()
    queue = {"size": 10, "timeout": 0.3}
    with Balancer([limited(server, 1)], workers=2, queue=queue) as balancer:
        first = Asker(balancer)
        wait_until(lambda: meter.now, seconds(5))
        began = time.monotonic()
        response = balancer.get()
        waited = time.monotonic() - began
        meter.gate.set()

        assert (response.status, response.json()["reason"]) == (503, "all_full")
        assert int(response.get("Retry-After")) >= 1
        assert 0.25 <= waited < seconds(0.3) + 1
        assert first.join() == 200
        line = balancer.access_line(status=503)
        assert (line["reason"], line["attempts"]) == ("all_full", [])
    assert len(server.requests) == 1


@pytest.mark.parametrize("queue", [False, {"size": 1, "timeout": 10}], ids=["off", "full"])
def test_where_there_is_no_place_to_wait_the_answer_comes_at_once(
    server: Backend, meter: Meter, queue: Any
) -> None:
    """Neither a place at a server nor one in the queue."""
    meter.gate.clear()
    with Balancer([limited(server, 1)], queue=queue) as balancer:
        askers = [Asker(balancer)]
        wait_until(lambda: meter.now, seconds(5))
        if queue:
            askers += [Asker(balancer) for _ in range(2)]
            wait_until(lambda: any(asker.status for asker in askers), seconds(5))
        began = time.monotonic()
        response = balancer.get()
        waited = time.monotonic() - began
        meter.gate.set()
        statuses = sorted(asker.join() for asker in askers)

    assert (response.status, response.json()["reason"]) == (503, "all_full")
    assert waited < 5
    assert statuses == ([200, 200, 503] if queue else [200])


def test_first_come_first_served(server: Backend, meter: Meter) -> None:
    """In one worker exactly: by the order in which their requests came."""
    meter.gate.clear()
    with Balancer([limited(server, 1)]) as balancer:
        first = balancer.connect()
        first.send_head("GET", "/first")
        wait_until(lambda: meter.now, seconds(5))
        waiting: list[Client] = []
        for number in range(8):
            client = balancer.connect()
            client.send_head("GET", f"/{number}")
            waiting.append(client)
            with balancer.connect() as probe:
                has_read_all(probe)
        meter.gate.set()
        for client in [first, *waiting]:
            assert client.read_response().status == 200
            client.close()

    assert [request.target for request in server.requests] == [
        "/first", *(f"/{number}" for number in range(8))
    ]  # fmt: skip


def test_a_client_that_goes_leaves_the_queue(server: Backend, meter: Meter) -> None:
    """Its request reaches no server, and the next one is served."""
    meter.gate.clear()
    with Balancer([limited(server, 1)], queue={"size": 2, "timeout": 30}) as balancer:
        first = Asker(balancer)
        wait_until(lambda: meter.now, seconds(5))
        with balancer.connect() as gone:
            gone.send_head("GET", "/gone")
        assert balancer.access_line(target="/gone")["status"] == 499
        others = [Asker(balancer) for _ in range(2)]  # the queue has room for two again
        meter.gate.set()

        assert [first.join(), *(other.join() for other in others)] == [200] * 3
    assert [request.target for request in server.requests] == ["/"] * 3


def test_a_killed_worker_leaves_no_count_and_no_place_in_the_queue(
    server: Backend, meter: Meter
) -> None:
    """SIGKILL while requests of it are in flight and wait: the others get all places, and no more."""
    meter.gate.clear()
    queue = {"size": 100, "timeout": 30}
    with Balancer([limited(server, 2)], workers=2, queue=queue) as balancer:
        victim, other = balancer.worker_pids()
        clients = connections(balancer, each=4)
        lost, kept = clients[victim], clients[other]
        lost[0].send_head("GET", "/")  # in flight
        wait_until(lambda: meter.now == 1, seconds(5))
        kept[0].send_head("GET", "/")
        wait_until(lambda: meter.now == 2, seconds(5))
        for client in lost[1:-1] + kept[1:-1]:
            client.send_head("GET", "/")
        has_read_all(lost[-1])
        has_read_all(kept[-1])
        os.kill(victim, signal.SIGKILL)
        balancer.wait_for_workers(gone={victim})
        wait_until(lambda: meter.now == 3, seconds(5))  # the dead one's place was given away
        meter.gate.set()
        assert [client.read_response().status for client in kept[:-1]] == [200] * 3

        # Both places are there again, and only both.
        wait_until(lambda: meter.now == 0, seconds(5))
        meter.most = 0
        assert {response.status for response in burst(balancer.address, 60, clients=12)} == {200}
        assert meter.most == 2
        for client in lost + kept:
            client.close()


def test_a_stopped_worker_keeps_nobody_else_from_being_served(
    server: Backend, meter: Meter
) -> None:
    """Its requests have waited longest and do not move: the other worker's are served all the same."""
    meter.gate.clear()
    queue = {"size": 100, "timeout": 30}
    with Balancer([limited(server, 1)], workers=2, queue=queue) as balancer:
        stopped, other = balancer.worker_pids()
        clients = connections(balancer, each=5)
        stalled, served = clients[stopped], clients[other]
        served[0].send_head("GET", "/")
        wait_until(lambda: meter.now == 1, seconds(5))
        for group in (stalled, served[1:]):
            for client in group[:-1]:
                client.send_head("GET", "/")
            has_read_all(group[-1])
        os.kill(stopped, signal.SIGSTOP)
        try:
            meter.gate.set()
            assert [client.read_response().status for client in served[:-1]] == [200] * 4
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert [client.read_response().status for client in stalled[:-1]] == [200] * 4
        assert meter.most == 1
        for client in stalled + served:
            client.close()


def test_a_server_that_comes_back_gets_its_share_little_by_little(server: Backend) -> None:
    """A tenth of its weight in the first fifth of slow_start, all of it at the end."""
    window = seconds(2)
    with Backend() as stays:
        server.handler = handlers.ok
        server.probe = handlers.answer(503)
        check = health_check(0.1, healthy_threshold=1, unhealthy_threshold=1)
        servers, settings = [stays, server], {"health_check": check, "slow_start": window}
        with Balancer(servers, workers=2, **settings) as balancer, Load(balancer.address) as load:
            time.sleep(1.2 * window)  # the other one has had its own
            assert server.requests == []
            server.probe = handlers.answer(200)
            first = server.wait_for_request()
            time.sleep(max(0.0, first.arrived + window / 10 - time.time()))
            others = [request for request in stays.requests if request.arrived >= first.arrived]
            assert 0.05 * len(others) <= len(server.requests) <= 0.15 * len(others)
            time.sleep(max(0.0, first.arrived + 1.2 * window - time.time()))
            for backend in servers:
                backend.clear()
            load.wait_for_more(400)
            assert abs(len(server.requests) - len(stays.requests)) <= 20


def test_when_nearly_all_checks_fail_all_servers_are_used() -> None:
    """Said once by the whole balancer, and once when it is over."""
    with Backend() as one, Backend() as two, Backend() as three:
        check = health_check(0.1, healthy_threshold=1, unhealthy_threshold=1, panic_threshold=60)
        servers = [one, two, three]
        with Balancer(servers, workers=2, health_check=check) as balancer:
            for backend in servers:
                backend.probe = handlers.answer(503)
            (said,) = balancer.log.wait_for(1, "pool", reason="panic")
            assert (said["ready"], said["threshold"]) == (3, 60)
            wait_until(lambda: len(balancer.health_lines(healthy=False)) == 3, seconds(5))
            responses = burst(balancer.address, 90, clients=4)
            assert {response.status for response in responses} == {200}
            assert all(len(backend.requests) >= 25 for backend in servers)
            for backend in servers:
                backend.probe = handlers.answer(200)
            balancer.log.wait_for(1, "pool", reason="healthy_again")
            wait_until(lambda: len(balancer.health_lines(healthy=True)) == 6, seconds(5))
            assert len(balancer.log.select("pool")) == 2


def test_it_holds_under_the_stock_worker_too(server: Backend, meter: Meter) -> None:
    """Plain WSGI: the same places, the same queue."""
    with Balancer([limited(server, 2)], workers=2, command=STOCK_WORKER) as balancer:
        responses = burst(balancer.address, 200, clients=12, per_connection=5)

    assert {response.status for response in responses} == {200}
    assert meter.most == 2
