"""Passive outlier detection through the real balancer: what requests meet takes a server out and back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Backend, Balancer, Load, burst, handlers, health_check, seconds, wait_until

# A balancer whose servers come back soon.
SOON = {"ejection_time": 0.4, "max_ejection_time": 0.4}


@pytest.fixture(name="servers")
def _servers() -> Iterator[list[Backend]]:
    with Backend() as one, Backend() as two, Backend() as three, Backend() as four:
        yield [one, two, three, four]


def messages(balancer: Balancer, backend: Backend) -> list[tuple[str, str]]:
    """What the log says of a server's health, first to last."""
    lines = balancer.health_lines(backend=backend.address)
    return [(str(line["message"]), str(line["reason"])) for line in lines]


def test_a_refusing_server_is_out_for_every_worker_and_comes_back(servers: list[Backend]) -> None:
    """No request fails, all workers leave it alone within 100 ms, and one trial brings it back."""
    dead = servers[0]
    with Balancer(servers, workers=2, outlier_detection=SOON) as balancer:
        with Load(balancer.address) as load:
            load.wait_for_more(50)
            dead.down()
            wait_until(lambda: messages(balancer, dead), seconds(5))
            time.sleep(seconds(0.1))
            mark = balancer.log_mark
            load.wait_for_more(100)
            time.sleep(seconds(0.2))  # access lines are written ten times a second
            lines = balancer.access_lines(mark)
            # Each trial costs one attempt; without ejection it were a quarter of all requests.
            first_tries = [line["attempts"][0]["server"] for line in lines]
            assert first_tries.count(dead.address) <= 0.1 * len(first_tries)
            dead.up()
            wait_until(lambda: messages(balancer, dead)[-1][0] == "backend returned", seconds(10))
            dead.clear()
            load.wait_for_more(100)
            assert len(dead.requests) >= 15
        assert load.failures == []
        said = messages(balancer, dead)

        assert said[0] == ("backend ejected", "connect_failures")
        assert said[-2:] == [
            ("backend on trial", "ejection_over"),
            ("backend returned", "trial_passed"),
        ]


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (handlers.answer(500), "server_errors"),
        (handlers.reset, "resets"),
        (handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"), "resets"),
        (handlers.raw(b"nonsense\r\n\r\n"), "failure_rate"),
    ],
    ids=["500", "reset", "cut-body", "unreadable"],
)
def test_each_kind_of_failure_ejects(servers: list[Backend], handler: Any, reason: str) -> None:
    """After five in a row over both workers; then clients see no more of it."""
    ill = servers[0]
    with Balancer(servers, workers=2, outlier_detection={"ejection_time": 60}) as balancer:
        burst(balancer.address, 40, clients=4)
        ill.handler = handler

        def is_out() -> bool:
            with Load(balancer.address, kept=1, fresh=0) as load:
                load.wait_for_more(4)
            return bool(messages(balancer, ill))

        wait_until(is_out, seconds(10))
        time.sleep(seconds(0.1))
        ill.clear()
        burst(balancer.address, 60, clients=4)

        assert ill.requests == []
        assert messages(balancer, ill) == [("backend ejected", reason)]


def test_failures_between_good_answers_eject_nobody(servers: list[Backend]) -> None:
    """A server with one bad answer in three is not one that is broken."""
    shaky = servers[0]

    def answer(exchange: Any) -> None:
        is_bad = len(shaky.requests) % 3 == 0
        (handlers.answer(500) if is_bad else handlers.ok)(exchange)

    shaky.handler = answer
    with Balancer(servers, workers=2) as balancer:
        burst(balancer.address, 300, clients=2)
        time.sleep(seconds(0.2))

        assert messages(balancer, shaky) == []


@pytest.mark.parametrize(
    "bad",
    [
        handlers.answer(500),
        handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
    ],
    ids=["500", "cut-body"],
)
def test_a_server_that_fails_every_second_time_is_ejected(servers: list[Backend], bad: Any) -> None:
    """Never five in a row, but half of its last ones; clients see few of them."""
    shaky = servers[0]

    def answer(exchange: Any) -> None:
        (bad if len(shaky.requests) % 2 else handlers.ok)(exchange)

    with Balancer(servers, workers=2, outlier_detection={"ejection_time": 60}) as balancer:
        burst(balancer.address, 40, clients=4)
        shaky.clear()
        shaky.handler = answer
        with Load(balancer.address) as load:
            wait_until(lambda: messages(balancer, shaky), seconds(10))
            time.sleep(seconds(0.1))
            shaky.clear()
            load.wait_for_more(80)

            assert shaky.requests == []
            assert len(load.failures) <= 20
        assert messages(balancer, shaky)[0][1] in {"failure_rate", "server_errors", "resets"}


BAD_ANSWERS = [
    handlers.answer(500),
    handlers.reset,
    handlers.raw(b"nonsense\r\n\r\n"),
    handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
]


