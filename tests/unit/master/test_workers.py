"""Workers of before and after a reload, and those that cannot boot. Nothing is forked here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.errors import HaltServer

from app.master import hooks, workers
from app.master.supervisor import Master
from app.shared.layout import GOES, STAYS, WISHES_TO_GO
from tests.unit.master.master_bench import (
    STRANGER,
    Arbiter,
    Beats,
    MasterBench,
    beat,
    booted,
)


def test_workers_go_when_all_of_the_new_ones_serve(bench: MasterBench) -> None:
    """Once each; what happens to a new one meanwhile is made good at once."""
    arbiter, old = booted(bench)
    arbiter.reload()
    new = [worker for worker in arbiter.WORKERS.values() if worker not in old]
    assert len(new) == 2
    beat(new[0])
    arbiter.manage_workers()
    assert arbiter.killed == []
    del arbiter.WORKERS[new[1].pid]
    arbiter.manage_workers()
    beat(*arbiter.WORKERS.values())
    for _ in range(3):
        arbiter.manage_workers()
    assert arbiter.killed == [worker.pid for worker in old]
    for worker in old:
        del arbiter.WORKERS[worker.pid]
    arbiter.calls.clear()
    arbiter.manage_workers()
    assert arbiter.calls == ["manage_workers"]  # gunicorn's, that nothing else is to be done


def saying(arbiter: Arbiter) -> dict[int, int]:
    """What workers say of their leaving, by their pids, which are their slots here."""
    said: dict[int, int] = {}
    hooks._the_master()._workers._leaving = lambda slot: said.get(slot, STAYS)
    for worker in arbiter.WORKERS.values():
        worker.slot = worker.pid
    return said


def test_who_wishes_to_go_serves_until_its_successor_does(bench: MasterBench) -> None:
    """One at a time: both have had their requests at the same moment."""
    arbiter, old = booted(bench)
    said = saying(arbiter)
    said.update({worker.pid: WISHES_TO_GO for worker in old})
    for expected in old:
        before = set(arbiter.WORKERS)
        arbiter.manage_workers()
        arbiter.manage_workers()
        (new,) = set(arbiter.WORKERS) - before
        assert expected.pid not in arbiter.killed
        beat(arbiter.WORKERS[new])
        arbiter.manage_workers()
        assert arbiter.killed[-1] == expected.pid
    for _ in range(3):
        arbiter.manage_workers()
    assert arbiter.killed == [worker.pid for worker in old]


def test_workers_are_not_used_up_faster_than_they_go(bench: MasterBench) -> None:
    """Each of them may wait for its last clients for graceful_timeout."""
    arbiter, _ = booted(bench)
    said = saying(arbiter)
    for _ in range(20):
        said.update(dict.fromkeys(arbiter.WORKERS, WISHES_TO_GO))
        beat(*arbiter.WORKERS.values())
        for worker in arbiter.WORKERS.values():
            worker.slot = worker.pid
        arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 4
    assert len(arbiter.killed) == 2


def test_who_goes_by_itself_has_a_successor_at_once(bench: MasterBench) -> None:
    """Somebody has told the worker itself; it is not told again, which could meet its end."""
    arbiter, old = booted(bench)
    said = saying(arbiter)
    said.update({worker.pid: GOES for worker in old})
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 4
    beat(*arbiter.WORKERS.values())
    arbiter.manage_workers()
    assert arbiter.killed == []


def test_one_less_goes_when_the_others_serve(bench: MasterBench) -> None:
    """TTIN and TTOU: the oldest, once, and it does not count while it waits for its clients."""
    arbiter, old = booted(bench)
    arbiter.num_workers = 3
    arbiter.spawn_worker()
    arbiter.num_workers = 2
    arbiter.manage_workers()
    assert arbiter.killed == []
    beat(*arbiter.WORKERS.values())
    for _ in range(3):
        arbiter.manage_workers()
    assert arbiter.killed == [old[0].pid]
    arbiter.num_workers = 3
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 4


def test_one_reload_after_another_leaves_no_crowd(bench: MasterBench) -> None:
    """Workers that have not begun to serve are not waited for, those that serve stay meanwhile."""
    arbiter, old = booted(bench)
    for _ in range(5):
        before = set(arbiter.WORKERS) - {worker.pid for worker in old} - set(arbiter.killed)
        arbiter.killed.clear()
        arbiter.reload()
        assert set(arbiter.killed) == before
        for pid in arbiter.killed:
            del arbiter.WORKERS[pid]
    assert len(arbiter.WORKERS) == 4


def failing_to_boot(
    arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch, *, pids: set[int]
) -> Callable[[], None]:
    """As gunicorn meets workers that ended with status 3."""
    left = set(pids)

    def reap() -> None:
        if left:
            arbiter.WORKERS.pop(left.pop())
            raise HaltServer("Worker failed to boot.", 3)

    monkeypatch.setattr(workers, "_has_given_up", left.__contains__)
    own = hooks._the_master()._workers
    monkeypatch.setattr(own, "_gunicorns_reap", reap)
    return own.reap


def test_workers_that_cannot_boot_end_a_start(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = bench.start()
    reap = failing_to_boot(arbiter, monkeypatch, pids={arbiter.spawn_worker()})
    with pytest.raises(HaltServer):
        reap()


def test_workers_that_cannot_boot_end_nothing_that_serves(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried again after a pause, and those of before serve on."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Master, "_wait_for_sweep", lambda *_: True)
    arbiter, old = booted(bench)
    arbiter.reload()
    new = set(arbiter.WORKERS) - {worker.pid for worker in old}
    failing_to_boot(arbiter, monkeypatch, pids=new)()
    assert bench.events[-1] == ("error", "a worker could not boot, others serve on")
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 2
    now[0] += workers.RESPAWN_SECONDS
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 4
    assert arbiter.killed == []


@pytest.mark.parametrize(
    ("told", "sleeps", "waits"),
    [
        (signal.SIGTERM, 0.0, 0),
        (signal.SIGTERM, 60.0, 200),
        (signal.SIGQUIT, 60.0, 0),
    ],
)
def test_a_stop_gives_workers_their_time_though_all_slept(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, told: int, sleeps: float, waits: int
) -> None:
    """gunicorn looks at the wall clock alone, which goes on meanwhile."""
    arbiter, _ = booted(bench)
    arbiter.cfg.set("graceful_timeout", 31)
    now, waited = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    arbiter.kill_workers(told)
    for step in range(310):
        now[0] += sleeps if step == 110 else 0.1
        arbiter.reap_workers()
        if step == 110 and sleeps:
            break
    arbiter.kill_workers(signal.SIGKILL)
    assert len(waited) == pytest.approx(waits, abs=2)
    assert arbiter.calls[-1] == f"kill_workers {signal.SIGKILL}"


def test_who_was_asleep_itself_kills_nobody(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole group that was stopped for long wakes up with old beats; gunicorn judges 30 s later."""
    arbiter, _ = booted(bench)
    judged: dict[float, bool] = {}
    for now in (100.0, 101.0, 136.0, 137.0, 166.0, 166.5):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        arbiter.calls.clear()
        for at in range(5) if now == 166.0 else ():
            monkeypatch.setattr(time, "monotonic", lambda at=at: 141.0 + 5 * at)
            arbiter.murder_workers()
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        arbiter.murder_workers()
        judged[now] = "murder_workers" in arbiter.calls
    assert judged == {
        100.0: True,
        101.0: True,
        136.0: False,
        137.0: False,
        166.0: False,
        166.5: True,
    }
    assert [event for event in bench.events if "not run for a while" in event[1]] == [
        (
            "warning",
            "the master has not run for a while, workers have a fresh time for their beats",
        )
    ]


