"""Servers that have names: who looks them up, which of their addresses are used, what a bad resolver does."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    PROMPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    handlers,
    health_check,
    wait_until,
)
from harness.backend import Handler, answer_name
from harness.names import HANG, UNKNOWN, Names

from .test_backend_tls import SecureBackend
from .test_send_proxy import AnnouncedBackend

BOTH_WORKERS = pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
HERE, THERE, ELSEWHERE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
CHECK = health_check(0.2, fast_interval=0.1, healthy_threshold=1, unhealthy_threshold=3)


class At(Backend):
    """A backend at this address, with the port of another one."""

    def __init__(self, bind: str, port: int = 0, **more: Any) -> None:
        self._port = port
        super().__init__(bind=bind, **more)

    def _bound(self, port: int) -> socket.socket:
        return super()._bound(port or self._port)


@contextlib.contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that answers no connect: Linux drops what does not fit into the queue of a listener."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex((host, port))
        yield


def url(name: str, backend: Backend, scheme: str = "http") -> str:
    return f"{scheme}://{name}:{backend.port}"


# --- several addresses ---------------------------------------------------------------------------


@BOTH_WORKERS
@pytest.mark.parametrize("send_proxy", ["off", "v2"])
def test_a_silent_address_costs_a_quarter_of_a_second_once(
    command: tuple[str, ...], send_proxy: str
) -> None:
    """The next one is tried beside it, and the next request begins with that; one header, at the winner."""
    kind: Callable[..., Backend] = AnnouncedBackend if send_proxy == "v2" else Backend
    with kind(bind=HERE) as well, Names(app=[THERE, HERE]) as names:
        settings: dict[str, Any] = {"timeouts": {"connect": 10}, "retries": {"attempts": 1}}
        with (
            silent(THERE, well.port),
            Balancer(
                [url("app", well)],
                command=command,
                env=names.env,
                send_proxy=send_proxy,
                **settings,
            ) as balancer,
        ):
            for _ in range(3):
                assert balancer.get().status == 200
            lines = balancer.wait_for_access(3)
            connects = [line["connect_ms"] for line in lines]
            assert connects[0] >= 240
            assert all(ms is None or ms < 240 for ms in connects[1:])
        assert not well.errors
        assert len(well.connections) == (3 if send_proxy == "v2" else 1)


@BOTH_WORKERS
def test_an_address_that_refuses_costs_nothing(command: tuple[str, ...]) -> None:
    """The next one is tried at once, of the other family too."""
    with (
        Backend(handlers.ok, bind="::1") as well,
        Names(app=[HERE, THERE, "::1"]) as names,
        Balancer([url("app", well)], command=command, env=names.env) as balancer,
    ):
        assert balancer.get().status == 200
        assert balancer.access_line()["connect_ms"] < 240


def test_a_short_connect_timeout_leaves_time_for_every_address() -> None:
    """Shorter than the pause between two: it is shared among them."""
    timeouts = {"connect": 0.3}
    with (
        Backend(handlers.ok, bind=HERE) as well,
        Names(app=[THERE, ELSEWHERE, HERE]) as names,
        silent(THERE, well.port),
        silent(ELSEWHERE, well.port),
        Balancer([url("app", well)], env=names.env, timeouts=timeouts) as balancer,
    ):
        assert balancer.get().status == 200


def test_a_handshake_that_comes_to_nothing_is_not_tried_again_at_that_address(
    tmp_path: Path,
) -> None:
    """It takes connections, and says nothing; the next request is served by the other address."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        SecureBackend(leaf=authority.issue_cert("app")) as well,
        At("127.0.0.5", well.port) as mute,
        Names(app=["127.0.0.5", "127.0.0.1"]) as names,
    ):
        mute.handler = handlers.hang
        with Balancer(
            [url("app", well, "https")],
            env=names.env,
            timeouts={"connect": 0.5},
            retries={"attempts": 1},
            outlier_detection=False,
            backend_tls={"ca": str(tmp_path / "ca.pem")},
        ) as balancer:
            assert balancer.get().status == 504
            assert balancer.get().status == 200


def test_checks_and_requests_use_the_same_address() -> None:
    """One that fails its check is left for one that passes, by requests and by connections kept alive."""
    with (
        At(HERE) as bad,
        At(THERE, bad.port) as good,
        Names(app=[HERE, THERE]) as names,
        Balancer([url("app", bad)], env=names.env, health_check=CHECK) as balancer,
        balancer.connect() as client,
    ):
        assert client.get("/").text == bad.name
        bad.handler = bad.probe = handlers.answer(500)
        wait_until(lambda: client.get("/").text == good.name)
        assert [client.get("/").text for _ in range(20)] == [good.name] * 20
        assert balancer.health_lines(healthy=False) == []
        assert good.probes
        (line,) = balancer.log.wait_for(1, "dns", backend=f"app:{bad.port}")
        assert line["address"] == THERE


# --- a resolver that is slow, silent or wrong -----------------------------------------------------


