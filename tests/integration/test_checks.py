"""What a health check may ask, and how soon it asks again: through the real balancer."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness import Backend, Balancer, Load, handlers, health_check, seconds, wait_until
from harness.backend import Handler

FAST = {"healthy_threshold": 1, "unhealthy_threshold": 1}


def ill(balancer: Balancer, backend: Backend) -> list[str]:
    """Why it was found unhealthy, each time."""
    message = "backend is unhealthy"
    lines = balancer.health_lines(backend=backend.address, message=message)
    return [str(line["reason"]) for line in lines]


def endless(text: bytes) -> Handler:
    """A 200 that begins with this text and never ends."""

    def handler(exchange: Any) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + text)
        while True:
            exchange.send(b"x" * 1000)

    return handler


@pytest.mark.parametrize(
    ("settings", "good", "bad", "reason"),
    [
        ({"body": "all well"}, b"<p>all well</p>", b"<p>no database</p>", "body_mismatch"),
        (
            {"body_regex": r'"queue": \d{1,3}\b'},
            b'{"queue": 12}',
            b'{"queue": 51234}',
            "body_mismatch",
        ),
        ({"body_regex": "^(a+)+$"}, b"aaaa", b"a" * 60 + b"b", "regex_too_slow"),
    ],
    ids=["text", "expression", "expression that takes for ever"],
)
def test_the_body_decides(settings: Any, good: bytes, bad: bytes, reason: str) -> None:
    """In and out, while the other server stays where it is."""
    with Backend() as stays, Backend() as turns:
        stays.probe = turns.probe = handlers.answer(200, good)
        check = health_check(0.05, **FAST, **settings)
        with Balancer([stays, turns], workers=1, health_check=check) as balancer:
            turns.probe = handlers.answer(200, bad)
            wait_until(lambda: ill(balancer, turns) == [reason], seconds(5))
            assert {balancer.get().text for _ in range(6)} == {stays.name}
            turns.probe = handlers.answer(200, good)
            wait_until(lambda: len(balancer.health_lines(backend=turns.address)) == 3, seconds(5))
            assert {balancer.get().text for _ in range(6)} == {stays.name, turns.name}
            assert ill(balancer, stays) == []


def test_only_the_beginning_of_a_body_is_read() -> None:
    """A stream that begins well is well; one that would say so later is not waited for."""
    with Backend() as well, Backend() as never:
        well.probe = endless(b"ready")
        never.probe = endless(b"loading")
        check = health_check(0.1, body="ready", timeout=seconds(5))
        with Balancer([well, never], workers=1, health_check=check) as balancer:
            assert {balancer.get().text for _ in range(6)} == {well.name}
            assert ill(balancer, never) == ["body_mismatch"]


def test_the_method_is_sent_and_a_head_has_no_body_to_wait_for() -> None:
    """Content-Length of a HEAD counts bytes that do not come."""
    with Backend() as backend:
        backend.probe = handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        check = health_check(0.1, method="HEAD")
        with Balancer([backend], workers=1, health_check=check) as balancer:
            assert balancer.get().status == 200
            assert {request.method for request in backend.probes} == {"HEAD"}


def test_a_connect_is_enough_if_so_configured() -> None:
    """Whatever the server would say; nothing is sent to it. One that refuses is unhealthy."""
    with Backend() as rude, Backend() as dead:
        rude.probe = handlers.answer(500)
        dead.down()
        check = {"type": "tcp", "interval": 0.1, **FAST}
        with Balancer([rude, dead], workers=1, health_check=check) as balancer:
            assert {balancer.get().text for _ in range(6)} == {rude.name}
            assert ill(balancer, dead) == ["connection_refused"]
            dead.up()
            wait_until(lambda: balancer.get().text == dead.name, seconds(5))
            assert rude.probes == dead.probes == []


def test_a_server_that_dies_and_comes_back_is_not_waited_for(
    rng: Any,
) -> None:
    """An interval of a minute: what requests meet has it checked now, and then again and again."""
    with Backend() as one, Backend() as two, Backend() as three:
        dead = rng.choice([one, two, three])
        check = health_check(60)
        with Balancer([one, two, three], workers=2, health_check=check) as balancer:
            with Load(balancer.address) as load:
                load.wait_for_more(60)
                dead.down()
                wait_until(lambda: ill(balancer, dead), seconds(10))
                dead.up()
                mark = time.time()
                wait_until(
                    lambda: any(request.arrived > mark for request in dead.requests), seconds(15)
                )
            assert load.failures == []


def test_when_all_are_down_the_first_that_answers_serves_at_once() -> None:
    """No threshold, no interval of a minute."""
    with Backend() as one, Backend() as two:
        check = health_check(60, healthy_threshold=5)
        one.down()
        two.down()
        with Balancer([one, two], workers=1, health_check=check, is_ready_when_entered=False) as lb:
            wait_until(lambda: len(ill(lb, one) + ill(lb, two)) == 2, seconds(10))
            lb.wait_until_ready()
            assert lb.get().status == 503
            two.up()
            wait_until(lambda: lb.get().status == 200, seconds(10))
            one.up()
            time.sleep(seconds(1))
            assert {lb.get().text for _ in range(6)} == {two.name}
