"""What the hooks do to a worker's slot and to the next master's command line."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from app.config import Problem
from app.master import file_modes, hooks
from app.shared import inherited
from app.shared.layout import IN_FLIGHT, PID, SLOT_HEADER
from tests.unit.master.master_bench import (
    STRANGER,
    MasterBench,
)


def test_every_live_worker_has_a_slot_of_its_own(bench: MasterBench) -> None:
    arbiter = bench.start()
    for pid in range(1, 31):
        arbiter.WORKERS[pid] = worker = SimpleNamespace(age=pid)
        hooks.pre_fork(arbiter, worker)
    slots = [worker.slot for worker in arbiter.WORKERS.values()]
    assert slots == [*range(1, 24), *[-1] * 7]
    assert bench.events[-1][0] == "error"


def test_a_worker_takes_possession_and_the_master_takes_it_back(bench: MasterBench) -> None:
    arbiter = bench.start()
    worker = SimpleNamespace(age=3)
    hooks.pre_fork(arbiter, worker)
    hooks.post_fork(arbiter, worker)
    assert inherited.inheritance() == (bench.table, 1, hooks._the_master().own_form)
    slot = bench.table.slot(1)
    slot[SLOT_HEADER + IN_FLIGHT] = 2
    assert slot[PID] == os.getpid()
    hooks.child_exit(arbiter, worker)
    assert (slot[PID], bench.table.in_flight(0)) == (0, 0)


def test_worker_exit_releases_the_slot_in_the_master_only(bench: MasterBench) -> None:
    arbiter = bench.start()
    worker = SimpleNamespace(age=3)
    hooks.pre_fork(arbiter, worker)
    arbiter.pid = STRANGER
    hooks.worker_exit(arbiter, worker)
    assert bench.table.slot(1)[PID] == os.getpid()
    arbiter.pid = os.getpid()
    hooks.worker_exit(arbiter, worker)
    assert bench.table.slot(1)[PID] == 0


@pytest.mark.parametrize(
    ("command", "executed"),
    [
        (
            ["python", "/lib/gunicorn/__main__.py", "-w", "2"],
            ["python", "-m", "gunicorn", "-w", "2"],
        ),
        (["python", "/bin/gunicorn", "-w", "2"], ["python", "/bin/gunicorn", "-w", "2"]),
    ],
)
def test_the_next_generation_is_executed_so_that_its_imports_work(
    bench: MasterBench, command: list[str], executed: list[str]
) -> None:
    arbiter = bench.start()
    arbiter.START_CTX["args"] = command
    hooks.pre_exec(arbiter)
    assert command == executed


def test_files_that_only_we_can_read_are_named(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a start and at a reload, where workers are another user than we."""
    asked: list[tuple[int, frozenset[int]]] = []

    def unreadable(_config: Any, uid: int, gids: frozenset[int]) -> list[Problem]:
        asked.append((uid, gids))
        return [Problem("tls.key", "cannot be read")]

    monkeypatch.setattr(file_modes, "unreadable", unreadable)
    arbiter = bench.start()
    hooks.when_ready(arbiter)
    assert not asked
    arbiter.cfg.set("user", str(STRANGER))
    arbiter.cfg.set("group", str(STRANGER))
    hooks.when_ready(arbiter)
    assert asked == [(STRANGER, frozenset((STRANGER, *os.getgroups())))]
    assert bench.events[-1] == ("error", "tls.key: cannot be read")
