"""The control process as its master sees it: there is exactly one, and it beats.

Owns starting it, finding out that it hangs, and ending it. Runs in the master, between gunicorn's own steps;
``_be_control`` runs in the child, right after the fork. Must never know what is checked (app.control).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from typing import Any

from gunicorn import util as gunicorn_util

from app.master.wakefulness import Wakefulness
from app.shared.layout import HEARTBEAT
from app.shared.table import Table
from app.telemetry import log

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


class ControlProcess:
    """Starts, watches and ends the control process of one master."""

    __slots__ = ("_arbiter", "_awake", "_forked_at", "_pid", "_table")

    def __init__(self, arbiter: Any, table: Table) -> None:
        self._arbiter = arbiter
        self._table = table
        self._awake = Wakefulness()
        self._pid = 0
        self._forked_at = -FORK_GAP_SECONDS

    def __repr__(self) -> str:
        return f"<ControlProcess pid={self._pid}, lock held by {self._table.controller()}>"

    def keep(self) -> None:
        """Start one if there is none; kill one that hangs, whosever child it is."""
        holder = self._table.controller()
        now = time.monotonic()
        awake = self._awake.seconds(now)
        if holder:
            silent = now - self._table.cells[HEARTBEAT] / 1000
            if min(silent, awake) > HANG_SECONDS:
                log.event("control", "error", "control process hangs, killing it", pid=holder)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGKILL)
        elif now - self._forked_at >= FORK_GAP_SECONDS:
            self._forked_at = now
            self.note_end()  # in a wait for first checks nobody has reaped it yet
            self._fork()

    def note_end(self) -> None:
        """Before gunicorn reaps its children: say it where somebody has killed the control process."""
        if not self._pid:  # none was forked yet: waitid would refuse the question
            return
        try:
            end = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if end is not None and end.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
            name = signal.Signals(end.si_status).name
            log.event(
                "control", "warning", "control process was killed", pid=self._pid, signal=name
            )

    def end(self) -> None:
        """Wait for its end, which comes when its master owns the configuration no more; kill it at last."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._is_our_living_child():
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(WAIT_STEP_SECONDS)

    def _fork(self) -> None:
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
        self._pid = pid
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

            process.run(self._table, ready)
        except BaseException:  # nothing may climb into the master's stack
            logging.getLogger("control").exception("control process failed")
        finally:
            os._exit(0)

    def _is_our_living_child(self) -> bool:
        """Reaps it if it has just ended."""
        try:
            return bool(self._pid) and os.waitpid(self._pid, os.WNOHANG)[0] == 0
        except ChildProcessError:  # gunicorn reaps every child it is told of
            return False


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