def test_a_worker_that_cannot_be_forked_is_tried_again(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter, _ = booted(bench)

    def fail(*_: Any) -> None:
        raise OSError("no memory for a fork")

    monkeypatch.setattr(Beats, "__init__", fail)
    assert arbiter.spawn_worker() == 0
    assert [record.message for record in caplog.records] == ["worker not started"]


def test_signals_that_end_a_worker_wait_until_it_has_handlers(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = Arbiter()
    blocked: list[set[Any]] = []
    spawn = arbiter.spawn_worker

    def spawn_worker() -> int:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        return spawn()

    arbiter.spawn_worker = spawn_worker  # type: ignore[method-assign]
    bench.start(arbiter)
    before = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert arbiter.spawn_worker() == 1
    assert blocked[0] >= {signal.SIGTERM, signal.SIGQUIT}
    assert set(signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before


def test_gunicorn_s_own_worker_drains_without_its_master(bench: MasterBench) -> None:
    """Its loop does that when it is not alive; its own beat would exit."""
    beats: list[str] = []
    worker: Any = SimpleNamespace(alive=True, pid=os.getpid(), ppid=os.getppid())
    worker.tmp = SimpleNamespace(notify=lambda: beats.append("beat"))
    workers.let_orphan_drain(worker)
    worker.notify()
    assert worker.alive
    worker.ppid = STRANGER
    worker.notify()
    worker.notify()
    assert (worker.alive, len(beats)) == (False, 3)
    assert bench.events == [("warning", "the master is gone, this worker drains")]


def test_a_hook_that_fails_at_a_workers_end_ends_nothing(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn gives each child to it once: the others of that moment have their turn too."""
    arbiter, old = booted(bench)
    left = [worker.pid for worker in old]

    def reap() -> None:
        while left:
            arbiter.WORKERS.pop(left.pop())
            raise OSError("child_exit of a user's own")

    own = hooks._the_master()._workers
    monkeypatch.setattr(own, "_gunicorns_reap", reap)
    own.reap()
    assert not arbiter.WORKERS