@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=["500", "reset", "unreadable", "cut-body"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("is_bound", [False, True], ids=["any server", "one server"])
def test_a_bad_url_is_not_a_bad_server(
    servers: list[Backend], bad: Any, method: str, is_bound: bool
) -> None:
    """A client asks for it all the time, of all servers or of the one it is bound to: none is set aside."""

    def answer(exchange: Any) -> None:
        exchange.read_body()
        (bad if exchange.request.target.startswith("/bad") else handlers.ok)(exchange)

    for server in servers:
        server.handler = answer
    sticky = {"secret": "0123456789abcdef"}
    with Balancer(servers, workers=2, sticky=sticky) as balancer:
        bound = balancer.get("/").get("Set-Cookie").split(";")[0]
        honest = [("Cookie", bound)]
        home = balancer.get("/", honest).body
        for number in range(60):
            with contextlib.suppress(OSError, AssertionError), balancer.connect() as client:
                body = b"x" if method == "POST" else None
                cookies = honest if is_bound else []
                client.request(method, f"/bad/{number}", cookies, body=body)
            if number % 10 == 9:
                assert balancer.get("/", honest).body == home
        time.sleep(seconds(0.3))

        assert balancer.health_lines() == []


@pytest.mark.parametrize("target", ["/orders/17", "/random/"], ids=["one id", "any path"])
def test_who_stays_at_one_server_cannot_set_it_aside_by_what_others_are_answered(
    servers: list[Backend], target: str
) -> None:
    """It follows its cookie from server to server; others ask for things of the same kind, with success."""

    def answer(exchange: Any) -> None:
        is_bad = exchange.request.target.startswith(("/orders/17", "/random/"))
        (handlers.answer(500) if is_bad else handlers.ok)(exchange)

    for server in servers:
        server.handler = answer
    claims = [("X-Forwarded-For", "203.0.113.1")]
    settings = {"sticky": {"secret": "0123456789abcdef"}, "trusted_proxies": ["127.0.0.1"]}
    with Balancer(servers, workers=2, retries={"attempts": 1}, **settings) as balancer:
        bound = balancer.get("/", claims).get("Set-Cookie").split(";")[0]
        for number in range(60):
            letters = "".join(chr(97 + int(digit)) for digit in str(number))
            asked = target + letters if target.endswith("/") else target
            balancer.get(asked, [*claims, ("Cookie", bound)])
            if number % 4 == 3:
                balancer.get(f"/orders/{number + 20}", [("X-Forwarded-For", "203.0.113.2")])
        time.sleep(seconds(0.3))

        assert balancer.health_lines() == []


def test_one_endpoint_with_unreadable_answers_is_not_the_server(servers: list[Backend]) -> None:
    """Of one server only, and the others answer there: it counts as a share of what that server answers."""
    odd = servers[0]

    def answer(exchange: Any) -> None:
        is_odd = exchange.request.target == "/odd"
        (handlers.raw(b"nonsense\r\n\r\n") if is_odd else handlers.ok)(exchange)

    odd.handler = answer
    with Balancer(servers, workers=2) as balancer:
        for _ in range(10):
            burst(balancer.address, 16, clients=2)
            burst(balancer.address, 4, clients=1, target="/odd")
        time.sleep(seconds(0.3))

        assert any(request.target == "/odd" for request in odd.requests)
        assert balancer.health_lines() == []


def test_where_all_fail_alike_nobody_is_set_aside(servers: list[Backend]) -> None:
    """All answer 500, whatever they are asked: half as many would not do better."""
    for server in servers:
        server.handler = handlers.answer(500)
    with Balancer(servers, workers=2, outlier_detection={"ejection_time": 60}) as balancer:
        targets = [f"/{letter}" for letter in "abcdefghijklmnopqrst"]
        responses = [balancer.get(target) for target in targets * 5]
        time.sleep(seconds(0.3))

        assert {response.status for response in responses} == {500}
        assert balancer.health_lines() == []


def test_with_checks_a_server_that_is_back_is_trusted_after_check_and_trial(
    servers: list[Backend],
) -> None:
    """The passed check ends the ejection at once, however long it was to last."""
    dead = servers[0]
    check = health_check(0.1, healthy_threshold=1, unhealthy_threshold=1)
    settings = {"ejection_time": 60}
    with (
        Balancer(servers, workers=2, health_check=check, outlier_detection=settings) as balancer,
        Load(balancer.address) as load,
    ):
        load.wait_for_more(20)
        dead.down()
        wait_until(lambda: messages(balancer, dead)[1:], seconds(5))
        dead.up()
        load.wait_for_more(20)
        wait_until(lambda: len(messages(balancer, dead)) >= 3, seconds(5))
        dead.clear()
        wait_until(lambda: len(dead.requests) > 20, seconds(5))

        assert load.failures == []


def test_switched_off_nothing_is_ejected(servers: list[Backend]) -> None:
    """Every request still finds a server, by retrying."""
    servers[0].down()
    with Balancer(servers, workers=1, outlier_detection=False) as balancer:
        burst(balancer.address, 100, clients=2)
        time.sleep(seconds(0.2))

        assert balancer.health_lines() == []


def test_a_server_is_taken_out_and_put_back_by_a_reload(servers: list[Backend]) -> None:
    """``state`` drain and maint: no more requests, and none fails; in maint no checks either."""
    one, two = servers[:2]
    with Balancer([one, two], workers=2, health_check=health_check(0.1)) as balancer:
        for state, is_checked in (("drain", True), ("maint", False)):
            with Load(balancer.address) as load:
                load.wait_for_more(20)
                balancer.set_servers([{"url": one.url, "state": state}, two])
                balancer.write_config()
                balancer.reload()
                one.clear()
                load.wait_for_more(40)
                time.sleep(seconds(0.3))
                assert one.requests == []
                assert bool(one.probes) == is_checked
                balancer.set_servers([one, two])
                balancer.write_config()
                balancer.reload()
                load.wait_for_more(40)
            assert load.failures == []
            assert one.requests
