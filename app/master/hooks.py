"""The master's part: the hooks of gunicorn.conf.py, the table, the control process, publishing.

Runs in gunicorn's master, between its own steps: one thread, no gevent, no requests, no I/O but files and
log lines. Must never know what a check or a request is. What it keeps lives in this module, because
gunicorn.conf.py is executed again at every HUP and this module is not.

gunicorn has no periodic hook; ``Arbiter.manage_workers`` runs at least once a second and right after a
child's death, so supervision is done there. When two generations of masters are alive (USR2), the one
that proposed a configuration last owns the control process; the other looks on until that one is gone.
How a HUP gets from one set of settings to the next is app.master.reload's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn import util as gunicorn_util
from gunicorn.errors import HaltServer

from app import compiled
from app import config as configuration
from app.config import Config, ConfigError
from app.config.secrets import MADE_HERE, with_secret
from app.master import privileges, trial
from app.master import reload as reloading
from app.shared.inherited import Inheritance, bequeath
from app.shared.table import (
    CHECKED,
    GENERATION,
    HEARTBEAT,
    OWNER,
    PID,
    STARTED_MS,
    Table,
    TableError,
    identity_of,
)
from app.telemetry import log
from app.tls import clients as tls
from app.wire import parser

EX_FAILED = 1
EX_CONFIG = 78  # sysexits.h
TABLE_FD = "LB_TABLE_FD"  # environment: where a re-executed master (USR2) finds the segment

MIN_ROWS = 256
MIN_BLOB_BYTES = 1 << 20
# What the first sweep may take beside the check's own timeout: fork, imports, a thousand starts.
SWEEP_SLACK_SECONDS = 3.0
LOCK_SECONDS = 2.0  # a fresh control process takes its lock within milliseconds
FORK_GAP_SECONDS = 0.5  # one that dies at once is not started in a tight loop
HANG_SECONDS = 10.0  # it beats every 50 ms
STOP_SECONDS = 1.0
WAIT_STEP_SECONDS = 0.005

# Sent to a whole process group by terminals and service managers. The control process must outlive all of
# them until its master ends it: requests still drain after SIGTERM and want to know who is healthy.
_IGNORED_BY_CONTROL = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH),
)

# A worker that is still importing has gunicorn's own handlers, which queue a signal for the master that it
# is no more: such a SIGTERM was lost, and the master waited graceful_timeout for that worker.
_ENDS_A_BOOTING_WORKER = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

# A worker that could not boot has left a traceback, and half a second of a processor. Not in a tight loop.
RESPAWN_SECONDS = 2.0

_ENDS_THE_MASTER = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))

_loaded: Config | None = None  # what gunicorn's settings come from
_judged: Config | None = None  # what they are to come from, while a HUP is at work
_master: Master | None = None


def load_config() -> Config:
    """The configuration for gunicorn.conf.py. A bad one ends a start; at a HUP it was judged before."""
    if _judged is not None:
        return _judged
    try:
        candidate = judge()
    except ConfigError as error:
        _report(error)
        sys.exit(EX_CONFIG)
    _adopt(candidate)
    return candidate


def judge() -> Config:
    """The configuration as it is on disk now. ConfigError with every problem, if it is not fit for use."""
    candidate = configuration.load(configuration.path_from(os.environ), os.environ)
    trial.require(candidate)
    tls.require(candidate)
    if _master is not None:
        _master.refuse_misfit(candidate)
    return candidate


def reload(arbiter: Any) -> None:
    """What HUP does. Whatever is wrong, and whatever raises, leaves all as it was: it serves on."""
    global _judged
    master = _the_master()
    if not master.has_room_to_reload():
        return
    path = configuration.path_from(os.environ)
    try:
        with contextlib.ExitStack() as undo:
            undo.callback(master.return_to, master.config)
            _judged = judge()
            finish = reloading.take_over(
                arbiter, _judged, bind_address(_judged), master.freed, undo
            )
            undo.pop_all()
    except ConfigError as error:
        _report(error)
        log.event(
            "config", "error", "configuration not changed, the last good one stays", file=path
        )
        return
    except BaseException:  # it would end the master; no signal raises anything here
        logging.getLogger("config").exception("reload failed")
        return
    finally:
        judged, _judged = _judged, None
    assert judged is not None
    _adopt(judged)
    try:
        finish()
    except Exception:
        logging.getLogger("config").exception("reload not finished, going on with new workers")
    master.renew_workers()  # forks: nothing may be caught around it


def bind_address(config: Config) -> str:
    """gunicorn's notation: IPv6 addresses in brackets."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{host}:{config.port}"


