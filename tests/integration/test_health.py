"""Health checks as clients and operators notice them: who gets traffic, how soon, what is logged."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise

import pytest
from harness import (
    PROBE_PATH,
    PROMPT,
    Backend,
    Balancer,
    Load,
    handlers,
    health_check,
    seconds,
    wait_until,
)
from harness.backend import Exchange, Handler

INTERVAL = seconds(0.2)
FAST = {"healthy_threshold": 1, "unhealthy_threshold": 1}


def when(line: dict[str, object]) -> float:
    """A line's timestamp as seconds since the epoch."""
    return datetime.fromisoformat(str(line["timestamp"]).replace("Z", "+00:00")).timestamp()


def test_traffic_moves_within_an_interval_of_the_verdict() -> None:
    """Down: no request later than an interval and 100 ms after the verdict. Up: one by then."""
    bound = INTERVAL + seconds(0.1)
    with Backend() as stays, Backend() as leaves:
        check = health_check(INTERVAL, **FAST)
        with Balancer([stays, leaves], workers=2, health_check=check) as balancer:
            with Load(balancer.address, kept=4, fresh=2) as load:
                load.wait_for_more(50)
                for _ in range(2):
                    mark = balancer.log_mark
                    leaves.probe = handlers.answer(503)
                    (down,) = balancer.log.wait_for(1, "health", mark, backend=leaves.address)
                    deadline = when(down) + bound
                    wait_until(lambda limit=deadline: time.time() > limit + 0.3)
                    late = [r for r in leaves.requests if r.arrived > when(down) + bound]
                    assert late == []
                    leaves.clear()
                    leaves.probe = handlers.answer(200)
                    mark = balancer.log_mark
                    (up,) = balancer.log.wait_for(1, "health", mark - 1, backend=leaves.address)
                    leaves.wait_for_request()
                    assert leaves.requests[0].arrived < when(up) + bound
            assert load.failures == []


def test_change_of_health_is_logged_once() -> None:
    """One line when a server goes, one when it comes back, none while nothing changes."""
    with Backend() as stays, Backend() as leaves:
        check = health_check(0.05, **FAST)
        with Balancer([stays, leaves], workers=2, health_check=check) as balancer:
            mark = balancer.log_mark
            for number, probe in enumerate([handlers.answer(500), handlers.answer(200)] * 2, 1):
                leaves.probe = probe
                balancer.log.wait_for(number, "health", mark, backend=leaves.address)
                seen = len(leaves.probes)
                wait_until(lambda n=seen: len(leaves.probes) > n + 5)
            lines = balancer.health_lines(mark)

            assert [line["backend"] for line in lines] == [leaves.address] * 4
            assert all(line["reason"] for line in lines)
            assert lines[0] != lines[1]


def test_thresholds_count_checks_in_a_row() -> None:
    """Three failures in a row to go, two passes in a row to come back; one slip changes nothing."""
    with Backend() as other, Backend() as backend:
        check = health_check(0.05, unhealthy_threshold=3, healthy_threshold=2)
        with Balancer([other, backend], health_check=check) as balancer:
            script = iter([503, 503, 200, 503, 503, 200, 503, 503, 503])
            statuses: list[int] = []

            def scripted(exchange: Exchange) -> None:
                status = next(script, 200)
                statuses.append(status)
                handlers.answer(status)(exchange)

            mark = balancer.log_mark
            backend.probe = scripted
            wait_until(lambda: len(statuses) >= 20)
            lines = balancer.health_lines(mark, backend=backend.address)
            assert len(lines) == 2, lines


def test_dead_server_gets_no_request_from_the_start() -> None:
    """The first sweep comes before the first worker: all verdicts are there."""
    with Backend() as dead, Backend() as hung, Backend() as good:
        dead.down()
        hung.probe = handlers.hang
        check = health_check(5, timeout=seconds(0.5))
        with Balancer([dead, hung, good], workers=2, health_check=check) as balancer:
            for _ in range(9):
                assert balancer.get().text == good.name
            lines = balancer.wait_for_access(9)

            assert {len(line["attempts"]) for line in lines} == {1}
            assert not hung.requests
            loggers = [
                (line["logger"], str(line["message"]).split(" with")[0])
                for line in balancer.log.lines
            ]
            first_boot = loggers.index(("gunicorn.error", "Booting worker"))
            assert [logger for logger, _ in loggers[:first_boot]].count("health") == 3


BAD_PROBES: dict[str, Handler] = {
    "hang": handlers.hang,
    "reset": handlers.reset,
    "garbage": handlers.raw(b"garbage\r\n\r\n"),
    "bare-lf": handlers.raw(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    "drip": handlers.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 0.2),
    "wrong-status": handlers.answer(404),
    "redirect-out-of-range": handlers.answer(302, b"", ("Location", "/elsewhere")),
}


def endless(exchange: Exchange) -> None:
    """A 200 whose body never ends."""
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        exchange.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")


@pytest.fixture(scope="module", name="checked")
def _checked():  # type: ignore[no-untyped-def]
    """One balancer for all kinds of bad probes: (balancer, the server that misbehaves)."""
    with Backend() as good, Backend() as bad:
        check = health_check(0.1, timeout=seconds(0.5), expected_status="200-299", **FAST)
        with Balancer([good, bad], health_check=check) as balancer:
            yield balancer, good, bad


