"""Sticky sessions as clients, servers and operators see them, with both kinds of worker."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from harness import (
    GUNICORN,
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    Response,
    free_port,
    handlers,
    health_check,
    seconds,
    wait_until,
)
from harness.backend import probe_down, probe_up

SECRET = "one secret for all machines"
ATTRIBUTES = ["Path=/", "HttpOnly", "SameSite=Lax"]


def with_port(exchange: Exchange) -> None:
    """200 with the port that the request came to."""
    exchange.reply(body=str(exchange.request.local[1]).encode())


@pytest.fixture(name="servers")
def _servers() -> Iterator[list[Backend]]:
    with Backend(with_port) as one, Backend(with_port) as two, Backend(with_port) as three:
        yield [one, two, three]


def cookie_of(response: Response) -> str | None:
    """What the client is to send from now on, as name=value."""
    lines = [line for line in response.get_all("Set-Cookie") if line.startswith("lb=")]
    assert len(lines) <= 1, lines
    return lines[0].split(";")[0] if lines else None


class Visitor:
    """A client that keeps its cookie as a browser does; each visit is a connection of its own."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.cookie: str | None = None
        self.is_renewed = False

    def visit(self, target: str = "/") -> str:
        """The server that answered."""
        headers = [("Cookie", self.cookie)] if self.cookie else []
        response = self.balancer.get(target, headers)
        assert response.status == 200, response.head
        renewed = cookie_of(response)
        self.is_renewed = renewed is not None
        self.cookie = renewed or self.cookie
        return str(response.text)


def named(servers: Sequence[Backend], port: str) -> Backend:
    return next(server for server in servers if server.url.endswith(f":{port}"))


def change(balancer: Balancer, servers: Sequence[Any]) -> None:
    balancer.set_servers(servers)
    balancer.write_config()
    balancer.reload()


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["own worker", "gevent"])
@pytest.mark.parametrize(
    "algorithm", ["round_robin", "least_connections", {"name": "hash", "hash_on": "path"}, "random"]
)
def test_clients_come_back_to_their_server(
    servers: list[Backend], command: Sequence[str], algorithm: Any
) -> None:
    """On every worker and connection, over any algorithm; the cookie is set once."""
    settings = {"algorithm": algorithm, "sticky": {}}
    with Balancer(servers, workers=2, command=command, **settings) as balancer:
        homes = Counter()
        for number in range(12):
            visitor = Visitor(balancer)
            home = visitor.visit(f"/first/{number}")
            assert visitor.is_renewed
            for turn in range(5):
                assert visitor.visit(f"/{turn}") == home
                assert not visitor.is_renewed
            homes[home] += 1
        assert len(homes) > 1, homes


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["own worker", "gevent"])
def test_the_cookie(servers: list[Backend], command: Sequence[str]) -> None:
    """An HMAC and no address; out of reach of scripts; a cache does not keep it for others; the server's
    own cookies stay."""
    servers[0].handler = lambda exchange: exchange.reply(
        headers=[("Set-Cookie", "own=1; Path=/app"), ("Cache-Control", "max-age=60")]
    )
    with Balancer(servers[:1], command=command, sticky={"secret": SECRET}) as balancer:
        response = balancer.get()
        own, ours = response.get_all("Set-Cookie")
        value, *attributes = ours.split("; ")
        assert own == "own=1; Path=/app"
        assert re.fullmatch(r"lb=[0-9a-f]{32}", value)
        assert attributes == ATTRIBUTES
        assert response.get_all("Cache-Control") == ["max-age=60", "private"]
        again = balancer.get("/", [("Cookie", value)])
        assert again.get_all("Set-Cookie") == ["own=1; Path=/app"]
        assert again.get_all("Cache-Control") == ["max-age=60"]


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["own worker", "gevent"])
def test_servers_do_not_see_it(servers: list[Backend], command: Sequence[str]) -> None:
    """Whatever it says; all other cookies they do see."""
    with Balancer(servers[:1], command=command, sticky={}) as balancer:
        balancer.get("/", [("Cookie", "a=1; lb=forged; b=2")])
        balancer.get("/", [("Cookie", "lb=forged")])
        first, second = servers[0].requests
        assert first.get("Cookie") == "a=1; b=2"
        assert second.get_all("Cookie") == []