def ssl_context(_config: Any, _default: Any) -> Any:
    """gunicorn's hook for its own handlers: the same TLS as ours, but its files are read once."""
    assert _loaded is not None
    assert _loaded.tls is not None
    return tls.make_context(_loaded.tls)


# -- hooks, in the order in which gunicorn calls them ----------------------------------------------


def on_starting(arbiter: Any) -> None:
    """Make or take over the segment, before there is a listening socket or a child."""
    global _master
    assert _loaded is not None
    if remedy := privileges.remedy_for_port(_loaded.port):
        log.event("privileges", "error", "port needs a privilege", port=_loaded.port, remedy=remedy)
    if compiled.is_used:
        log.event("compiled", "info", "the request path is compiled")
    elif compiled.problem:
        problem, remedy = compiled.problem, "make compile, or remove app/_compiled"
        log.event(
            "compiled",
            "warning",
            "the request path is not compiled",
            problem=problem,
            remedy=remedy,
        )
    if parser.problem:
        log.event(
            "parser", "warning", parser.IN_PYTHON, problem=parser.problem, remedy=parser.REMEDY
        )
    elif parser.is_python:
        log.event("parser", "info", parser.IN_PYTHON)
    _master = Master(arbiter, _loaded)


def when_ready(arbiter: Any) -> None:
    """Before the first worker: check all servers once, so that workers boot knowing the truth."""
    if privileges.are_workers_root(os.geteuid(), arbiter.cfg.uid):
        remedy = privileges.REMEDY_FOR_ROOT
        log.event("privileges", "warning", "workers run as root", remedy=remedy)
    _the_master().publish()


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Give the worker a slot: never that of a live one, of either generation."""
    master = _the_master()
    worker.slot = master.table.claim_slot(_live_slots(arbiter))
    if worker.slot < 0:
        log.event("master", "error", "no free slot, the worker's requests are not counted")


def post_fork(_arbiter: Any, worker: Any) -> None:
    """In the worker: let signals end it while it boots, and take possession of the slot."""
    for number in _ENDS_A_BOOTING_WORKER:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS_A_BOOTING_WORKER)
    master = _the_master()
    bequeath(Inheritance(master.table, worker.slot, master.own_form))
    slot = master.table.slot(worker.slot)
    slot[PID] = os.getpid()
    slot[GENERATION] = worker.age
    slot[STARTED_MS] = time.time_ns() // 1_000_000


def post_worker_init(_worker: Any) -> None:
    """In the worker, gevent is loaded: what it would print becomes log lines."""
    log.install_gevent()


def child_exit(_arbiter: Any, worker: Any) -> None:
    """In the master, a worker was reaped: nothing of it is in flight any more."""
    _the_master().table.release_slot(worker.slot)


def worker_exit(arbiter: Any, worker: Any) -> None:
    """In the worker that ends. Also in the master, for one that was gone before it could be killed."""
    if os.getpid() == arbiter.pid:
        child_exit(arbiter, worker)


def on_reload(_arbiter: Any) -> None:
    """At a HUP, when all else is ready and nothing is let go: make it the configuration in use."""
    assert _judged is not None
    master = _the_master()
    master.config = _judged
    if not master.publish():
        raise ConfigError([configuration.Problem("servers", "could not be published, see above")])


def pre_exec(arbiter: Any) -> None:
    """In the child that becomes the next master (USR2): hand the segment over."""
    fd = _the_master().table.fd
    os.set_inheritable(fd, True)
    # Arbiter.reexec builds the new master's environment from this after the hook.
    arbiter.cfg.env_orig[TABLE_FD] = str(fd)
    # "python -m gunicorn" is ".../gunicorn/__main__.py" in sys.argv. Executed like that, gunicorn's directory
    # comes first on the path, and its http package hides the standard library's in the next master.
    command = arbiter.START_CTX["args"]
    if command[1].endswith("/gunicorn/__main__.py"):
        command[1:2] = ["-m", "gunicorn"]


def on_exit(_arbiter: Any) -> None:
    """The workers are gone: end the control process."""
    _the_master().stop()


# --------------------------------------------------------------------------------------------------


class Master:
    """What the master keeps between two hooks."""

    __slots__ = (
        "_arbiter",
        "_control_pid",
        "_forked_at",
        "_gunicorns_manage_workers",
        "_has_served",
        "_is_failing",
        "_is_reload_due",
        "_newest_to_go",
        "_secret",
        "_spawn_at",
        "config",
        "freed",
        "table",
    )

    def __init__(self, arbiter: Any, config: Config) -> None:
        self._arbiter = arbiter
        self._control_pid = 0
        self._forked_at = -FORK_GAP_SECONDS
        self._is_failing = False
        self._has_served = False  # some worker has come to its loop
        self._newest_to_go = 0  # workers up to this age go when younger ones serve
        self._spawn_at = 0.0  # not before, after a worker that could not boot
        self._is_reload_due = False
        self.freed: set[int] = set()  # ports that a reload has let go
        self.config = config
        self.table = _inherited_table(arbiter.cfg.workers, config) or _new_table(
            arbiter.cfg.workers, config
        )
        self._secret = _secret_of(self.table) or MADE_HERE + secrets.token_hex(32)
        self._hook_into(arbiter)

    def refuse_misfit(self, config: Config) -> None:
        """ConfigError if the segment, whose size is fixed, has no room for this configuration."""
        if not self.table.fits(len(config.servers), len(self._published_form(config))):
            raise _no_room("servers", self.table.rows)
        room = (self.table.slots - 1) // 2  # the new ones boot beside the old ones
        if config.workers > room:
            raise _no_room("workers", room)

    def publish(self) -> bool:
        """Have the configuration's new servers checked, then make it the one that workers use."""
        blob = self.own_form()
        if self._owns() and self.table.published()[1] == blob:
            return True
        try:
            sequence = self.table.propose(blob, [identity_of(s.url) for s in self.config.servers])
        except TableError as error:
            log.event(
                "config", "error", "configuration not changed", path="servers", problem=str(error)
            )
            return False
        return self._wait_for_sweep(sequence) and self.table.publish(sequence)

    def _published_form(self, config: Config) -> bytes:
        return configuration.to_json(with_secret(config, self._secret))

    def own_form(self) -> bytes:
        """What this master would publish, whatever is published: its configuration, with the secret."""
        return self._published_form(self.config)

    def supervise(self) -> None:
        """At least once a second: there is exactly one control process, and it runs."""
        if not self._owns():
            if self._has_say_elsewhere():
                return
            self.publish()
        self._keep_control()
        self.table.release_dead_slots(_live_slots(self._arbiter))

    def stop(self) -> None:
        """End the control process: it goes when its master no longer owns the configuration."""
        if self._owns():
            self.table.cells[OWNER] = 0
        deadline = time.monotonic() + STOP_SECONDS
        while self._control_is_mine():
            if time.monotonic() > deadline:
                os.kill(self._control_pid, signal.SIGKILL)
                os.waitpid(self._control_pid, 0)
                return
            time.sleep(WAIT_STEP_SECONDS)

    def return_to(self, config: Config) -> None:
        """A reload has failed after it was published."""
        if self.config is not config:
            self.config = config
            self.publish()

    def has_room_to_reload(self) -> bool:
        """Whether there are slots for one set of workers more; if not, the reload waits for those that go."""
        is_possible = self.table.free_slots() >= self._arbiter.num_workers or not self._to_go()
        if not is_possible and not self._is_reload_due:
            log.event("config", "warning", "reload waits until workers of earlier ones have gone")
        self._is_reload_due = not is_possible
        return is_possible

    def renew_workers(self) -> None:
        """Start workers for what is in use now; those that are there go when the new ones serve."""
        arbiter = self._arbiter
        self._newest_to_go = arbiter.worker_age
        self._spawn_at = 0.0
        if any(map(_is_serving, self._to_go())):
            for worker in self._to_go():
                if not _is_serving(worker):  # of a reload that this one overtakes
                    self._let_go(worker)
        arbiter.manage_workers()

    def _to_go(self) -> list[Any]:
        workers = self._arbiter.WORKERS.values()
        return [worker for worker in workers if worker.age <= self._newest_to_go]

    def _let_go(self, worker: Any) -> None:
        """Once: another SIGTERM could meet a worker that has begun to end."""
        if not getattr(worker, "is_told_to_go", False):
            worker.is_told_to_go = True
            self._arbiter.kill_worker(worker.pid, signal.SIGTERM)

    def _manage_workers(self) -> None:
        """gunicorn's part, but that those of before a reload do not count, and serve until others do.

        gunicorn itself tells them to go before there are others, and waits for their end, deaf to all else.
        """
        arbiter = self._arbiter
        workers = list(arbiter.WORKERS.values())
        to_go = self._to_go()
        self._note_serving()
        if time.monotonic() < self._spawn_at:
            return
        if not to_go:
            self._gunicorns_manage_workers()
            return
        young = [worker for worker in workers if worker not in to_go]
        missing = arbiter.num_workers - len(young)
        for _ in range(missing):
            arbiter.spawn_worker()
        if missing <= 0 and all(map(_is_serving, young)):
            for worker in to_go:
                self._let_go(worker)

    def _note_serving(self) -> None:
        if not self._has_served:
            self._has_served = any(map(_is_serving, self._arbiter.WORKERS.values()))

    def _reap(self, reap_workers: Callable[[], None]) -> None:
        """gunicorn's part. A worker that cannot boot ends a start, but nothing that has ever served."""
        workers = self._arbiter.WORKERS
        self._note_serving()
        booting = [pid for pid, worker in workers.items() if not _is_serving(worker)]
        has_given_up = any(map(_has_given_up, booting))
        while True:
            try:
                reap_workers()
                break
            except HaltServer:
                if not self._has_served:
                    raise
            except Exception:  # a user's child_exit; the child itself is reaped
                logging.getLogger("master").exception("end of a worker not followed up")
        if has_given_up and self._has_served:
            self._spawn_at = time.monotonic() + RESPAWN_SECONDS
            serving = sum(map(_is_serving, workers.values()))
            log.event(
                "master", "error", "a worker could not boot, others serve on", serving=serving
            )

    def _hook_into(self, arbiter: Any) -> None:
        """Where gunicorn has no hook: now and then, around the fork of a worker, at its end, at signals."""
        self._gunicorns_manage_workers: Callable[[], None] = arbiter.manage_workers
        spawn_worker: Callable[[], int] = arbiter.spawn_worker

        def supervised() -> None:
            try:
                self.supervise()
                self._is_failing = False
            except Exception:  # else it would stop the master, and with it all that works
                if not self._is_failing:
                    logging.getLogger("control").exception("control process not supervised")
                self._is_failing = True
            # Workers are forked in here and never return: nothing may be caught around it.
            if self._is_reload_due:
                reload(arbiter)
            self._manage_workers()

        def undisturbed() -> int:
            # The child unblocks them in post_fork, when it has handlers of its own.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS_A_BOOTING_WORKER)
            try:
                return spawn_worker()
            except Exception:
                if os.getpid() != arbiter.pid or not self._has_served:
                    raise
                logging.getLogger("master").exception("worker not started")
                self._spawn_at = time.monotonic() + RESPAWN_SECONDS
                return 0
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        reexec: Callable[[], None] = arbiter.reexec

        def executed() -> None:
            try:
                reexec()
            except (Exception, SystemExit):
                # Where the child goes on as a second master of our workers, gunicorn ends them all.
                logging.getLogger("master").exception("the next master could not be executed")
                if os.getpid() != arbiter.pid:
                    os._exit(EX_FAILED)

        arbiter.manage_workers = supervised
        arbiter.spawn_worker = undisturbed
        arbiter.reap_workers = partial(self._reap, arbiter.reap_workers)
        arbiter.reexec = executed
        arbiter.reload = partial(reload, arbiter)

    def _owns(self) -> bool:
        return self.table.cells[OWNER] == os.getpid()

    def _has_say_elsewhere(self) -> bool:
        """Whether the owner is a master of another generation that lives: our parent or our child.

        Asked this way a reused pid cannot pass for it. 0: the owner has ended and said so.
        """
        owner = self.table.cells[OWNER]
        return owner != 0 and owner in (self._arbiter.reexec_pid, os.getppid())

    def _wait_for_sweep(self, sequence: int) -> bool:
        """Whether to go on: in time or not, but not if a signal waits that ends the master."""
        check = self.config.health_check
        deadline = time.monotonic() + SWEEP_SLACK_SECONDS + (check.timeout if check else 0.0)
        while self.table.cells[CHECKED] < sequence:
            if time.monotonic() > deadline:
                log.event("control", "error", "first checks not finished in time, going on without")
                return True
            if self._is_told_to_end():
                log.event("control", "info", "told to stop, first checks not waited for")
                return False
            self._keep_control()
            time.sleep(WAIT_STEP_SECONDS)
        return True

    def _is_told_to_end(self) -> bool:
        """Whether such a signal is in gunicorn's queue; all that is there stays."""
        queue = self._arbiter.SIG_QUEUE
        waiting = [queue.get_nowait() for _ in range(queue.qsize())]
        for number in waiting:
            queue.put_nowait(number)
        return not _ENDS_THE_MASTER.isdisjoint(waiting)

    def _keep_control(self) -> None:
        holder = self.table.controller()
        now = time.monotonic()
        if holder:
            if now - self.table.cells[HEARTBEAT] / 1000 > HANG_SECONDS:
                log.event("control", "error", "control process hangs, killing it", pid=holder)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGKILL)
        elif now - self._forked_at >= FORK_GAP_SECONDS:
            self._forked_at = now
            self._fork_control()

    def _fork_control(self) -> None:
        """Start a control process, and wait until it has its lock, so that no second one is started."""
        reader, writer = os.pipe()
        # A signal between fork and the child's own handlers would be queued in its copy of the arbiter.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                self._be_control(writer)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
        self._control_pid = pid
        has_answered = bool(select.select([reader], [], [], LOCK_SECONDS)[0])
        os.close(reader)
        if not has_answered:
            os.kill(pid, signal.SIGKILL)

    def _be_control(self, ready: int) -> None:
        """In the child; never returns."""
        try:
            _drop_masters_things(self._arbiter)
            cfg = self._arbiter.cfg
            # As workers do: with --user only the master keeps what it was started as.
            gunicorn_util.set_owner_process(cfg.uid, cfg.gid, initgroups=cfg.initgroups)
            from app.control import process

            process.run(self.table, ready)
        except BaseException:  # nothing may climb into the master's stack
            logging.getLogger("control").exception("control process failed")
        finally:
            os._exit(0)

    def _control_is_mine(self) -> bool:
        """Whether the control process is a living child of ours; reaps it if it has just ended."""
        try:
            return bool(self._control_pid) and os.waitpid(self._control_pid, os.WNOHANG)[0] == 0
        except ChildProcessError:  # gunicorn reaps every child it is told of
            return False


