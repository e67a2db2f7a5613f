"""The master's decisions, with an arbiter that only looks like one. Nothing is forked here."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import config as gunicorn_config
from gunicorn.errors import HaltServer

from app import config as configuration
from app.master import hooks as master
from app.shared import inherited
from app.shared.table import (
    CHECKED,
    HEARTBEAT,
    IN_FLIGHT,
    OWNER,
    PID,
    PROPOSED,
    PUBLISHED,
    SLOT_HEADER,
    Table,
)
from app.telemetry import log

STRANGER = 2**22 + 1  # above Linux's highest pid


class Arbiter:
    """What the hooks use of gunicorn's Arbiter."""

    def __init__(self, workers: int = 2) -> None:
        self.pid = os.getpid()
        self.reexec_pid = self.master_pid = self.worker_age = 0
        self.app = SimpleNamespace(cfg=settings(workers), reload=self.read_again)
        self.settings: Callable[[], None] = lambda: None
        self.cfg = self.app.cfg
        self.num_workers = workers
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
        self.app.cfg = settings(master.load_config().workers)
        self.settings()

    def setup(self, app: Any) -> None:
        self.cfg = app.cfg
        self.num_workers = app.cfg.workers

    def manage_workers(self) -> None:
        self.calls.append("manage_workers")

    def spawn_worker(self) -> int:
        self.calls.append("spawn_worker")
        self.worker_age += 1
        worker = SimpleNamespace(age=self.worker_age, pid=self.worker_age, tmp=Beats())
        self.WORKERS[worker.pid] = worker
        return worker.pid

    def kill_worker(self, pid: int, _number: int) -> None:
        self.killed.append(pid)

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
    for name, value in (("workers", workers), ("worker_class", "sync")):
        cfg.set(name, value)
    cfg.set("on_reload", master.on_reload)
    cfg.env_orig = {}
    return cfg