def test_name_path_and_age_are_configured(servers: list[Backend]) -> None:
    """And the default name is then nothing special."""
    settings = {"cookie": "srv", "path": "/shop", "max_age": 600}
    with Balancer(servers[:1], sticky=settings) as balancer:
        assert balancer.get("/logo.png").get_all("Set-Cookie") == []
        servers[0].clear()
        (line,) = balancer.get("/shop", [("Cookie", "lb=theirs")]).get_all("Set-Cookie")
        assert re.fullmatch(
            r"srv=[0-9a-f]{32}; Path=/shop; Max-Age=600; HttpOnly; SameSite=Lax", line
        )
        assert servers[0].requests[0].get("Cookie") == "lb=theirs"


def test_secure_behind_a_proxy_that_speaks_https(servers: list[Backend]) -> None:
    """Believed of trusted proxies only."""
    https = [("X-Forwarded-Proto", "https")]
    with Balancer(servers[:1], sticky={}, trusted_proxies=["127.0.0.1"]) as balancer:
        assert balancer.get("/", https).get("Set-Cookie").endswith("; Secure")
        assert not balancer.get("/").get("Set-Cookie").endswith("; Secure")
    with Balancer(servers[:1], sticky={}) as balancer:
        assert not balancer.get("/", https).get("Set-Cookie").endswith("; Secure")


def test_a_value_that_means_nothing_is_replaced(servers: list[Backend]) -> None:
    """Forged, of another secret, of a server that is no more: the algorithm picks, all servers in turn."""
    with Balancer(servers, sticky={}) as balancer:
        homes = set()
        for _ in range(3):
            visitor = Visitor(balancer)
            visitor.cookie = "lb=0123456789abcdef0123456789abcdef"
            homes.add(visitor.visit())
            assert visitor.is_renewed
        assert len(homes) == 3


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["own worker", "gevent"])
def test_a_lost_server_is_replaced_and_the_cookie_renewed(
    servers: list[Backend], command: Sequence[str]
) -> None:
    """The very request that finds it dead is answered elsewhere, by whom the cookie says from then on."""
    with Balancer(servers, command=command, sticky={}) as balancer:
        visitor = Visitor(balancer)
        home = visitor.visit()
        named(servers, home).down()
        other = visitor.visit("/lost")
        assert other != home
        assert visitor.is_renewed
        assert [len(line["attempts"]) for line in balancer.wait_for_access(target="/lost")] == [2]
        for _ in range(5):
            assert visitor.visit() == other
            assert not visitor.is_renewed
        named(servers, home).up()


def test_a_retry_by_status_moves_the_client(servers: list[Backend]) -> None:
    """The cookie names who answered, not who was asked first."""
    retries = {"attempts": 3, "statuses": [503]}
    with Balancer(servers, sticky={}, retries=retries) as balancer:
        visitor = Visitor(balancer)
        home = visitor.visit()
        named(servers, home).handler = handlers.answer(503)
        other = visitor.visit()
        assert other != home
        assert visitor.is_renewed
        assert visitor.visit() == other


def test_an_unhealthy_server_loses_its_clients(servers: list[Backend]) -> None:
    """By its checks, before any request fails there; they do not go back when it is well again."""
    with Balancer(servers, sticky={}, health_check=health_check(0.1)) as balancer:
        visitor = Visitor(balancer)
        home = named(servers, visitor.visit())
        home.probe = probe_down
        wait_until(lambda: balancer.health_lines(backend=home.address, healthy=False))
        other = visitor.visit()
        assert other != home.url.rsplit(":", 1)[1]
        assert visitor.is_renewed
        home.probe = probe_up
        wait_until(lambda: len(balancer.health_lines(backend=home.address, healthy=True)) == 2)
        for _ in range(4):
            assert visitor.visit() == other


def test_a_draining_server_keeps_its_clients_and_gets_no_others(servers: list[Backend]) -> None:
    """Until it is in maintenance; and if all are draining only those with the cookie are served."""
    with Balancer(servers, workers=2, sticky={}) as balancer:
        visitor = Visitor(balancer)
        home = visitor.visit()
        leaving = named(servers, home)
        others = [server for server in servers if server is not leaving]
        change(balancer, [{"url": leaving.url, "state": "drain"}, *others])
        for _ in range(4):
            assert visitor.visit() == home
            assert not visitor.is_renewed
            assert Visitor(balancer).visit() != home

        change(balancer, [{"url": server.url, "state": "drain"} for server in servers])
        assert visitor.visit() == home
        refused = balancer.get()
        assert (refused.status, refused.json()["reason"]) == (503, "all_draining")

        change(balancer, [{"url": leaving.url, "state": "maint"}, *others])
        assert visitor.visit() != home
        assert visitor.is_renewed