@BOTH_WORKERS
def test_names_that_hang_delay_nobody(command: tuple[str, ...]) -> None:
    """Neither those whose addresses are known nor the start; each is asked for once."""
    hanging = {f"hanging{number}": HANG for number in range(80)}
    with Backend(handlers.ok, bind=HERE) as well, Names(app=[HERE], **hanging) as names:
        servers = [url(name, well) for name in ("app", *hanging)]
        with Balancer(servers, command=command, env=names.env, health_check=CHECK) as balancer:
            (down,) = balancer.log.wait_for(1, "health", backend=f"hanging0:{well.port}")
            assert down["reason"] == "dns_error"
            for _ in range(20):
                assert balancer.get().status == 200
            wait_until(
                lambda: len(names.asked("app")) >= 2, PATIENT
            )  # looked up again all the same
            assert [len(names.asked(name)) for name in hanging] == [1] * len(hanging)
            assert set(names.asked("app")) <= balancer.control_pids()


def test_what_is_known_is_used_while_the_resolver_says_nothing() -> None:
    """Or that there is no such name; by requests on new connections, by checks, by the next control."""
    with Backend(handlers.ok, bind=HERE) as well, Names(app=[HERE]) as names:
        well.handler = _closing
        with Balancer([url("app", well)], workers=2, env=names.env, health_check=CHECK) as balancer:
            for answer in (UNKNOWN, HANG):
                asked = len(names.asked("app"))
                names.set(app=answer)
                wait_until(lambda before=asked: len(names.asked("app")) > before, PATIENT)
                assert {balancer.get().status for _ in range(10)} == {200}
            (pid,) = balancer.control_pids()
            balancer.signal(signal.SIGKILL, pid)
            assert {balancer.get().status for _ in range(10)} == {200}
            wait_until(lambda: balancer.control_pids() - {pid}, PATIENT)
            probes = len(well.probes)
            wait_until(lambda: len(well.probes) > probes + 2, PATIENT)
            assert {balancer.get().status for _ in range(10)} == {200}
            assert balancer.health_lines(healthy=False) == []


def test_a_name_that_nobody_knows_is_an_unhealthy_server_until_somebody_does() -> None:
    """The start does not fail, and nobody has to tell us."""
    with (
        Backend(handlers.ok, bind=HERE) as well,
        Names(app=UNKNOWN) as names,
        Balancer([url("app", well)], env=names.env, health_check=CHECK) as balancer,
    ):
        (down,) = balancer.log.wait_for(1, "health", backend=f"app:{well.port}")
        assert (down["reason"], down["healthy"]) == ("dns_error", False)
        assert "not known" in down["detail"]
        assert balancer.get().status == 503
        names.set(app=[HERE])
        wait_until(lambda: balancer.get().status == 200, PATIENT)


@BOTH_WORKERS
def test_names_are_looked_up_before_the_first_request(command: tuple[str, ...]) -> None:
    """Also without health checks, at the start and at a reload."""
    with (
        Backend(handlers.ok, bind=HERE) as well,
        Names(one=[HERE], two=[HERE]) as names,
        Balancer([url("one", well)], command=command, env=names.env) as balancer,
    ):
        assert balancer.get().status == 200
        balancer.set_servers([url("two", well)])
        balancer.write_config()
        balancer.reload()
        assert balancer.get().status == 200
        assert balancer.wait_for_access(1, backend=f"two:{well.port}")


# --- names that move ------------------------------------------------------------------------------


def test_a_server_that_moves_is_followed() -> None:
    """New connections lead to the new address, idle ones to the old are closed, what is in flight ends."""
    gate = threading.Event()
    with (
        At(HERE) as old,
        At(THERE, old.port) as new,
        Names(app=[HERE]) as names,
        Balancer([url("app", old)], env=names.env) as balancer,
        balancer.connect() as slow,
    ):
        assert balancer.get().text == old.name
        old.handler = _slow_behind(gate)
        slow.send_head("GET", "/slow")
        old.wait_for_request(2)
        names.set(app=[THERE])
        wait_until(lambda: balancer.get().text == new.name, PATIENT)
        assert len(old.open_connections()) <= 1  # the one that is in use
        gate.set()
        assert slow.read_response("GET").status == 200
        wait_until(lambda: not old.open_connections(), PROMPT)
        (line,) = balancer.log.wait_for(1, "dns", name="app")
        assert line["addresses"] == [THERE]


def test_another_order_of_the_same_addresses_changes_nothing() -> None:
    """Resolvers turn it with each answer; connections stay."""
    with At(HERE) as one, At(THERE, one.port) as other, Names(app=[HERE, THERE]) as names:
        timeouts = {"backend_keepalive": 60}
        with Balancer([url("app", one)], env=names.env, timeouts=timeouts) as balancer:
            assert balancer.get().text == one.name
            names.set(app=[THERE, HERE])
            asked = len(names.asked("app"))
            wait_until(lambda: len(names.asked("app")) >= asked + 2, PATIENT)
            assert balancer.get().text == one.name
            assert (len(one.connections), len(other.connections)) == (1, 0)
            assert balancer.log.select("dns") == []


def _slow_behind(gate: threading.Event) -> Handler:
    """As ever, but for /slow, which waits for the gate."""

    def handler(exchange: Exchange) -> None:
        if exchange.request.target == "/slow":
            assert gate.wait(PATIENT)
        answer_name(exchange)

    return handler


def _closing(exchange: Exchange) -> None:
    exchange.reply(200, b"", [("Connection", "close")])
    exchange.keep = False
