"""Stall detection through the real balancer: a backend process that hangs is noticed by its silence."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import STOCK_WORKER, Balancer, Load, SeparateBackend, seconds, wait_until

# Checks that would not find a hung server before the test is over.
CHECK = {"path": "/health", "interval": 30, "timeout": 20}


@pytest.fixture(name="servers")
def _servers() -> Iterator[list[SeparateBackend]]:
    with SeparateBackend() as one, SeparateBackend() as two, SeparateBackend() as three:
        yield [one, two, three]


def balancer_for(servers: list[Any], **more: Any) -> Balancer:
    """Two workers; nothing but the silence of a server can take it out within the time of a test."""
    settings = {"health_check": CHECK, "timeouts": {"read": 40}, **more}
    return Balancer([server.url for server in servers], workers=2, **settings)


def said(balancer: Balancer, server: SeparateBackend) -> list[tuple[str, str]]:
    """What the log says of a server's health, first to last."""
    lines = balancer.health_lines(backend=server.address)
    return [(str(line["message"]), str(line["reason"])) for line in lines]


STALLED = ("backend ejected", "stalled")
BACK = ("backend returned", "answered")


@pytest.mark.parametrize("check", [CHECK, False], ids=["checked", "unchecked"])
def test_a_stopped_server_is_left_alone_until_it_goes_on(
    servers: list[SeparateBackend], check: Any
) -> None:
    """Its requests are answered elsewhere, soon and all of them, and its return is noticed."""
    hung = servers[0]
    with balancer_for(servers, health_check=check) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        mark = balancer.log_mark
        hung.stop()
        wait_until(lambda: STALLED in said(balancer, hung), seconds(10))
        load.wait_for_more(300)
        slowest = max(one.finished - one.started for one in load.outcomes)
        (line,) = balancer.health_lines(mark, reason="stalled")
        hung.go_on()
        if check is False:
            # A client's request is the only one to ask it: those that wait have gone.
            wait_until(lambda: said(balancer, hung)[-1][0] == "backend returned", seconds(20))
        else:
            wait_until(lambda: BACK in said(balancer, hung), seconds(10))
        load.wait_for_more(50)
        before = load.bodies()[str(hung.port)]
        wait_until(lambda: load.bodies()[str(hung.port)] > before + 20, seconds(10))

        assert load.failures == []
        assert slowest < seconds(4)
        assert line["waiting"] >= 3
        assert line["silent_ms"] >= 300
        assert line["usual_ms"] >= 1
        moved = balancer.access_lines(mark, status=200)
        first = [one["attempts"][0] for one in moved if len(one["attempts"]) > 1]
        assert first
        assert {(one["server"], one["reason"]) for one in first} == {(hung.address, "stalled")}


@pytest.mark.parametrize(
    "settings",
    [{"send_proxy": "v1"}, {"command": STOCK_WORKER}],
    # With send_proxy each connection is a client's own; the stock worker has the same clock and eyes.
    ids=["send_proxy", "stock worker"],
)
def test_wherever_it_hangs(servers: list[SeparateBackend], settings: dict[str, Any]) -> None:
    """Its silence is the same, however it is reached."""
    hung = servers[0]
    with balancer_for(servers, **settings) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        hung.stop()
        wait_until(lambda: STALLED in said(balancer, hung), seconds(10))
        load.wait_for_more(50)
        hung.go_on()
        wait_until(lambda: BACK in said(balancer, hung), seconds(10))
        assert load.failures == []


def test_one_that_is_killed_while_it_hangs_comes_back_when_it_is_started(
    servers: list[SeparateBackend],
) -> None:
    """Neither the new process nor the death of ours that watches it is missed."""
    hung = servers[0]
    with balancer_for(servers) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        hung.stop()
        wait_until(lambda: STALLED in said(balancer, hung), seconds(10))
        (control,) = balancer.control_pids()
        balancer.signal(signal.SIGKILL, control)
        hung.kill()
        load.wait_for_more(100)
        hung.start()
        wait_until(lambda: BACK in said(balancer, hung), seconds(20))
        before = load.bodies()[str(hung.port)]
        wait_until(lambda: load.bodies()[str(hung.port)] > before + 20, seconds(10))
        assert load.failures == []


# Each goes to one of three servers: that none of so many meets a certain one is no chance at all.
POSTS = 30


def test_only_what_may_be_repeated_is_moved(servers: list[SeparateBackend]) -> None:
    """A POST waits for the server that may have executed it, and gets its answer."""
    hung = servers[0]
    settings = {"stall_after": 1}  # time for the POSTs to get there
    balancer = balancer_for(servers, outlier_detection=settings)
    with balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        answers: list[Any] = []
        ready = threading.Barrier(POSTS + 1)

        def post() -> None:
            with balancer.connect() as client:
                ready.wait(seconds(10))
                answers.append(client.request("POST", "/", body=b"once"))

        posts = [threading.Thread(target=post, daemon=True) for _ in range(POSTS)]
        for thread in posts:
            thread.start()
        hung.stop()
        ready.wait(seconds(10))
        wait_until(lambda: STALLED in said(balancer, hung), seconds(10))
        load.wait_for_more(100)
        waiting = [thread for thread in posts if thread.is_alive()]
        hung.go_on()
        for thread in posts:
            thread.join(seconds(20))

        assert waiting
        assert len(answers) == POSTS
        assert {answer.status for answer in answers} == {200}
        lines = balancer.wait_for_access(POSTS, method="POST")
        assert all(len(line["attempts"]) == 1 for line in lines)
        assert load.failures == []


