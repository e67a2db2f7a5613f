"""The workers as their master sees them: forked, serving, told to go when younger ones serve.

Owns what gunicorn does otherwise at a reload, at the fork of a worker and at its end: it would tell the old
workers to go before there are others, and end the whole balancer for one worker that cannot boot. Runs in the
master, between gunicorn's own steps, in the place of methods of its Arbiter. Must never know the table or the
configuration.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from gunicorn.errors import HaltServer

from app.master.wakefulness import PAUSE_SECONDS, Wakefulness
from app.shared.layout import GOES, WISHES_TO_GO
from app.telemetry import log

# A worker that is still importing has gunicorn's own handlers, which queue a signal for the master that it
# is no more: such a SIGTERM was lost, and the master waited graceful_timeout for that worker.
ENDS_A_BOOTING_WORKER = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

# A worker that could not boot has left a traceback, and half a second of a processor. Not in a tight loop.
RESPAWN_SECONDS = 2.0
# How often a stop looks whose process has ended, as gunicorn does.
REAP_SECONDS = 0.1


class Workers:
    """The workers of one master, those of before a reload and those of after it.

    ``leaving(slot)`` is what the worker of a slot says of itself: STAYS, WISHES_TO_GO or GOES.
    """

    __slots__ = (
        "_arbiter",
        "_awake",
        "_given",
        "_gunicorns_kill",
        "_gunicorns_manage",
        "_gunicorns_murder",
        "_gunicorns_reap",
        "_gunicorns_spawn",
        "_has_served",
        "_leaving",
        "_newest_to_go",
        "_reaped_at",
        "_spawn_at",
    )

    def __init__(self, arbiter: Any, leaving: Callable[[int], int]) -> None:
        self._arbiter = arbiter
        self._leaving = leaving
        self._awake = Wakefulness()
        self._gunicorns_manage: Callable[[], None] = arbiter.manage_workers
        self._gunicorns_murder: Callable[[], None] = arbiter.murder_workers
        self._gunicorns_kill: Callable[[int], None] = arbiter.kill_workers
        # Of a stop: how long its workers have had since they were told, as far as the master was awake.
        self._given = float("inf")
        self._reaped_at = 0.0
        self._gunicorns_spawn: Callable[[], int] = arbiter.spawn_worker
        self._gunicorns_reap: Callable[[], None] = arbiter.reap_workers
        self._has_served = False  # some worker has come to its loop
        self._newest_to_go = 0  # workers up to this age go when younger ones serve
        self._spawn_at = 0.0  # not before, after a worker that could not boot

    def __repr__(self) -> str:
        return f"<Workers {len(self._arbiter.WORKERS)}, of which {len(self.to_go())} are to go>"

    def slots(self) -> frozenset[int]:
        """The slots that living workers of this master have."""
        return frozenset(getattr(worker, "slot", -1) for worker in self._arbiter.WORKERS.values())

    def to_go(self) -> list[Any]:
        """Those of before the last reload, those that are going, and one of those that wish to.

        One, and none while as many are going as there should be: requests can use up workers faster than
        their last clients leave them.
        """
        workers = list(self._arbiter.WORKERS.values())
        going = [worker for worker in workers if self._has_to_go(worker)]
        if len(going) < self._arbiter.num_workers:
            staying = (worker for worker in workers if worker not in going)
            going += [one for one in staying if self._said_by(one) == WISHES_TO_GO][:1]
        return going

    def renew(self) -> None:
        """Start workers for what is in use now; those that are there go when the new ones serve."""
        arbiter = self._arbiter
        self._newest_to_go = arbiter.worker_age
        self._spawn_at = 0.0
        if any(map(_is_serving, self.to_go())):
            for worker in self.to_go():
                if not _is_serving(worker):  # of a reload that this one overtakes
                    self._let_go(worker)
        arbiter.manage_workers()

    def manage(self) -> None:
        """In the place of Arbiter.manage_workers: old workers do not count, and serve until new ones do.

        gunicorn itself tells them to go before there are others, and counts those that are going: where they
        have clients to wait for, it would be short of workers for so long.
        """
        arbiter = self._arbiter
        to_go = self.to_go()
        self._note_serving()
        if time.monotonic() < self._spawn_at:
            return
        young = [worker for worker in arbiter.WORKERS.values() if worker not in to_go]
        surplus = len(young) - arbiter.num_workers
        if not to_go and surplus <= 0:
            self._gunicorns_manage()
            return
        for _ in range(-surplus):
            arbiter.spawn_worker()
        if surplus >= 0:
            young.sort(key=lambda worker: worker.age)
            if all(map(_is_serving, young[surplus:])):
                for worker in (*to_go, *young[:surplus]):
                    self._let_go(worker)

    def looked(self) -> None:
        """The master goes to sleep for a second now, and means to wake up then."""
        self._awake.looked(time.monotonic())

    def murder(self) -> None:
        """In the place of Arbiter.murder_workers: who has slept itself lets workers beat before it judges."""
        awake = self._awake.seconds(time.monotonic())
        if self._awake.pause:
            log.event(
                "master",
                "warning",
                "the master has not run for a while, workers have a fresh time for their beats",
                pause_ms=round(self._awake.pause * 1000),
            )
        if awake > self._arbiter.timeout:
            self._gunicorns_murder()

    def kill(self, number: int) -> None:
        """In the place of Arbiter.kill_workers, which a stop calls with SIGTERM, and with SIGKILL at its end.

        gunicorn measures the time between by the wall clock. Where that was set meanwhile, or all slept for a
        while, workers have not had it; they get the rest.
        """
        if number == signal.SIGTERM:
            self._given, self._reaped_at = 0.0, time.monotonic()
        elif number == signal.SIGQUIT:
            self._given = float("inf")
        elif number == signal.SIGKILL:
            while self._arbiter.WORKERS and self._given < self._arbiter.cfg.graceful_timeout:
                time.sleep(REAP_SECONDS)
                self.reap()
        self._gunicorns_kill(number)

    def spawn(self) -> int:
        """In the place of Arbiter.spawn_worker: signals wait, and a failure ends nothing that serves."""
        # The child unblocks them in post_fork, when it has handlers of its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS_A_BOOTING_WORKER)
        try:
            return self._gunicorns_spawn()
        except Exception:
            if os.getpid() != self._arbiter.pid or not self._has_served:
                raise
            logging.getLogger("master").exception("worker not started")
            self._spawn_at = time.monotonic() + RESPAWN_SECONDS
            return 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def reap(self) -> None:
        """In the place of Arbiter.reap_workers: who cannot boot ends a start, but nothing that has served."""
        workers = self._arbiter.WORKERS
        now = time.monotonic()
        if now - self._reaped_at <= PAUSE_SECONDS:
            self._given += now - self._reaped_at
        self._reaped_at = now
        self._note_serving()
        booting = [pid for pid, worker in workers.items() if not _is_serving(worker)]
        has_given_up = any(map(_has_given_up, booting))
        while True:
            try:
                self._gunicorns_reap()
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

    def _let_go(self, worker: Any) -> None:
        """Once: another SIGTERM could meet a worker that has begun to end."""
        if not getattr(worker, "is_told_to_go", False) and self._said_by(worker) != GOES:
            worker.is_told_to_go = True
            self._arbiter.kill_worker(worker.pid, signal.SIGTERM)

    def _has_to_go(self, worker: Any) -> bool:
        if worker.age <= self._newest_to_go or getattr(worker, "is_told_to_go", False):
            return True
        return self._said_by(worker) == GOES

    def _said_by(self, worker: Any) -> int:
        return self._leaving(getattr(worker, "slot", -1))

    def _note_serving(self) -> None:
        if not self._has_served:
            self._has_served = any(map(_is_serving, self._arbiter.WORKERS.values()))


def let_signals_end_it() -> None:
    """In a worker that was just forked: what ``spawn`` has blocked ends it while it boots."""
    for number in ENDS_A_BOOTING_WORKER:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS_A_BOOTING_WORKER)


def let_orphan_drain(worker: Any) -> None:
    """In a worker of gunicorn's own class (-k gevent): without its master it finishes what is in flight.

    Its ``notify`` would end the process at once; its loop drains when it is not ``alive``.
    """

    def notify() -> None:
        worker.tmp.notify()
        if worker.alive and os.getppid() != worker.ppid:
            log.event("worker", "warning", "the master is gone, this worker drains", pid=worker.pid)
            worker.alive = False

    worker.notify = notify


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