def _the_master() -> Master:
    assert _master is not None, "no on_starting hook ran"
    return _master


def _no_room(path: str, room: int) -> ConfigError:
    message = f"too many for a reload (room for {room}); restart instead"
    return ConfigError((configuration.Problem(path, message),))


def _live_slots(arbiter: Any) -> frozenset[int]:
    return frozenset(getattr(worker, "slot", -1) for worker in arbiter.WORKERS.values())


def _is_serving(worker: Any) -> bool:
    """Whether a worker has come to its loop: it has beaten, in the clock of beats and not in a file's."""
    try:
        return bool(worker.tmp.last_update() <= time.monotonic())
    except (OSError, ValueError):  # closed: it is gone
        return False


def _has_given_up(pid: int) -> bool:
    """Whether a child has ended by its own doing, and not well; it is left to be reaped."""
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return end is not None and end.si_code == os.CLD_EXITED and end.si_status != 0


def _secret_of(table: Table) -> str | None:
    """The secret that an earlier master has made."""
    try:
        sticky = configuration.from_json(table.published()[1]).sticky
    except ConfigError:  # nothing yet, or another release's that we cannot read
        return None
    if sticky is None or sticky.secret is None or not sticky.secret.startswith(MADE_HERE):
        return None
    return sticky.secret


