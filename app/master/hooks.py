"""The hooks that gunicorn.conf.py names, in the order in which gunicorn calls them.

Owns the one Master of this process: in this module, because gunicorn.conf.py is executed again at every HUP
and this is not. Runs in gunicorn's master, between its own steps, but for the hooks that say "in the worker".
Decides nothing: app.master.supervisor does.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from app import compiled
from app.config import Config, ConfigError
from app.master import file_modes, gunicorn_settings, preflight, privileges, segment
from app.master.exit_status import EX_CONFIG
from app.master.supervisor import Master
from app.master.workers import let_orphan_drain, let_signals_end_it
from app.shared.inherited import Inheritance, bequeath
from app.shared.layout import GENERATION, PID, STARTED_MS
from app.telemetry import log
from app.telemetry.interpreter import install_gevent
from app.tls import clients as tls
from app.tls.tickets import Tickets
from app.wire import parser

_GUNICORNS_GEVENT = "gunicorn.workers.ggevent"

_master: Master | None = None


def ssl_context(_config: Any, _default: Any) -> Any:
    """For gunicorn's own handlers: the same TLS as ours, but its files are read once."""
    config = preflight.in_use()
    assert config.tls is not None
    return tls.certificates(config.tls, False, Tickets.for_sockets(_the_master().table)).context


def on_starting(arbiter: Any) -> None:
    """Make or take over the segment, before there is a listening socket or a child."""
    global _master
    config = preflight.in_use()
    _settle(arbiter, config)
    if remedy := privileges.remedy_for_port(config.port):
        log.event("privileges", "error", "port needs a privilege", port=config.port, remedy=remedy)
    _say_what_runs()
    _master = Master(arbiter, config)
    tls.prepare(config)


def when_ready(arbiter: Any) -> None:
    """Before the first worker: check all servers once, so that workers boot knowing the truth."""
    if privileges.are_workers_root(os.geteuid(), arbiter.cfg.uid):
        remedy = privileges.REMEDY_FOR_ROOT
        log.event("privileges", "warning", "workers run as root", remedy=remedy)
    _say_what_workers_cannot_read(arbiter, preflight.in_use())
    _the_master().publish()


def pre_fork(_arbiter: Any, worker: Any) -> None:
    """Give the worker a slot: never that of a live one, of either generation."""
    worker.slot = _the_master().claim_slot()
    if worker.slot < 0:
        log.event("master", "error", "no free slot, the worker's requests are not counted")


def post_fork(_arbiter: Any, worker: Any) -> None:
    """In the worker: let signals end it while it boots, and take possession of the slot."""
    let_signals_end_it()
    master = _the_master()
    bequeath(Inheritance(master.table, worker.slot, master.own_form))
    slot = master.table.slot(worker.slot)
    slot[PID] = os.getpid()
    slot[GENERATION] = worker.age
    slot[STARTED_MS] = time.time_ns() // 1_000_000


def post_worker_init(worker: Any) -> None:
    """In the worker, gevent is loaded: what it would print becomes log lines."""
    install_gevent()
    if type(worker).__module__ == _GUNICORNS_GEVENT:
        let_orphan_drain(worker)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """In the master, a worker was reaped: nothing of it is in flight any more."""
    _the_master().release_slot(worker.slot)


def worker_exit(arbiter: Any, worker: Any) -> None:
    """In the worker that ends. Also in the master, for one that was gone before it could be killed."""
    if os.getpid() == arbiter.pid:
        child_exit(arbiter, worker)


def on_reload(arbiter: Any) -> None:
    """At a HUP, when all else is ready and nothing is let go: make it the configuration in use."""
    _say_what_workers_cannot_read(arbiter, preflight.judged())
    tls.prepare(preflight.judged())
    _the_master().take_up(preflight.judged())


def pre_exec(arbiter: Any) -> None:
    """In the child that becomes the next master (USR2): hand the segment over."""
    # Arbiter.reexec builds the new master's environment from this after the hook.
    segment.hand_over(_the_master().table, arbiter.cfg.env_orig)
    # "python -m gunicorn" is ".../gunicorn/__main__.py" in sys.argv. Executed like that, gunicorn's directory
    # comes first on the path, and its http package hides the standard library's in the next master.
    command = arbiter.START_CTX["args"]
    if command[1].endswith("/gunicorn/__main__.py"):
        command[1:2] = ["-m", "gunicorn"]


def on_exit(_arbiter: Any) -> None:
    """The workers are gone: end the control process."""
    _the_master().stop()


def _the_master() -> Master:
    assert _master is not None, "no on_starting hook ran"
    return _master


def _settle(arbiter: Any, config: Config) -> None:
    """End the start where gunicorn's settings are not for us; say which do nothing."""
    try:
        gunicorn_settings.require(arbiter.cfg, config)
    except ConfigError as error:
        preflight.report(error)
        if arbiter.pidfile is not None:
            arbiter.pidfile.unlink()
        sys.exit(EX_CONFIG)
    gunicorn_settings.warn(arbiter.cfg, config)


def _say_what_runs() -> None:
    """Log whether the request path is compiled and who reads request heads, where that is not the usual."""
    if compiled.is_used:
        log.event("compiled", "info", "the request path is compiled")
    elif compiled.problem:
        log.event(
            "compiled",
            "warning",
            "the request path is not compiled",
            problem=compiled.problem,
            remedy="make compile, or remove app/_compiled",
        )
    if parser.problem:
        log.event(
            "parser", "warning", parser.IN_PYTHON, problem=parser.problem, remedy=parser.REMEDY
        )
    elif parser.is_python:
        log.event("parser", "info", parser.IN_PYTHON)


def _say_what_workers_cannot_read(arbiter: Any, config: Config) -> None:
    """Log the files that we can read and they, as another user (--user), could not."""
    uid, gid = arbiter.cfg.uid, arbiter.cfg.gid
    if uid == os.geteuid():
        return
    groups = privileges.groups_of_workers(uid, gid, arbiter.cfg.initgroups)
    for problem in file_modes.unreadable(config, uid, groups):
        log.event("privileges", "error", str(problem), path=problem.path, problem=problem.message)
