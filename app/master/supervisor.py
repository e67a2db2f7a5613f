"""The master itself: what it keeps between two of gunicorn's hooks, and how it publishes and reloads.

Owns the configuration that this master stands for and its way to all processes: propose it, have the control
process check its new servers, publish it. Runs in the master between gunicorn's own steps: one thread, no
gevent, no requests, no I/O but files and log lines. Must never know what a check or a request is.

gunicorn has no periodic hook; ``Arbiter.manage_workers`` runs at least once a second and right after a
child's death, so supervision is done there. When two generations of masters are alive (USR2), the one
that proposed a configuration last owns the control process; the other looks on until that one is gone.
How a HUP gets from one set of gunicorn's settings to the next is app.master.reload's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from app import config as configuration
from app.config import Config, ConfigError
from app.config.secrets import with_secret
from app.master import preflight, reload, segment
from app.master.control_process import WAIT_STEP_SECONDS, ControlProcess
from app.master.exit_status import EX_FAILED
from app.master.workers import Workers
from app.shared import publication, slots, ticket_keys
from app.shared.layout import CHECKED, OWNER
from app.shared.table import TableError, identity_of
from app.telemetry import log

# What the first sweep may take beside the check's own timeout: fork, imports, a thousand starts, and 2 s for
# names to be looked up.
SWEEP_SLACK_SECONDS = 5.0

_ENDS_THE_MASTER = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))


class Master:
    """What the master keeps between two hooks."""

    __slots__ = (
        "_arbiter",
        "_control",
        "_freed",
        "_is_failing",
        "_is_reload_due",
        "_secret",
        "_workers",
        "config",
        "table",
    )

    def __init__(self, arbiter: Any, config: Config) -> None:
        self._arbiter = arbiter
        self._is_failing = False
        self._is_reload_due = False
        self._freed: set[int] = set()  # ports that a reload has let go
        self.config = config
        self.table = segment.make_or_inherit(arbiter.cfg.workers, config)
        self._renew_ticket_keys()
        self._secret = segment.secret_for(self.table)
        self._control = ControlProcess(arbiter, self.table)
        self._workers = Workers(arbiter, lambda slot: slots.leaving(self.table, slot))
        self._hook_into(arbiter)

    def __repr__(self) -> str:
        return f"<Master of {self._workers!r}, {self.table!r}>"

    def publish(self) -> bool:
        """Have the configuration's new servers checked, then make it the one that workers use."""
        blob = self.own_form()
        if self._owns() and publication.published(self.table)[1] == blob:
            return True
        identities = [identity_of(server.url) for server in self.config.servers]
        try:
            sequence = publication.propose(self.table, blob, identities)
        except TableError as error:
            log.event(
                "config", "error", "configuration not changed", path="servers", problem=str(error)
            )
            return False
        return self._wait_for_sweep(sequence) and publication.publish(self.table, sequence)

    def own_form(self) -> bytes:
        """What this master would publish, whatever is published: its configuration, with the secret."""
        return self._published_form(self.config)

    def claim_slot(self) -> int:
        """A slot for a worker about to be forked, never a live one's of any master; -1 if none is free."""
        return slots.claim(self.table, self._workers.slots())

    def release_slot(self, number: int) -> None:
        """Take back the slot of a worker that was reaped: nothing of it is in flight any more."""
        slots.release(self.table, number)

    def supervise(self) -> None:
        """At least once a second: there is exactly one control process, and it runs."""
        if not self._owns():
            if self._has_say_elsewhere():
                return
            self.publish()
        self._renew_ticket_keys()
        self._control.keep()
        slots.release_dead(self.table, self._workers.slots())

    def reload(self) -> None:
        """What HUP does. Whatever is wrong, and whatever raises, leaves all as it was: it serves on."""
        if not self._has_room_to_reload():
            return
        path = configuration.path_from(os.environ)
        try:
            config, finish = self._take_over(path)
        except ConfigError as error:
            preflight.report(error)
            log.event(
                "config", "error", "configuration not changed, the last good one stays", file=path
            )
            return
        except BaseException:  # it would end the master; no signal raises anything here
            logging.getLogger("config").exception("reload failed")
            return
        preflight.adopt(config)
        try:
            finish()
        except Exception:
            logging.getLogger("config").exception("reload not finished, going on with new workers")
        self._workers.renew()  # forks: nothing may be caught around it

    def take_up(self, config: Config) -> None:
        """In a reload, when all else is ready and nothing is let go: make it the configuration in use."""
        self.config = config
        if not self.publish():
            raise ConfigError(
                [configuration.Problem("servers", "could not be published, see above")]
            )

    def stop(self) -> None:
        """End the control process: it goes when its master no longer owns the configuration."""
        if self._owns():
            self.table.cells[OWNER] = 0
        self._control.end()

    def _hook_into(self, arbiter: Any) -> None:
        """Where gunicorn has no hook: now and then, around the fork of a worker, at its end, at signals."""
        reexec: Callable[[], None] = arbiter.reexec

        def executed() -> None:
            try:
                reexec()
            except (Exception, SystemExit):
                # Where the child goes on as a second master of our workers, gunicorn ends them all.
                logging.getLogger("master").exception("the next master could not be executed")
                if os.getpid() != arbiter.pid:
                    os._exit(EX_FAILED)

        arbiter.manage_workers = self._manage_workers
        arbiter.murder_workers = self._workers.murder
        arbiter.kill_workers = self._workers.kill
        arbiter.spawn_worker = self._workers.spawn
        arbiter.reap_workers = self._reap_workers
        arbiter.reexec = executed
        arbiter.reload = self.reload

    def _manage_workers(self) -> None:
        """In the place of Arbiter.manage_workers, which runs at least once a second."""
        log.stdout().flush()  # what its reader or its disk did not take when it was said
        try:
            self.supervise()
            self._is_failing = False
        except Exception:  # else it would stop the master, and with it all that works
            if not self._is_failing:
                logging.getLogger("control").exception("control process not supervised")
            self._is_failing = True
        # Workers are forked in here and never return: nothing may be caught around it.
        if self._is_reload_due:
            self.reload()
        self._workers.manage()
        self._workers.looked()

    def _reap_workers(self) -> None:
        """In the place of Arbiter.reap_workers."""
        self._control.note_end()
        self._workers.reap()

    def _has_room_to_reload(self) -> bool:
        """Whether there are slots for one set of workers more; if not, the reload waits for those that go."""
        is_possible = (
            slots.count_free(self.table) >= self._arbiter.num_workers or not self._workers.to_go()
        )
        if not is_possible and not self._is_reload_due:
            log.event("config", "warning", "reload waits until workers of earlier ones have gone")
        self._is_reload_due = not is_possible
        return is_possible

    def _take_over(self, path: str) -> tuple[Config, Callable[[], None]]:
        """Judge the configuration on disk and have everything ready for it; who raises has changed nothing.

        Returns it with what is left to do once nothing can fail any more.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._return_to, self.config)
            config = preflight.judge(path, os.environ)
            segment.refuse_misfit(self.table, config, len(self._published_form(config)))
            bind = preflight.bind_address(config)
            with preflight.reloading(config):
                finish = reload.take_over(self._arbiter, config, bind, self._freed, undo)
            undo.pop_all()
        return config, finish

    def _return_to(self, config: Config) -> None:
        """A reload has failed, perhaps after it was published."""
        if self.config is not config:
            self.config = config
            self.publish()

    def _renew_ticket_keys(self) -> None:
        if ticket_keys.renew(self.table, time.monotonic_ns(), os.urandom):
            log.event("tls", "debug", "keys of session tickets made")

    def _published_form(self, config: Config) -> bytes:
        return configuration.to_json(with_secret(config, self._secret))

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
            self._control.keep()
            time.sleep(WAIT_STEP_SECONDS)
        return True

    def _is_told_to_end(self) -> bool:
        """Whether such a signal is in gunicorn's queue; all that is there stays."""
        queue = self._arbiter.SIG_QUEUE
        waiting = [queue.get_nowait() for _ in range(queue.qsize())]
        for number in waiting:
            queue.put_nowait(number)
        return not _ENDS_THE_MASTER.isdisjoint(waiting)