def _new_table(workers: int, config: Config) -> Table:
    """With room to grow by a reload. Two generations of workers overlap at each HUP, and at USR2 too."""
    return Table.create(
        rows=max(MIN_ROWS, 4 * len(config.servers)),
        slots=4 * workers + 16,
        blob_bytes=max(MIN_BLOB_BYTES, 4 * len(configuration.to_json(config))),
    )


def _inherited_table(workers: int, config: Config) -> Table | None:
    """The segment of the master that executed us (USR2), if it is one that we can go on with."""
    fd = os.environ.pop(TABLE_FD, None)
    if fd is None or "GUNICORN_PID" not in os.environ:
        return None
    try:
        table = Table.attach(int(fd))
    except (ValueError, TableError) as error:
        problem = str(error)
    else:
        blob = configuration.to_json(config)
        if table.fits(len(config.servers), len(blob)) and table.free_slots() >= 2 * workers:
            return table
        problem = "it is too small"
        os.close(table.fd)
    log.event("master", "warning", "the old master's table is left behind", problem=problem)
    return None


def _drop_masters_things(arbiter: Any) -> None:
    """Let go of what only the master and workers may hold: a listening socket would stay bound with us."""
    for number in _IGNORED_BY_CONTROL:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for listener in arbiter.LISTENERS:
        listener.sock.close()
    for worker in arbiter.WORKERS.values():
        worker.tmp.close()


def _adopt(config: Config) -> None:
    global _loaded
    for problem in configuration.warnings(config):
        log.event("config", "warning", str(problem), path=problem.path, problem=problem.message)
    _loaded = config
    log.set_redact(config.logging.redact)


def _report(error: ConfigError) -> None:
    for problem in error.problems:
        log.event("config", "error", str(problem), path=problem.path, problem=problem.message)
        if _loaded is None:  # a person has just typed the command; later only the log is read
            sys.stderr.write(f"{problem}\n")
    sys.stderr.flush()
