"""The control process: the one child of the master that is not a worker. It checks the servers' health.

Owns the life of that process after the fork: becoming the only one, following the configuration that the
master proposes, and ending with its master. Under gevent from its first import on; nothing here is ever
imported by the master. Must never know how checks are made or what they mean (app.control.health).
"""

from __future__ import annotations

import os
import time

from app.config import Config, ConfigError, from_json
from app.shared import publication
from app.shared.layout import HEARTBEAT, OWNER, PROPOSED
from app.shared.table import Table

# How soon a proposal, a new owner or the master's death is noticed; 20 wake-ups a second cost 0.1 % CPU.
FOLLOW_SECONDS = 0.05


def run(table: Table, ready: int) -> None:
    """Be the control process until the master is gone or no longer owns the configuration.

    ``ready`` is a pipe: one byte says that the control lock is taken, its end that another has it.
    """
    master = os.getppid()
    try:
        if not table.take_control():
            return
        _beat(table)
        _rename()
        os.write(ready, b"1")
    finally:
        os.close(ready)
    # Before all imports that it has to patch. The master has gevent in memory, since gunicorn imports the
    # worker class there, but has never patched anything nor made a hub.
    from gevent import monkey

    monkey.patch_all()
    from app.telemetry.interpreter import install_gevent

    install_gevent()
    _watch(table, master)


def _watch(table: Table, master: int) -> None:
    import gevent

    from app.control.health.checker import Checker
    from app.control.health.panic import PanicLog
    from app.control.health.slow_start import SlowStart
    from app.control.outliers.ejector import Ejector
    from app.control.outliers.stall_detector import StallDetector
    from app.shared.ticks import Ticks
    from app.telemetry import log

    # Look-ups of names run in threads; a few names that hang must not keep the others waiting.
    gevent.get_hub().threadpool.maxsize = 64
    _raise_descriptor_limit()
    log.event("control", "info", "control process started", pid=os.getpid(), master_pid=master)
    slow_start = SlowStart(table)
    checker = Checker(table, slow_start)
    ejector = Ejector(table, checker.hasten, slow_start)
    staller = StallDetector(table, ejector, checker.question)
    panic_log = PanicLog(table)
    ticks: Ticks[int] = Ticks()
    for function in (ejector.tick, staller.tick, slow_start.tick, lambda _: panic_log.tick()):
        ticks.add(function)
    adopted = 0
    # A predecessor may have been killed between a change and its bump.
    table.bump()
    while os.getppid() == master == table.cells[OWNER]:
        _beat(table)
        if table.cells[PROPOSED] != adopted:
            adopted, adopting = proposal(table)
            if adopting is not None:
                slow_start.adopt(adopting)
                checker.adopt(adopted, adopting)
                ejector.adopt(adopting)
                staller.adopt(adopting)
                panic_log.adopt(adopting)
        ticks.run(time.monotonic_ns() // 1_000_000)
        log.stdout().flush()
        gevent.sleep(FOLLOW_SECONDS)
    reason = "stopped" if os.getppid() == master else "master_gone"
    log.event("control", "info", "control process stopped", pid=os.getpid(), reason=reason)


def proposal(table: Table) -> tuple[int, Config | None]:
    """The proposal's sequence and configuration; None, and a log line, if it cannot be read here.

    Then it is of a master of another release, which starts a control process of its own, and what we have
    is checked until we step down. It is not acknowledged: nothing of it was checked.
    """
    from app.telemetry import log

    sequence, blob = publication.proposed(table)
    try:
        return sequence, from_json(blob)
    except ConfigError as error:
        log.event(
            "control",
            "error",
            "proposed configuration cannot be read, the one in use stays",
            sequence=sequence,
            problems=[str(problem) for problem in error.problems],
        )
        return sequence, None


def _beat(table: Table) -> None:
    table.cells[HEARTBEAT] = time.monotonic_ns() // 1_000_000


def _raise_descriptor_limit() -> None:
    """As many sockets as the administrator allows: 1,024, the usual soft limit, is one for each server."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _rename() -> None:
    """Be told apart from workers in ps and top."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write("lb-control")
    except OSError:
        pass
