"""The application without a master: under any WSGI server, with a table of its own."""

from __future__ import annotations

import json
import socket
from io import BytesIO
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
from fakes.upstream import connection, stream

from app import config as configuration
from app.shared import addresses, inherited, publication
from app.shared.addresses import Address
from app.shared.inherited import Inheritance
from app.shared.table import identity_of
from app.telemetry import log
from app.wire.status import ALLOWED_METHODS
from app.worker.application import Application, make_application, standalone_table
from app.worker.upstream.connections import ConnectionCache


def test_requests_are_counted_where_limits_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max_connections holds there too."""
    file = tmp_path / "config.json"
    server = {"url": "http://127.0.0.1:1", "max_connections": 2}
    file.write_text(json.dumps({"servers": [server], "queue": False}))
    monkeypatch.setenv("LB_CONFIG", str(file))
    monkeypatch.setattr(inherited, "_inheritance", None)
    pool = make_application().pool
    (backend,) = pool.backends
    assert [pool.claim(backend) for _ in range(3)] == [True, True, False]
    assert pool.table.in_flight(backend.row) == 2


def test_a_worker_boots_though_what_is_published_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another release's master has published it: this worker's own master says what to do meanwhile."""
    config = configuration.parse('{"servers": ["http://127.0.0.1:1"], "health_check": false}')
    table = standalone_table(config)
    publication.publish(
        table, publication.propose(table, b'{"form": 99}', [identity_of("http://127.0.0.1:1")])
    )
    own = Inheritance(table, 1, lambda: configuration.to_json(config))
    monkeypatch.setattr(inherited, "_inheritance", own)
    monkeypatch.setattr(log, "event", lambda *_, **__: None)
    application = make_application()
    assert application.config == config
    assert [backend.url for backend in application.pool.snapshot.backends] == ["http://127.0.0.1:1"]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_a_405_says_what_is_allowed(method: str) -> None:
    """RFC 9110 §15.5.6, and in JSON; its Server field is for the server to write, whoever that is."""
    config = configuration.parse('{"server_header": "ours", "logging": {"access": false}}')
    told: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {
        "REQUEST_METHOD": method,
        "RAW_URI": "/",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "a",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
    }
    application = Application(config, standalone_table(config), 1)
    (body,) = application(environ, lambda *answer: told.append(answer))  # type: ignore[arg-type]
    ((status, fields),) = told
    assert status == "405 Method Not Allowed"
    assert dict(fields) == {
        "Content-Type": "application/json",
        "Allow": ALLOWED_METHODS.decode(),
        "X-Request-Id": json.loads(body)["request_id"],
        "Content-Length": str(len(body)),
    }


class Bench:
    """An application in front of a server with a name and one without, in a table of a master's."""

    def __init__(self) -> None:
        self.named = "http://app:8000"
        servers = [self.named, "http://127.0.0.1:1"]
        self.config = configuration.parse(
            json.dumps({"servers": servers, "logging": {"access": False}})
        )
        self.table = standalone_table(self.config)
        self.application = Application(self.config, self.table, 1)
        (self.connections,) = (
            backend.connections
            for backend in self.application.pool.backends
            if backend.url == self.named
        )

    def move(self, *address: int) -> None:
        """The control process's part."""
        identity = identity_of(self.named)
        row = self.table.row_index()[identity]
        addresses.write(self.table, row, identity, [Address(bytes(address))])
        self.table.bump()


def test_no_idle_connection_is_kept_to_where_a_server_was() -> None:
    """Found out at the next tick after the epoch moved, whether anybody asks for it or not."""
    bench = Bench()
    bench.move(192, 0, 2, 1)
    bench.application._look(0.0)
    one = connection(bench.connections)
    one.endpoint = (socket.AF_INET, ("192.0.2.1", 8000))
    bench.connections.give_back(one)
    bench.table.bump()
    bench.application._look(0.0)
    assert bench.connections.idle == [one]
    bench.move(192, 0, 2, 2)
    bench.application._look(0.0)
    assert bench.connections.idle == []
    assert stream(one).is_closed


def test_addresses_are_looked_at_only_when_something_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten times a second there is one comparison, however many servers there are."""
    looks: list[ConnectionCache] = []
    bench = Bench()
    monkeypatch.setattr(ConnectionCache, "look", lambda cache: looks.append(cache))
    for _ in range(3):
        bench.application._look(0.0)
    assert len(looks) == 2
    bench.table.bump()
    bench.application._look(0.0)
    assert len(looks) == 4


def test_a_name_is_looked_up_by_a_worker_only_without_a_master(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under another WSGI server nobody else does."""
    bench = Bench()
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(gevent.socket, "getaddrinfo", resolve)
    with pytest.raises(socket.gaierror, match="no address"):
        bench.connections.open()
    assert asked == []
    alone = Application(bench.config, bench.table, 1, has_master=False)
    with pytest.raises(socket.gaierror, match="unknown"):
        alone.pool.backends[0].connections.open()
    assert asked == ["app"]
