"""What is published is read once, and aside where requests would wait for it."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import gevent
import pytest
from fakes.pool_bench import PoolBench, server

from app import config as configuration
from app.config import Config, ConfigError
from app.worker.balance import published as module
from app.worker.balance.published import Published


def blob_of(*ports: int, **settings: object) -> bytes:
    servers = [f"http://127.0.0.1:{port}" for port in ports]
    return configuration.to_json(configuration.parse(json.dumps({"servers": servers, **settings})))


def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those in which something is read from now on."""
    seen: list[int] = []
    read = configuration.from_json

    def from_json(blob: bytes) -> Config:
        seen.append(threading.get_native_id())
        return read(blob)

    monkeypatch.setattr(module, "from_json", from_json)
    return seen


def test_what_was_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was known from the beginning: a next master publishes the same bytes."""
    seen = threads(monkeypatch)
    blob = blob_of(1)
    known = configuration.from_json(blob)
    reader = Published(blob, known)
    assert reader.config(bytes(bytearray(blob))) is known
    assert seen == []
    other = blob_of(2)
    assert reader.config(other) is reader.config(other)
    assert len(seen) == 1


def test_what_cannot_be_read_raises_each_time() -> None:
    reader = Published()
    for _ in range(2):
        with pytest.raises(ConfigError):
            reader.config(b"{")


def test_a_worker_that_serves_reads_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on with what it has; the newest wins."""
    seen = threads(monkeypatch)
    reader = Published()
    ready: list[Config | None] = []
    newest = blob_of(3)
    reader.read_aside(lambda: ready.append(reader.config(newest)))
    for blob in (blob_of(2), newest, newest):
        assert reader.config(blob) is None
        assert reader.is_reading
    gevent.wait(timeout=5)
    (config,) = ready
    assert config is not None
    assert [one.port for one in config.servers] == [3]
    assert not reader.is_reading
    assert len(seen) == 2
    assert threading.get_native_id() not in seen


def test_a_users_algorithm_is_imported_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its module does at import keeps no request waiting."""
    (tmp_path / "slow_policy.py").write_text(
        "import threading\nTHREAD = threading.get_native_id()\n"
        "class Slow:\n    def __init__(self, inputs): pass\n    def pick(self, key): return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reader = Published()
    reader.read_aside(lambda: None)
    reader.config(blob_of(1, algorithm="slow_policy.Slow"))
    gevent.wait(timeout=5)
    imported = sys.modules.pop("slow_policy")
    assert threading.get_native_id() != imported.THREAD


def test_a_pool_picks_on_while_it_reads() -> None:
    """The tick notices what is published; servers of before are picked until it is read."""
    bench = PoolBench(server(1))
    reader = bench.pool._reader
    reader.read_aside(bench.pool.refresh)
    bench.publish(server(1), server(2))
    bench.pool.look(0.0)
    assert bench.available() == {1}
    bench.pool.look(0.0)
    gevent.wait(timeout=5)
    assert bench.available() == {1, 2}