def test_a_pause_costs_nothing_once_one_is_known(servers: list[SeparateBackend]) -> None:
    """Of whichever server: a garbage collection, say. What waits is answered where it waits."""
    with balancer_for(servers) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        servers[0].stop()
        wait_until(lambda: STALLED in said(balancer, servers[0]), seconds(10))
        servers[0].go_on()
        wait_until(lambda: BACK in said(balancer, servers[0]), seconds(10))
        load.wait_for_more(50)
        mark = balancer.log_mark
        for server in servers:
            server.stop()
            time.sleep(0.35)  # more than ``stall_after``, less than twice the first pause
            server.go_on()
            load.wait_for_more(100)
        slowest = max(one.finished - one.started for one in load.outcomes[-300:])

        assert balancer.health_lines(mark, level="warning") == []
        assert all(len(line["attempts"]) == 1 for line in balancer.access_lines(mark))
        assert load.failures == []
        assert slowest > 0.3


def test_long_polls_at_servers_whose_checks_are_slow_stall_nobody(
    servers: list[SeparateBackend],
) -> None:
    """Half a second for a check: that much of silence beside a few quick answers is nothing."""
    check = {"path": "/seconds/0.5", "interval": 0.5, "timeout": 20}
    with balancer_for(servers, health_check=check) as balancer:
        with Load(balancer.address) as load:
            load.wait_for_more(200)
        with (
            Load(balancer.address, kept=9, fresh=0, target="/seconds/4", pace=0) as polls,
            Load(balancer.address, kept=1, fresh=0, pace=0.25) as load,
        ):
            polls.wait_for_more(9)
        assert balancer.health_lines(level="warning") == []
        assert (polls.failures, load.failures) == ([], [])
        assert all(len(line["attempts"]) == 1 for line in balancer.access_lines())


def test_long_polls_stall_nobody(servers: list[SeparateBackend]) -> None:
    """Requests that wait for long are no stall while the server answers others, if only its checks."""
    with balancer_for(servers) as balancer:
        with Load(balancer.address) as load:
            load.wait_for_more(200)
        with Load(balancer.address, kept=9, fresh=0, target="/seconds/3", pace=0) as polls:
            polls.wait_for_more(18)
        assert balancer.health_lines(level="warning") == []
        assert polls.failures == []
        assert all(len(line["attempts"]) == 1 for line in balancer.access_lines())


def test_a_slow_server_is_not_stalled_once_it_is_known(servers: list[SeparateBackend]) -> None:
    """A second for each answer, without a check that could tell: its usual time is its measure."""
    with balancer_for(servers, health_check=False) as balancer:
        with Load(balancer.address, kept=12, fresh=0, target="/seconds/1", pace=0) as load:
            load.wait_for_more(60)

        assert balancer.health_lines(level="warning") == []
        assert load.failures == []


def test_when_all_hang_nobody_is_set_aside(servers: list[SeparateBackend]) -> None:
    """What they share has stopped: sending more requests to half of them would help nobody."""
    with balancer_for(servers) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        for server in servers:
            server.stop()
        time.sleep(seconds(1.5))
        for server in servers:
            server.go_on()
        load.wait_for_more(50)

        assert balancer.health_lines(level="warning") == []
        assert load.failures == []


def test_a_stopped_worker_accuses_nobody(servers: list[SeparateBackend]) -> None:
    """Answers wait in its own sockets: the servers did their part."""
    with balancer_for(servers) as balancer, Load(balancer.address) as load:
        load.wait_for_more(200)
        worker = min(balancer.worker_pids())
        balancer.signal(signal.SIGSTOP, worker)
        time.sleep(seconds(2))
        balancer.signal(signal.SIGCONT, worker)
        load.wait_for_more(100)

        assert balancer.health_lines(level="warning") == []
        assert load.failures == []


def test_switched_off_the_read_timeout_decides(servers: list[SeparateBackend]) -> None:
    """``stall_after`` 0: a request waits out its timeout and is then sent elsewhere."""
    hung = servers[0]
    settings = {"stall_after": 0, "resets": 0}
    with balancer_for(
        servers, outlier_detection=settings, timeouts={"read": seconds(1.5)}
    ) as balancer:
        with Load(balancer.address) as load:
            load.wait_for_more(200)
            hung.stop()
            wait_until(
                lambda: (
                    balancer.access_lines(status=200, backend=servers[1].address)
                    and any(len(line["attempts"]) > 1 for line in balancer.access_lines(status=200))
                ),
                seconds(10),
            )
            hung.go_on()
        retried = [line for line in balancer.access_lines() if len(line["attempts"]) > 1]

        assert balancer.health_lines(level="warning") == []
        assert {line["attempts"][0]["reason"] for line in retried} == {"response_timeout"}
