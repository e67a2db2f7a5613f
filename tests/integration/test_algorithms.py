"""Algorithms as clients and operators see them: chosen in config.json, through the real balancer."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    GUNICORN,
    SCRIPT,
    Backend,
    Balancer,
    Exchange,
    burst,
    handlers,
    run,
    seconds,
    wait_until,
)

EX_CONFIG = 78


@pytest.fixture(name="farm")
def _farm() -> Iterator[Backend]:
    with Backend(answer_address, bind="0.0.0.0") as farm:
        yield farm


def answer_address(exchange: Exchange) -> None:
    """200 with the address that the request came to."""
    exchange.reply(body=exchange.request.local[0].encode())


@pytest.mark.parametrize(
    "algorithm",
    ["round_robin", "least_connections", "random_two", "peak_ewma", "random", "first", "hash"],
)
def test_each_algorithm_serves(farm: Backend, algorithm: str) -> None:
    """Every built-in one by its name alone, with two workers."""
    with Balancer(farm.urls(3), workers=2, algorithm=algorithm) as balancer:
        burst(balancer.address, 60, clients=4)
        servers = len(farm.counts())

        assert sum(farm.counts().values()) == 60
        assert servers == 1 if algorithm in ("hash", "first") else servers == 3


@pytest.mark.parametrize(
    ("hash_on", "ask"),
    [
        ("path", lambda n: (f"/{n}?{time.monotonic()}", [])),
        ("query:id", lambda n: (f"/?t={time.monotonic()}&id={n}", [])),
        ("header:X-User", lambda n: ("/", [("x-user", str(n))])),
        ("cookie:sid", lambda n: ("/", [("Cookie", f"a=b; sid={n}")])),
    ],
)
def test_hash_keeps_each_key_at_its_server_on_every_worker(
    farm: Backend, hash_on: str, ask: object
) -> None:
    """Also after a reload, which starts new workers."""
    algorithm = {"name": "hash", "hash_on": hash_on}
    with Balancer(farm.urls(4), workers=2, algorithm=algorithm) as balancer:
        first = {n: balancer.get(*ask(n)).text for n in range(20)}
        for _ in range(3):
            assert {n: balancer.get(*ask(n)).text for n in range(20)} == first
        balancer.reload()

        assert {n: balancer.get(*ask(n)).text for n in range(20)} == first
        assert len(set(first.values())) > 1


def test_hash_retries_on_another_server(farm: Backend) -> None:
    """The keys of a server that refuses are answered, and spread over the others."""
    refusing = Backend()
    refusing.down()
    servers = [*farm.urls(3), refusing.url]
    algorithm = {"name": "hash", "hash_on": "path"}
    # Set aside after three failures it would show three keys only, and those may well share a server.
    settings = {"algorithm": algorithm, "outlier_detection": False}
    with refusing, Balancer(servers, **settings) as balancer:
        moved = Counter()
        for number in range(60):
            response = balancer.get(f"/{number}")
            assert response.status == 200
            line = balancer.access_line(target=f"/{number}")
            if len(line["attempts"]) > 1:
                assert line["attempts"][0]["server"] == refusing.address
                moved[response.text] += 1

        assert len(moved) > 1, moved


def test_a_missing_key_can_be_refused(farm: Backend) -> None:
    """400 with a reason of its own, and nothing reaches a server."""
    algorithm = {"name": "hash", "hash_on": "header:X-User", "missing_key": "none"}
    with Balancer(farm.urls(2), algorithm=algorithm) as balancer:
        refused = balancer.get("/refused")

        assert refused.status == 400
        assert refused.json()["reason"] == "key_missing"
        assert balancer.access_line(target="/refused")["reason"] == "key_missing"
        assert not farm.requests
        assert balancer.get("/", [("X-User", "ann")]).status == 200


def test_slow_server_gets_less_with_least_connections_and_peak_ewma(farm: Backend) -> None:
    """One server of four is much slower: it gets a small part of its quarter, but is not starved."""

    def answer(exchange: Exchange) -> None:
        if exchange.request.local[0] == "127.0.0.2":
            time.sleep(0.3)
        answer_address(exchange)

    farm.handler = answer
    for algorithm in ("least_connections", "peak_ewma"):
        farm.clear()
        with Balancer(farm.urls(4), workers=2, algorithm=algorithm) as balancer:
            burst(balancer.address, 300, clients=6)
            counts = farm.counts()

            assert 1 <= counts["127.0.0.2"] <= 35, (algorithm, counts)


def test_first_fills_in_order(farm: Backend) -> None:
    """The second server is used when the first has its max_connections."""
    gate = threading.Event()
    farm.handler = handlers.gated(gate, answer_address)
    servers = [{"url": url, "max_connections": 2} for url in farm.urls(2)]
    with Balancer(servers, workers=2, algorithm="first") as balancer:
        clients = [threading.Thread(target=balancer.get, daemon=True) for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.start()
            farm.wait_for_request(number)
        counts = farm.counts()
        gate.set()
        for client in clients:
            client.join()

        assert counts == {"127.0.0.1": 2, "127.0.0.2": 1}


# --- a user's own --------------------------------------------------------------------------------

LAST = """
import gevent, requests  # what a user's module may well import


class Last:
    def __init__(self, inputs, fail_on=""):
        self.last = len(inputs.weights) - 1
        self.fail_on = fail_on.encode()

    def pick(self, key=None):
        if key and key == self.fail_on:
            raise RuntimeError("as asked")
        return self.last
"""


@pytest.fixture(name="package")
def _package(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "users_own.py").write_text(LAST, encoding="utf-8")
    places = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def test_a_users_class_picks_and_its_failures_cost_no_request(
    farm: Backend, package: dict[str, str]
) -> None:
    """Options reach it; what it raises is a round robin pick, logged once for each worker."""
    algorithm = {"name": "users_own.Last", "hash_on": "path", "fail_on": "/bad"}
    with Balancer(farm.urls(3), env=package, algorithm=algorithm) as balancer:
        assert {balancer.get(f"/{n}").text for n in range(6)} == {"127.0.0.3"}
        assert len({balancer.get("/bad").text for _ in range(6)}) == 3
        wait_until(lambda: balancer.log.select("pool"), seconds(5))
        (line,) = balancer.log.select("pool")

        assert line["reason"] == "raised"
        assert line["algorithm"] == "users_own.Last"


@pytest.mark.parametrize("command", [GUNICORN, (*SCRIPT, "check")], ids=["gunicorn", "check"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("users_own.Absent", "no class"), ("nowhere.Last", "No module named")],
)
def test_a_bad_class_is_refused_at_start(
    tmp_path: Path, package: dict[str, str], command: tuple[str, ...], name: str, why: str
) -> None:
    """Like any other mistake in the configuration: status 78 and the reason."""
    path = tmp_path / "config.json"
    path.write_text(f'{{"servers": ["http://127.0.0.1:1"], "algorithm": "{name}"}}')
    done = run(command, path, **package)

    assert done.returncode == EX_CONFIG
    said = done.stdout + done.stderr  # a start says it in the log
    assert f"algorithm: {name}" in said
    assert why in said
