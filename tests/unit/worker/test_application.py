"""The application without a master: under any WSGI server, with a table of its own."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest

from app import config as configuration
from app.shared import inherited, publication
from app.shared.inherited import Inheritance
from app.shared.table import identity_of
from app.telemetry import log
from app.wire.status import ALLOWED_METHODS
from app.worker.application import Application, make_application, standalone_table


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