@pytest.mark.parametrize("is_patient", [True, False], ids=["waits", "moves"])
def test_a_full_server(servers: list[Backend], is_patient: bool) -> None:
    """Its client waits for it; but not for ever: then another one serves it, and keeps it."""
    gate = threading.Event()
    limited = [{"url": server.url, "max_connections": 1} for server in servers]
    with Balancer(limited, sticky={}, queue={"timeout": 30 if is_patient else 0.1}) as balancer:
        visitor = Visitor(balancer)
        home = visitor.visit()
        busy = named(servers, home)
        busy.handler = handlers.gated(gate, with_port)
        cookie = visitor.cookie
        held = threading.Thread(
            target=balancer.get, args=("/held", [("Cookie", cookie)]), daemon=True
        )
        held.start()
        busy.wait_for_request(2)
        if is_patient:
            threading.Timer(seconds(0.2), gate.set).start()
        found = visitor.visit("/second")
        gate.set()
        held.join()
        assert (found == home) == is_patient
        assert visitor.is_renewed != is_patient
        assert visitor.visit() == found


def test_a_secret_made_at_start_outlives_reloads_and_upgrades(servers: list[Backend]) -> None:
    """HUP and USR2; a restart makes another one, and says so each time."""
    with Balancer(servers, workers=2, sticky={}) as balancer:
        visitor = Visitor(balancer)
        home = visitor.visit()
        (warning,) = balancer.log.select("config", path="sticky.secret")
        assert warning["level"] == "warning"
        balancer.reload()
        assert (visitor.visit(), visitor.is_renewed) == (home, False)
        old = balancer.upgrade()
        balancer.signal(signal.SIGTERM, old)
        wait_until(lambda: not (balancer.pids() & {old}))
        balancer.forget(old)
        for _ in range(4):
            assert (visitor.visit(), visitor.is_renewed) == (home, False)
    with Balancer(servers, sticky={}) as balancer:
        visitor.balancer = balancer
        visitor.visit()
        assert visitor.is_renewed


def test_machines_with_one_secret_understand_each_other(
    servers: list[Backend], tmp_path: Any
) -> None:
    """From the configuration or from a file; nobody finds it in the log."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    with (
        Balancer(servers, sticky={"secret": SECRET}) as one,
        Balancer(servers[::-1], sticky={"secret_file": str(file)}) as two,
    ):
        visitor = Visitor(one)
        home = visitor.visit()
        visitor.balancer = two
        for _ in range(3):
            assert (visitor.visit(), visitor.is_renewed) == (home, False)
        two.reload()
        assert (visitor.visit(), visitor.is_renewed) == (home, False)
        for balancer in (one, two):
            assert balancer.log.select("config", path="sticky.secret") == []
            assert SECRET not in json.dumps(balancer.log.lines)


def test_a_switch_of_protocols_binds_too(servers: list[Backend]) -> None:
    """The 101 sets the cookie, for the next connection goes where the first is."""
    servers[0].handler = handlers.raw(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    with Balancer(servers[:1], sticky={}) as balancer, balancer.connect() as client:
        response = client.get("/", headers)
        assert response.status == 101
        assert cookie_of(response) is not None


def test_switched_off_a_cookie_of_that_name_is_the_servers_own(servers: list[Backend]) -> None:
    """It goes through both ways."""
    servers[0].handler = lambda exchange: exchange.reply(headers=[("Set-Cookie", "lb=own")])
    with Balancer(servers[:1]) as balancer:
        response = balancer.get("/", [("Cookie", "lb=own")])
        assert response.get_all("Set-Cookie") == ["lb=own"]
        assert servers[0].requests[0].get("Cookie") == "lb=own"


def test_nobody_serves_a_client_whose_only_server_is_gone() -> None:
    """503 as without the cookie, and no cookie with it."""
    with Balancer([f"http://127.0.0.1:{free_port()}"], sticky={}) as balancer:
        response = balancer.get("/", [("Cookie", "lb=x")])
        assert response.status in (502, 503)
        assert cookie_of(response) is None