class House:
    """A master that has started, up to the point where it would fork."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.events: list[tuple[str, str]] = []
        self.forks = 0
        monkeypatch.setenv("LB_CONFIG", str(path))
        monkeypatch.delenv("LB_PORT", raising=False)
        monkeypatch.setattr(master, "_loaded", None)
        monkeypatch.setattr(master, "_master", None)
        monkeypatch.setattr(inherited, "_inheritance", None)
        monkeypatch.setattr(
            log, "event", lambda logger, level, message, **_: self.events.append((level, message))
        )
        monkeypatch.setattr(master.Master, "_fork_control", self._fork_control)
        monkeypatch.setattr(master.time, "sleep", lambda seconds: None)
        self.write('{"servers": ["http://127.0.0.1:8001"]}')

    def _fork_control(self, *_: Any) -> None:
        """A control process that finishes its sweep at once."""
        self.forks += 1
        self.table.cells[CHECKED] = self.table.cells[PROPOSED]

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def start(self, arbiter: Arbiter | None = None) -> Arbiter:
        arbiter = arbiter or Arbiter()
        master.load_config()
        master.on_starting(arbiter)
        master.when_ready(arbiter)
        return arbiter

    def reload(self, arbiter: Arbiter) -> None:
        """HUP."""
        arbiter.reload()

    @property
    def table(self) -> Table:
        assert master._master is not None
        return master._master.table

    def published_servers(self) -> int:
        return self.table.published()[1].count(b'"url"')


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    handlers = {number: signal.getsignal(number) for number in master._ENDS_A_BOOTING_WORKER}
    yield House(tmp_path / "config.json", monkeypatch)
    for number, handler in handlers.items():  # post_fork is for a worker, which never comes back
        signal.signal(number, handler)


# -- configuration ---------------------------------------------------------------------------------


def test_a_bad_configuration_ends_a_start_with_every_problem_on_stderr(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.write('{"port": 0, "workers": 0}')
    with pytest.raises(SystemExit) as exit_:
        master.load_config()
    assert exit_.value.code == 78
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert [level for level, _ in house.events] == ["error", "error"]


def test_a_bad_configuration_at_a_reload_changes_nothing(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    arbiter = house.start()
    before = house.table.published()
    house.write("{")
    house.reload(arbiter)
    assert house.table.published() == before
    assert house.events[-1] == ("error", "configuration not changed, the last good one stays")
    assert capsys.readouterr().err == ""


def test_a_reload_with_more_servers_than_rows_is_refused(house: House) -> None:
    arbiter = house.start()
    servers = ", ".join(f'"http://127.0.0.1:{port}"' for port in range(1000, 1300))
    house.write(f'{{"servers": [{servers}]}}')
    house.reload(arbiter)
    assert house.published_servers() == 1
    house.write('{"servers": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}')
    house.reload(arbiter)
    assert house.published_servers() == 2


def test_a_reload_that_finds_no_free_row_keeps_the_last_good_configuration(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = house.start()
    good = master._loaded

    def refuse(*_: Any) -> int:
        raise master.TableError("rows are still in use")

    monkeypatch.setattr(Table, "propose", refuse)
    house.write('{"servers": ["http://127.0.0.1:1"]}')
    house.reload(arbiter)
    assert master._loaded == master._the_master().config == good
    assert arbiter.WORKERS == {}
    assert ("error", "configuration not changed") in house.events


def test_a_reload_without_a_change_publishes_nothing(house: House) -> None:
    arbiter = house.start()
    sequence = house.table.cells[PUBLISHED]
    house.reload(arbiter)
    assert house.table.cells[PUBLISHED] == sequence


def test_nothing_is_published_before_its_sweep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = house.start()
    seen: list[tuple[int, int]] = []

    def sweep() -> None:
        cells = house.table.cells
        seen.append((cells[PUBLISHED], cells[PROPOSED]))
        cells[CHECKED] = cells[PROPOSED]

    monkeypatch.setattr(master.Master, "_keep_control", lambda _: sweep())
    house.write('{"servers": ["http://127.0.0.1:1"]}')
    house.reload(arbiter)
    assert seen[0] == (1, 2)
    assert house.table.cells[PUBLISHED] == 2


def test_a_sweep_that_never_ends_is_waited_for_only_so_long(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(master.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(master.Master, "_keep_control", lambda _: None)
    house.start()
    assert house.table.cells[PUBLISHED] == 1
    assert house.events[-1][0] == "error"


@pytest.mark.parametrize(
    ("host", "bind"), [("127.0.0.1", "127.0.0.1:8080"), ("::1", "[::1]:8080"), ("lb", "lb:8080")]
)
def test_bind_puts_ipv6_addresses_in_brackets(house: House, host: str, bind: str) -> None:
    house.write(f'{{"host": "{host}", "port": 8080}}')
    assert master.bind_address(master.load_config()) == bind


# -- a reload --------------------------------------------------------------------------------------

ONE_MORE = '{"servers": ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]}'


def test_what_fails_after_the_publication_takes_it_back(house: House) -> None:
    """A hook of the user's own, say: workers follow a publication at once, whoever is replaced later."""
    arbiter = house.start()
    good, cfg = master._loaded, arbiter.cfg

    def own(server: Any) -> None:
        master.on_reload(server)
        assert house.published_servers() == 2
        raise OSError("full")

    arbiter.settings = lambda: arbiter.app.cfg.set("on_reload", own)
    house.write(ONE_MORE)
    house.reload(arbiter)
    assert house.published_servers() == 1
    assert (master._loaded, arbiter.cfg, arbiter.app.cfg) == (good, cfg, cfg)
    assert ("error", "on_reload: OSError: full") in house.events
    assert arbiter.WORKERS == {}
    arbiter.settings = lambda: None
    house.reload(arbiter)
    assert house.published_servers() == 2