@pytest.mark.parametrize("probe", BAD_PROBES.values(), ids=BAD_PROBES.keys())
def test_bad_probe_takes_a_server_out(
    checked: tuple[Balancer, Backend, Backend], probe: Handler
) -> None:
    """Whatever goes wrong with a check, the server is out within its timeout, and back after it."""
    balancer, good, bad = checked
    mark = balancer.log_mark
    bad.probe = probe
    bad.hang_up()
    (line,) = balancer.log.wait_for(1, "health", mark, timeout=seconds(2), backend=bad.address)
    assert line["reason"]
    wait_until(lambda: {balancer.get().text for _ in range(4)} == {good.name})
    bad.probe = handlers.answer(204)
    balancer.log.wait_for(2, "health", mark, backend=bad.address)
    wait_until(lambda: {balancer.get().text for _ in range(4)} == {good.name, bad.name})


def test_endless_probe_body_holds_up_nothing(checked: tuple[Balancer, Backend, Backend]) -> None:
    """A check whose answer never ends is over within its timeout; the next ones come."""
    _, _, bad = checked
    bad.probe = endless
    bad.hang_up()
    before = len(bad.probes)
    wait_until(lambda: len(bad.probes) >= before + 3, seconds(4), "further checks")
    bad.probe = handlers.answer(204)


def test_slow_check_delays_no_other() -> None:
    """With ten servers whose checks hang, the verdict on another one comes as fast as ever."""
    hung = [Backend() for _ in range(10)]
    for backend in hung:
        backend.probe = handlers.hang
    with Backend() as good:
        check = health_check(0.1, timeout=seconds(3), **FAST)
        with Balancer([*hung, good], health_check=check) as balancer:
            mark, started = balancer.log_mark, time.monotonic()
            good.probe = handlers.answer(503)
            balancer.log.wait_for(1, "health", mark, timeout=seconds(2), backend=good.address)
            assert time.monotonic() - started < seconds(2)
    for backend in hung:
        backend.stop()


def test_request_of_a_check() -> None:
    """Path, Host and extra fields are as configured; a redirect is a status, not a journey."""
    with Backend() as backend:
        check = health_check(
            0.1, host="health.example", headers={"X-Check": "1"}, expected_status="200-399"
        )
        backend.probe = handlers.answer(302, b"", ("Location", "/followed"))
        with Balancer([backend], health_check=check) as balancer:
            wait_until(lambda: len(backend.probes) >= 3)
            assert balancer.get().status == 200
        probe = backend.probes[0]

        assert (probe.method, probe.target) == ("GET", PROBE_PATH)
        assert probe.get("Host") == "health.example"
        assert probe.get("X-Check") == "1"
        assert "/followed" not in [request.target for request in backend.requests]


def test_interval_is_kept_and_spread() -> None:
    """Checks of twenty servers come at the configured rate, spread over the interval from the second on."""
    with Backend(bind="0.0.0.0") as farm:
        check = health_check(0.5, jitter=0)
        with Balancer(farm.urls(20), health_check=check):
            # The first round is over, the second may have begun.
            farm.clear()
            started = time.time()
            wait_until(lambda: len(farm.probes) >= 120)
            elapsed = time.time() - started
            times = sorted(probe.arrived for probe in farm.probes)

        assert 2 < elapsed < seconds(6)
        # In step, all twenty would come within milliseconds and then none for half a second, five times.
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert sum(pause > 0.3 for pause in pauses) <= 1  # a busy machine makes one of its own


def test_interval_is_jittered() -> None:
    """With ``jitter`` the time between two checks of one server varies, around the interval."""
    with Backend() as backend:
        with Balancer([backend], health_check=health_check(0.1, jitter=0.5)):
            wait_until(lambda: len(backend.probes) >= 25, PROMPT * 2)
        times = [probe.arrived for probe in backend.probes[2:]]
        gaps = [later - earlier for earlier, later in pairwise(times)]

        assert max(gaps) - min(gaps) > 0.04
        assert 0.07 < sum(gaps) / len(gaps) < seconds(0.2)


def test_server_that_dies_and_comes_back() -> None:
    """A real death: refused, out, back on the same port, in again; no request fails in between."""
    with Backend() as stays, Backend() as dies:
        check = health_check(0.1, **FAST)
        with Balancer([stays, dies], workers=2, health_check=check) as balancer:
            with Load(balancer.address, kept=0, fresh=4) as load:
                load.wait_for_more(40)
                dies.hang_up()
                mark = balancer.log_mark
                dies.down()
                balancer.log.wait_for(1, "health", mark, timeout=PROMPT, backend=dies.address)
                load.wait_for_more(40)
                seen = len(dies.requests)
                dies.up()
                balancer.log.wait_for(2, "health", mark, timeout=PROMPT, backend=dies.address)
                wait_until(lambda: len(dies.requests) > seen + 5)
            # What was on its way when the server died has been lost with it.
            assert {outcome.status for outcome in load.failures} <= {502}
            assert len(load.failures) <= 4
