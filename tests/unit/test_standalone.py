"""The application without a master: under any WSGI server, with a table of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app import master
from app.wsgi import make_application


def test_requests_are_counted_where_limits_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max_connections holds there too."""
    file = tmp_path / "config.json"
    server = {"url": "http://127.0.0.1:1", "max_connections": 2}
    file.write_text(json.dumps({"servers": [server], "queue": False}))
    monkeypatch.setenv("LB_CONFIG", str(file))
    monkeypatch.setattr(master, "inheritance", lambda: None)
    pool = make_application().pool
    (backend,) = pool.backends
    assert [pool.take(backend) for _ in range(3)] == [True, True, False]
    assert pool.table.in_flight(backend.row) == 2