def test_who_is_told_to_stop_waits_for_no_first_checks(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload is given up, and the signal is still there for gunicorn, behind those before it."""
    arbiter = house.start()
    monkeypatch.setattr(master.Master, "_keep_control", lambda _: arbiter.SIG_QUEUE.put(15))
    arbiter.SIG_QUEUE.put(signal.SIGCHLD)
    house.write(ONE_MORE)
    house.reload(arbiter)
    assert house.published_servers() == 1
    assert [arbiter.SIG_QUEUE.get() for _ in range(2)] == [signal.SIGCHLD, signal.SIGTERM]


def test_whatever_raises_in_a_reload_is_logged_and_ends_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter = house.start()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(master.configuration, "load", fail)
    house.reload(arbiter)
    assert [record.message for record in caplog.records] == ["reload failed"]
    assert arbiter.WORKERS == {}
    with pytest.raises(AssertionError):
        master.on_reload(arbiter)  # no reload is at work any more


def test_a_process_is_as_before_after_a_refusal(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, import path and folder, which a file of settings may change."""
    arbiter = house.start()

    def meddle() -> None:
        os.environ["LB_PORT"] = "1"
        sys.path.insert(0, "/nowhere")
        os.chdir("/")
        raise SystemExit(1)

    arbiter.settings = meddle
    before = dict(os.environ), list(sys.path), os.getcwd()
    house.reload(arbiter)
    assert (dict(os.environ), list(sys.path), os.getcwd()) == before
    assert house.events[-1][1] == "configuration not changed, the last good one stays"


def beat(*workers: Any) -> None:
    for worker in workers:
        worker.tmp.at = 0.0


def booted(house: House, count: int = 2) -> tuple[Arbiter, list[Any]]:
    """A master whose workers serve."""
    arbiter = house.start(Arbiter(workers=count))
    house.write(f'{{"workers": {count}}}')
    for _ in range(count):
        arbiter.spawn_worker()
    workers = list(arbiter.WORKERS.values())
    beat(*workers)
    arbiter.manage_workers()
    return arbiter, workers


def test_workers_go_when_all_of_the_new_ones_serve(house: House) -> None:
    """Once each; what happens to a new one meanwhile is made good at once."""
    arbiter, old = booted(house)
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


def test_one_reload_after_another_leaves_no_crowd(house: House) -> None:
    """Workers that have not begun to serve are not waited for, those that serve stay meanwhile."""
    arbiter, old = booted(house)
    for _ in range(5):
        before = set(arbiter.WORKERS) - {worker.pid for worker in old} - set(arbiter.killed)
        arbiter.killed.clear()
        arbiter.reload()
        assert set(arbiter.killed) == before
        for pid in arbiter.killed:
            del arbiter.WORKERS[pid]
    assert len(arbiter.WORKERS) == 4


def test_a_reload_waits_for_slots(house: House) -> None:
    """Sets of workers that drain for long must not use up what the next one needs."""
    arbiter, old = booted(house)
    slots = range(1, house.table.slots)
    for number in slots:
        house.table.slot(number)[PID] = os.getpid()
    master._the_master()._newest_to_go = old[-1].age
    house.write('{"workers": 3}')
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.num_workers == 2
    waits = ("warning", "reload waits until workers of earlier ones have gone")
    assert house.events.count(waits) == 1
    for number in slots:
        house.table.slot(number)[PID] = 0
    arbiter.manage_workers()
    assert arbiter.num_workers == 3


def failing_to_boot(
    arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch, *, pids: set[int]
) -> Callable[[], None]:
    """As gunicorn meets workers that ended with status 3."""
    left = set(pids)

    def reap() -> None:
        if left:
            arbiter.WORKERS.pop(left.pop())
            raise HaltServer("Worker failed to boot.", 3)

    monkeypatch.setattr(master, "_has_given_up", left.__contains__)
    own = master._the_master()
    return lambda: own._reap(reap)


def test_workers_that_cannot_boot_end_a_start(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = house.start()
    reap = failing_to_boot(arbiter, monkeypatch, pids={arbiter.spawn_worker()})
    with pytest.raises(HaltServer):
        reap()


def test_workers_that_cannot_boot_end_nothing_that_serves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried again after a pause, and those of before serve on."""
    now = [100.0]
    monkeypatch.setattr(master.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(master.Master, "_wait_for_sweep", lambda *_: True)
    arbiter, old = booted(house)
    arbiter.reload()
    new = set(arbiter.WORKERS) - {worker.pid for worker in old}
    failing_to_boot(arbiter, monkeypatch, pids=new)()
    assert house.events[-1] == ("error", "a worker could not boot, others serve on")
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 2
    now[0] += master.RESPAWN_SECONDS
    arbiter.manage_workers()
    assert len(arbiter.WORKERS) == 4
    assert arbiter.killed == []


def test_a_worker_that_cannot_be_forked_is_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter, _ = booted(house)

    def fail(*_: Any) -> None:
        raise OSError("no memory for a fork")

    monkeypatch.setattr(Beats, "__init__", fail)
    assert arbiter.spawn_worker() == 0
    assert [record.message for record in caplog.records] == ["worker not started"]


def test_a_next_master_that_cannot_be_executed_ends_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Least of all in its child, which has gunicorn's own way to stop our workers."""
    ended: list[int] = []
    monkeypatch.setattr(master.os, "_exit", ended.append)

    def fail(*_: Any) -> None:
        raise FileNotFoundError("python")

    monkeypatch.setattr(Arbiter, "reexec", fail)
    arbiter, _ = booted(house)
    arbiter.reexec()
    assert ended == []
    arbiter.pid = STRANGER
    arbiter.reexec()
    assert ended == [1]
    assert len(caplog.records) == 2


# -- slots -----------------------------------------------------------------------------------------


def test_there_are_slots_for_two_generations_of_the_workers_that_gunicorn_starts(
    house: House,
) -> None:
    house.start(Arbiter(workers=5))
    assert house.table.slots == 4 * 5 + 16


def test_every_live_worker_has_a_slot_of_its_own(house: House) -> None:
    arbiter = house.start()
    for pid in range(1, 31):
        arbiter.WORKERS[pid] = worker = SimpleNamespace(age=pid)
        master.pre_fork(arbiter, worker)
    slots = [worker.slot for worker in arbiter.WORKERS.values()]
    assert slots == [*range(1, 24), *[-1] * 7]
    assert house.events[-1][0] == "error"


def test_a_worker_takes_possession_and_the_master_takes_it_back(house: House) -> None:
    arbiter = house.start()
    worker = SimpleNamespace(age=3)
    master.pre_fork(arbiter, worker)
    master.post_fork(arbiter, worker)
    assert inherited.inheritance() == (house.table, 1, master._the_master().own_form)
    slot = house.table.slot(1)
    slot[SLOT_HEADER + IN_FLIGHT] = 2
    assert slot[PID] == os.getpid()
    master.child_exit(arbiter, worker)
    assert (slot[PID], house.table.in_flight(0)) == (0, 0)


def test_worker_exit_releases_the_slot_in_the_master_only(house: House) -> None:
    arbiter = house.start()
    worker = SimpleNamespace(age=3)
    master.pre_fork(arbiter, worker)
    arbiter.pid = STRANGER
    master.worker_exit(arbiter, worker)
    assert house.table.slot(1)[PID] == os.getpid()
    arbiter.pid = os.getpid()
    master.worker_exit(arbiter, worker)
    assert house.table.slot(1)[PID] == 0


def test_there_is_nothing_to_inherit_without_gunicorn(house: House) -> None:
    assert inherited.inheritance() is None


# -- supervision -----------------------------------------------------------------------------------


def supervised(house: House, monkeypatch: pytest.MonkeyPatch, holder: int) -> Callable[[], None]:
    monkeypatch.setattr(Table, "controller", lambda _: holder)
    clock = iter(range(10**6, 10**7, 100))
    monkeypatch.setattr(master.time, "monotonic", lambda: float(next(clock)))
    arbiter = house.start()
    house.forks = 0
    return arbiter.manage_workers


def test_a_missing_control_process_is_started_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    manage_workers = supervised(house, monkeypatch, holder=0)
    manage_workers()
    manage_workers()
    assert house.forks == 2


def test_one_that_dies_at_once_is_not_started_in_a_tight_loop(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    manage_workers = supervised(house, monkeypatch, holder=0)
    monkeypatch.setattr(master.time, "monotonic", lambda: 2e7)
    for _ in range(5):
        manage_workers()
    assert house.forks == 1


def test_a_control_process_that_hangs_is_killed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(Table, "controller", lambda _: STRANGER)
    monkeypatch.setattr(master.os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(master.Master, "_wait_for_sweep", lambda *_: True)
    monkeypatch.setattr(master.time, "monotonic", lambda: 100.0)
    arbiter = house.start()
    house.table.cells[HEARTBEAT] = 91_000
    arbiter.manage_workers()
    assert killed == []
    house.table.cells[HEARTBEAT] = 89_000
    arbiter.manage_workers()
    assert killed == [STRANGER]


@pytest.mark.parametrize("relation", ["child", "parent"])
def test_the_other_generation_that_published_last_keeps_control(
    house: House, monkeypatch: pytest.MonkeyPatch, relation: str
) -> None:
    arbiter = house.start()
    other = STRANGER if relation == "child" else os.getppid()
    arbiter.reexec_pid = STRANGER if relation == "child" else 0
    house.table.cells[OWNER] = other
    house.forks = 0
    arbiter.manage_workers()
    assert (house.forks, house.table.cells[OWNER]) == (0, other)


@pytest.mark.parametrize("owner", [STRANGER, 0])
def test_when_the_other_generation_is_gone_our_configuration_is_in_use_again(
    house: House, owner: int
) -> None:
    arbiter = house.start()
    theirs = house.table.propose(b'{"servers":[]}', [])
    house.table.publish(theirs)
    house.table.cells[OWNER] = owner
    arbiter.manage_workers()
    assert house.table.cells[OWNER] == os.getpid()
    assert house.published_servers() == 1


def test_a_failure_of_supervision_neither_stops_the_workers_nor_fills_the_log(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter = house.start()

    def fail(_: master.Master) -> None:
        raise OSError(11, "no memory for a fork")

    monkeypatch.setattr(master.Master, "supervise", fail)
    arbiter.manage_workers()
    arbiter.manage_workers()
    assert arbiter.calls == ["manage_workers", "manage_workers"]
    assert [record.message for record in caplog.records] == ["control process not supervised"]


def test_signals_that_end_a_worker_wait_until_it_has_handlers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = Arbiter()
    blocked: list[set[Any]] = []
    spawn = arbiter.spawn_worker

    def spawn_worker() -> int:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        return spawn()

    arbiter.spawn_worker = spawn_worker  # type: ignore[method-assign]
    house.start(arbiter)
    before = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert arbiter.spawn_worker() == 1
    assert blocked[0] >= {signal.SIGTERM, signal.SIGQUIT}
    assert set(signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before


def test_stopping_gives_up_the_ownership(house: House) -> None:
    arbiter = house.start()
    master.on_exit(arbiter)
    assert house.table.cells[OWNER] == 0


def test_stopping_leaves_the_other_generation_s_ownership_alone(house: House) -> None:
    arbiter = house.start()
    house.table.cells[OWNER] = STRANGER
    master.on_exit(arbiter)
    assert house.table.cells[OWNER] == STRANGER


# -- the next generation ---------------------------------------------------------------------------


def handed_over(house: House, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The first generation's table, in the environment as the next one finds it."""
    arbiter = house.start()
    old = house.table
    master.pre_exec(arbiter)
    fd = os.dup(int(arbiter.cfg.env_orig["LB_TABLE_FD"]))
    os.set_inheritable(fd, True)
    monkeypatch.setenv("LB_TABLE_FD", str(fd))
    monkeypatch.setenv("GUNICORN_PID", "1")
    assert os.get_inheritable(old.fd)
    return old


def test_the_next_generation_goes_on_with_the_same_table(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(house, monkeypatch)
    ticket = old.ticket()
    house.start()
    assert house.table is not old
    assert house.table.ticket() == ticket + 1
    assert house.table.cells[PUBLISHED] == 1
    assert "LB_TABLE_FD" not in os.environ
    assert not os.get_inheritable(house.table.fd)


def test_a_table_too_small_for_the_next_generation_is_left_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(house, monkeypatch)
    ticket = old.ticket()
    house.start(Arbiter(workers=50))
    assert house.table.slots == 216
    assert house.table.ticket() != ticket + 1
    assert ("warning", "the old master's table is left behind") in house.events


@pytest.mark.parametrize("value", ["", "x", "99999"])
def test_a_descriptor_that_is_no_table_is_left_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LB_TABLE_FD", value)
    monkeypatch.setenv("GUNICORN_PID", "1")
    house.start()
    assert house.published_servers() == 1


def test_only_a_re_executed_master_looks_for_a_table(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = handed_over(house, monkeypatch)
    monkeypatch.delenv("GUNICORN_PID")
    ticket = old.ticket()
    house.start()
    assert house.table.ticket() != ticket + 1


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
    house: House, command: list[str], executed: list[str]
) -> None:
    arbiter = house.start()
    arbiter.START_CTX["args"] = command
    master.pre_exec(arbiter)
    assert command == executed


@pytest.mark.parametrize(
    ("secret", "is_taken_over"),
    [("made at start: 0123", True), ("chosen by the operator", False), (None, False)],
)
def test_a_secret_of_sticky_sessions_is_taken_over_if_a_master_made_it(
    secret: str | None, is_taken_over: bool
) -> None:
    """One that an operator chose, and has taken out since, is not to be used again."""
    config = configuration.parse(json.dumps({"sticky": {"secret": secret}}))
    table = Table.create(rows=1, slots=1, blob_bytes=10_000)
    assert master._secret_of(table) is None
    table.publish(table.propose(configuration.to_json(config), []))
    assert master._secret_of(table) == (secret if is_taken_over else None)


def test_a_secret_of_another_release_s_configuration_is_left_alone() -> None:
    table = Table.create(rows=1, slots=1, blob_bytes=10_000)
    table.publish(table.propose(b'{"form": 99, "config": {}}', []))
    assert master._secret_of(table) is None


def test_a_hook_that_fails_at_a_workers_end_ends_nothing(house: House) -> None:
    """gunicorn gives each child to it once: the others of that moment have their turn too."""
    arbiter, old = booted(house)
    left = [worker.pid for worker in old]

    def reap() -> None:
        while left:
            arbiter.WORKERS.pop(left.pop())
            raise OSError("child_exit of a user's own")

    master._the_master()._reap(reap)
    assert not arbiter.WORKERS


def test_more_workers_than_there_are_slots_for_are_a_refusal(house: House) -> None:
    """The new ones boot beside the old ones, so that half of the slots is all that a reload may ask for."""
    booted(house)
    one = master._the_master()
    room = (one.table.slots - 1) // 2
    one.refuse_misfit(replace(one.config, workers=room))
    with pytest.raises(
        configuration.ConfigError, match=f"workers: too many for a reload .room for {room}."
    ):
        one.refuse_misfit(replace(one.config, workers=room + 1))
