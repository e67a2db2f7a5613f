"""The retry loop: how often, where, and for which requests another attempt is made. No sockets."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app import config as configuration
from app.deadlines import Deadline
from app.errors import BackendReset, ConnectFailed, NoBackend, ProxyError, StaleConnection, Stalled
from app.proxy import Proxy
from app.wire.request import read_head
from app.wire.response import read_head as read_response_head


class Pool:
    """Hands out its backends in turn, as round robin does, leaving out those already tried."""

    sticky = None

    def __init__(self, count: int) -> None:
        self.cells = [0] * 8
        self.table = SimpleNamespace(cells=[0] * 8)
        self.backends = [
            SimpleNamespace(
                name=f"server {number}", prefix=b"", authority=b"server", connections=None,
                adapter=None, base_url="", is_watched=False, in_flight=2 * number,
                requests=2 * number + 1,
            )
            for number in range(count)
        ]  # fmt: skip
        self.turn = 0

    def pick(self, tried: tuple[Any, ...], _exchange: Any = None) -> Any:
        for _ in self.backends:
            backend = self.backends[self.turn % len(self.backends)]
            self.turn += 1
            if backend not in tried:
                return backend
        raise NoBackend

    pick_now = pick

    def keep(self, _backend: Any) -> None:
        pass

    release = keep

    def failed(self, _backend: Any, _error: Any) -> None:
        pass

    def answered(self, _backend: Any, _status: int, _seconds: float) -> None:
        pass


class Session:
    """Does what it is told to, attempt after attempt; then it answers 200."""

    def __init__(self, *outcomes: ProxyError | int) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[Any] = []

    def send(self, request: Any) -> Any:
        self.requests.append(request)
        outcome = self.outcomes.pop(0) if self.outcomes else 200
        if isinstance(outcome, ProxyError):
            raise outcome
        head = read_response_head(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % outcome, b"GET")
        return SimpleNamespace(
            head=head, first=b"", complete=True, trailers=[], first_byte_at=0.0, close=lambda: None
        )


def taken(error: ProxyError, sent: bool) -> ProxyError:
    error.sent = sent
    return error


def forward(
    method: str,
    *outcomes: ProxyError | int,
    servers: int = 2,
    attempts: int = 2,
    statuses: tuple[int, ...] = (),
    movable: list[bool] | None = None,
) -> tuple[int, list[str]]:
    """Status of a request that meets these failures, and which servers were tried."""
    config = configuration.parse(
        json.dumps({"retries": {"attempts": attempts, "statuses": statuses}})
    )
    lines: list[dict[str, Any]] = []
    log: Any = SimpleNamespace(write=lines.append)
    session: Any = Session(*outcomes)
    proxy = Proxy(config, Pool(servers), session, log)  # type: ignore[arg-type]
    answered: list[int] = []
    exchange: Any = SimpleNamespace(
        head=read_head(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
        peer="127.0.0.1", scheme="http", is_trusted=False, forwarded=b"", deadline=Deadline(),
        body=b"", read_body=None, bytes_in=0, bytes_out=0, is_begun=False, interim=None,
        start=lambda head, *_: answered.append(head.status),
        answer=lambda status, *_: answered.append(status),
    )  # fmt: skip
    proxy.handle(exchange)
    if movable is not None:
        movable += map(proxy.may_move, session.requests)
    return answered[0], [attempt["server"] for attempt in lines[0]["attempts"]]


def test_refused_after_a_stale_connection_still_leaves_the_other_server() -> None:
    """A server dies: its kept connection ends, it refuses the next, and the healthy one is asked."""
    failures = (StaleConnection(), ConnectFailed(), ConnectFailed())
    assert forward("GET", *failures[:2], servers=1)[0] == 502
    status, tried = forward("GET", *failures[:2], servers=2)
    assert (status, len(tried)) == (200, 3)


def test_stale_connections_do_not_go_on_for_ever() -> None:
    """Only one of them is free."""
    status, tried = forward("GET", *(StaleConnection() for _ in range(9)))
    assert (status, len(tried)) == (502, 3)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
def test_what_may_have_been_acted_upon_is_not_sent_twice(method: str, status: int) -> None:
    """A connection that ended after the request was taken: again only with an idempotent method."""
    assert forward(method, BackendReset())[0] == status


def test_what_was_never_taken_is_sent_again_whatever_the_method() -> None:
    """A stale connection whose peer acknowledged nothing."""
    assert forward("POST", taken(StaleConnection(), False), ConnectFailed())[0] == 200


def test_attempts_bound_the_servers_tried() -> None:
    """With two attempts a third server is not asked."""
    assert forward("GET", ConnectFailed(), ConnectFailed(), servers=3) == (
        502,
        ["server 0", "server 1"],
    )


def test_a_status_is_passed_on_unless_it_is_listed() -> None:
    """Off by default, as in nginx and HAProxy: the backend's answer is the client's."""
    assert forward("GET", 500) == (500, ["server 0"])


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 200), ("POST", 500)])
def test_a_listed_status_asks_another_server(method: str, status: int) -> None:
    """With an idempotent method only: the request was acted upon."""
    assert forward(method, 500, statuses=(500, 503))[0] == status


def test_the_last_answer_is_the_clients() -> None:
    """Where no other server is left, or no other attempt, the answer is not given up for an error."""
    assert forward("GET", 503, statuses=(503,), servers=1) == (503, ["server 0"])
    assert forward("GET", 503, 503, 200, statuses=(503,), servers=3)[0] == 503


def test_what_may_be_moved_from_a_stalled_server() -> None:
    """What may be repeated, while an attempt is left: a wait is not given up for an error."""

    def movable(method: str, *outcomes: ProxyError, attempts: int) -> list[bool]:
        found: list[bool] = []
        forward(method, *outcomes, servers=3, attempts=attempts, movable=found)
        return found

    assert movable("GET", Stalled(), attempts=2) == [True, False]
    assert movable("PUT", StaleConnection(), Stalled(), attempts=2) == [True, True, False]
    assert movable("GET", attempts=1) == [False]
    assert movable("POST", ConnectFailed(), attempts=3) == [False, False]
