"""The life of the control process: the one child of the master that is not a worker, and judges the servers.

1. The master forks it, and forks another whenever nobody holds the control lock.
2. It takes that lock, tells the master through a pipe, and ends at once where another has the lock: at any
   time there is one (docs/decisions/0002-control-process-holds-a-record-lock.md).
3. It patches the standard library for gevent, which the master never does: everything that needs gevent is
   imported after that, inside of functions.
4. Twenty times a second it shows that it is alive (the heartbeat cell), takes over the configuration that
   the master has proposed last, as soon as its names are looked up (app.control.names), and gives each of
   those that judge by the table their turn. Health checks run beside that, in greenlets of their own
   (app.control.health.checker).
5. It ends when its master is gone, or when the master of another release owns the configuration. What it
   knows is in the table: its successor goes on with that.

Must never know how servers are checked, or what makes one unfit (app.control.health, app.control.outliers).
"""

from __future__ import annotations

import os
import time

from app.config import Config, ConfigError, from_json
from app.shared import descriptors, publication
from app.shared.layout import HEARTBEAT, OWNER, PROPOSED
from app.shared.table import Table
from app.shared.ticks import Ticks
from app.telemetry import log

# How soon a proposal, a new owner or the master's death is noticed; 20 looks a second cost 0.1 % CPU.
FOLLOW_SECONDS = 0.05


def run(table: Table, ready: int) -> None:
    """Be the control process until the master is gone or no longer owns the configuration.

    ``ready`` is the end of a pipe that the master reads: one byte says that this process has the control
    lock, the pipe's end without it that another has.
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
    # Before the imports of what it patches. The master has gevent in memory, since gunicorn imports the
    # worker class there, but has never patched anything nor made a hub.
    from gevent import monkey

    monkey.patch_all()
    from app.telemetry.interpreter import install_gevent

    install_gevent()
    _watch(table, master)


def _watch(table: Table, master: int) -> None:
    """Judge the servers of the newest proposal, again and again, until it is time to end."""
    import gevent

    from app.control.health.checker import Checker, checks
    from app.control.health.panic_log import PanicLog
    from app.control.health.slow_start import SlowStart
    from app.control.names import Names
    from app.control.outliers.ejector import Ejector
    from app.control.outliers.stall_detector import StallDetector

    descriptors.raise_limit()
    log.event("control", "info", "control process started", pid=os.getpid(), master_pid=master)
    slow_start = SlowStart(table)
    names = Names(table)
    checker = Checker(table, slow_start, checks(names.place))
    names.on_change = checker.hasten
    ejector = Ejector(table, checker.hasten, slow_start)
    stall_detector = StallDetector(table, ejector, checker.question)
    panic_log = PanicLog(table)
    ticks: Ticks[int] = Ticks()
    for judge in (ejector, stall_detector, slow_start, panic_log):
        ticks.add(judge.tick)
    seen = 0
    waiting: tuple[int, Config] | None = None  # a proposal whose names are being looked up
    # A predecessor may have been killed between a change and its bump.
    table.bump()
    while os.getppid() == master == table.cells[OWNER]:
        _beat(table)
        if table.cells[PROPOSED] != seen:
            seen, config = proposal(table)
            if config is not None:
                names.adopt(config)
                waiting = seen, config
        if waiting is not None and names.is_settled():
            sequence, adopting = waiting
            waiting = None
            slow_start.adopt(adopting)
            checker.adopt(sequence, adopting)
            ejector.adopt(adopting)
            stall_detector.adopt(adopting)
            panic_log.adopt(adopting)
        ticks.run(time.monotonic_ns() // 1_000_000)
        log.stdout().flush()
        gevent.sleep(FOLLOW_SECONDS)
    reason = "stopped" if os.getppid() == master else "master_gone"
    log.event("control", "info", "control process stopped", pid=os.getpid(), reason=reason)


def proposal(table: Table) -> tuple[int, Config | None]:
    """The sequence and the configuration of what the master has proposed last.

    The configuration is None, and a log line says why, where this release cannot read it: it is that of a
    master of another release, which starts a control process of its own. Until then this one goes on with
    the servers it has. Nothing of the proposal was checked, so it is not acknowledged.
    """
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
    """Show the master that this process does not hang."""
    table.cells[HEARTBEAT] = time.monotonic_ns() // 1_000_000


def _rename() -> None:
    """Have a name in ps and top that tells this process from workers."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write("lb-control")
    except OSError:
        pass
