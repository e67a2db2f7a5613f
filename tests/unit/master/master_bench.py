"""What the tests of the master share: an arbiter that only looks like one, a master that forks nothing."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import config as gunicorn_config

from app.master import hooks, preflight
from app.master.control_process import ControlProcess
from app.shared import inherited, publication
from app.shared.layout import CHECKED, PROPOSED
from app.shared.table import Table
from app.telemetry import log

STRANGER = 2**22 + 1  # above Linux's highest pid


ONE_MORE = '{"servers": ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]}'


class Arbiter:
    """What the hooks use of gunicorn's Arbiter."""

    def __init__(self, workers: int = 2) -> None:
        self.pid = os.getpid()
        self.reexec_pid = self.master_pid = self.worker_age = 0
        self.app = SimpleNamespace(cfg=settings(workers), reload=self.read_again)
        self.settings: Callable[[], None] = lambda: None
        self.cfg = self.app.cfg
        self.num_workers = workers
        self.timeout = 30
        self.pidfile = None
        self.proc_name = "load-balancer"
        self.log = logging.getLogger("arbiter")
        self.log.reopen_files = lambda: None  # type: ignore[attr-defined]
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, Any] = {}
        self.calls: list[str] = []
        self.killed: list[int] = []
        self.SIG_QUEUE: SimpleQueue[int] = SimpleQueue()
        self._stats = {"reloads": 0}
        self.START_CTX = {"args": ["/bin/python", "/bin/gunicorn", "-c", "gunicorn.conf.py"]}

    def read_again(self) -> None:
        """What gunicorn does with gunicorn.conf.py: hooks and settings anew."""
        self.app.cfg = settings(preflight.load_config().workers)
        self.settings()

    def setup(self, app: Any) -> None:
        self.cfg = app.cfg
        self.num_workers = app.cfg.workers

    def manage_workers(self) -> None:
        self.calls.append("manage_workers")

    def murder_workers(self) -> None:
        self.calls.append("murder_workers")

    def spawn_worker(self) -> int:
        self.calls.append("spawn_worker")
        self.worker_age += 1
        worker = SimpleNamespace(age=self.worker_age, pid=self.worker_age, tmp=Beats())
        self.WORKERS[worker.pid] = worker
        return worker.pid

    def kill_worker(self, pid: int, _number: int) -> None:
        self.killed.append(pid)

    def kill_workers(self, number: int) -> None:
        self.calls.append(f"kill_workers {number}")

    def reap_workers(self) -> None:
        self.calls.append("reap_workers")

    def reexec(self) -> None:
        self.calls.append("reexec")

    def reload(self) -> None:
        raise AssertionError("gunicorn's own")


class Beats:
    """A worker's file of beats: made at a time of day, set by its beats to a time since the start."""

    def __init__(self) -> None:
        self.at = 1e12

    def last_update(self) -> float:
        return self.at


def settings(workers: int) -> Any:
    cfg = gunicorn_config.Config()
    for name, value in (("workers", workers), ("worker_class", "gevent")):
        cfg.set(name, value)
    cfg.set("on_reload", hooks.on_reload)
    cfg.env_orig = {}
    return cfg


class MasterBench:
    """A master that has started, up to the point where it would fork."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.events: list[tuple[str, str]] = []
        self.forks = 0
        monkeypatch.setenv("LB_CONFIG", str(path))
        monkeypatch.delenv("LB_PORT", raising=False)
        monkeypatch.setattr(preflight, "_in_use", None)
        monkeypatch.setattr(hooks, "_master", None)
        monkeypatch.setattr(inherited, "_inheritance", None)
        monkeypatch.setattr(
            log, "event", lambda logger, level, message, **_: self.events.append((level, message))
        )
        monkeypatch.setattr(ControlProcess, "_fork", self._fork_control)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        self.write('{"servers": ["http://127.0.0.1:8001"]}')

    def _fork_control(self, *_: Any) -> None:
        """A control process that finishes its sweep at once."""
        self.forks += 1
        self.table.cells[CHECKED] = self.table.cells[PROPOSED]

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def start(self, arbiter: Arbiter | None = None) -> Arbiter:
        arbiter = arbiter or Arbiter()
        preflight.load_config()
        hooks.on_starting(arbiter)
        hooks.when_ready(arbiter)
        return arbiter

    def reload(self, arbiter: Arbiter) -> None:
        """HUP."""
        arbiter.reload()

    @property
    def table(self) -> Table:
        assert hooks._master is not None
        return hooks._master.table

    def published_servers(self) -> int:
        return publication.published(self.table)[1].count(b'"url"')


def beat(*workers: Any) -> None:
    for worker in workers:
        worker.tmp.at = 0.0


def booted(bench: MasterBench, count: int = 2) -> tuple[Arbiter, list[Any]]:
    """A master whose workers serve."""
    arbiter = bench.start(Arbiter(workers=count))
    bench.write(f'{{"workers": {count}}}')
    for _ in range(count):
        arbiter.spawn_worker()
    workers = list(arbiter.WORKERS.values())
    beat(*workers)
    arbiter.manage_workers()
    return arbiter, workers


def handed_over(bench: MasterBench, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The first generation's table, in the environment as the next one finds it."""
    arbiter = bench.start()
    old = bench.table
    hooks.pre_exec(arbiter)
    fd = os.dup(int(arbiter.cfg.env_orig["LB_TABLE_FD"]))
    os.set_inheritable(fd, True)
    monkeypatch.setenv("LB_TABLE_FD", str(fd))
    monkeypatch.setenv("GUNICORN_PID", "1")
    assert os.get_inheritable(old.fd)
    return old
