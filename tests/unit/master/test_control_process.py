"""When the master starts a control process, and when it kills one. Nothing is forked here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from app.master import hooks
from app.master.supervisor import Master
from app.shared.layout import HEARTBEAT
from app.shared.table import Table
from tests.unit.master.master_bench import (
    STRANGER,
    MasterBench,
)


def supervised(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, holder: int
) -> Callable[[], None]:
    monkeypatch.setattr(Table, "controller", lambda _: holder)
    clock = iter(range(10**6, 10**7, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    arbiter = bench.start()
    bench.forks = 0
    return arbiter.manage_workers


def test_a_missing_control_process_is_started_again(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    manage_workers = supervised(bench, monkeypatch, holder=0)
    manage_workers()
    manage_workers()
    assert bench.forks == 2


def test_one_that_dies_at_once_is_not_started_in_a_tight_loop(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    manage_workers = supervised(bench, monkeypatch, holder=0)
    monkeypatch.setattr(time, "monotonic", lambda: 2e7)
    for _ in range(5):
        manage_workers()
    assert bench.forks == 1


def test_a_control_process_that_hangs_is_killed(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(Table, "controller", lambda _: STRANGER)
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(Master, "_wait_for_sweep", lambda *_: True)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    arbiter = bench.start()
    bench.table.cells[HEARTBEAT] = 91_000
    arbiter.manage_workers()
    assert killed == []
    bench.table.cells[HEARTBEAT] = 89_000
    arbiter.manage_workers()
    assert killed == [STRANGER]


def test_a_master_that_was_asleep_kills_no_control_process(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept too: its beat is as old as the pause was long. If it beats no more it has its ten seconds."""
    killed: list[int] = []
    monkeypatch.setattr(Table, "controller", lambda _: STRANGER)
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(Master, "_wait_for_sweep", lambda *_: True)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    arbiter = bench.start()
    bench.table.cells[HEARTBEAT] = 100_000
    arbiter.manage_workers()
    for now in range(135, 146):
        monkeypatch.setattr(time, "monotonic", lambda now=now: float(now))
        arbiter.manage_workers()
        assert killed == []
    monkeypatch.setattr(time, "monotonic", lambda: 145.5)
    arbiter.manage_workers()
    assert killed == [STRANGER]


def test_a_child_that_ends_before_there_is_a_control_process_does_no_harm(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is in a master after USR2 for as long as its predecessor's control process judges."""
    monkeypatch.setattr(Table, "controller", lambda _: STRANGER)
    monkeypatch.setattr(Master, "_wait_for_sweep", lambda *_: True)
    arbiter = bench.start()
    arbiter.reap_workers()
    assert bench.forks == 0
    assert arbiter.calls.count("reap_workers") == 1


def test_one_that_was_killed_is_named_before_another_has_its_place(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a reload that waits for first checks another one is forked before the dead one is reaped."""
    manage_workers = supervised(bench, monkeypatch, holder=0)
    assert hooks._master is not None
    hooks._master._control._pid = STRANGER
    end = SimpleNamespace(si_code=os.CLD_KILLED, si_status=signal.SIGKILL)
    monkeypatch.setattr(os, "waitid", lambda *_: end)
    manage_workers()
    assert bench.forks == 1
    assert ("warning", "control process was killed") in bench.events
