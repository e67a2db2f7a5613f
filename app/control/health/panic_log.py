"""Logs when fewer servers are healthy than ``panic_threshold`` asks for, and when that is over.

In a panic all servers are used, healthy or not. Each worker finds that out for itself, by the same function
of the same cells (app.shared.availability); here it is found out once more, to be logged once for the whole
balancer. Runs in the control process. Must never know how health is found out.
"""

from __future__ import annotations

from app.config import Config, Server
from app.shared.availability import choose, standing_of
from app.shared.layout import CHECKED, EPOCH, PROPOSED, READY
from app.shared.table import Table
from app.telemetry import log


class PanicLog:
    """Watches the servers of the configuration it adopted last."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._servers: list[tuple[Server, int]] = []  # and where their cells begin
        self._threshold = 0
        self._epoch = 0
        self._is_panic = False

    def __repr__(self) -> str:
        return f"<PanicLog {len(self._servers)} servers, panic: {self._is_panic}>"

    def adopt(self, config: Config) -> None:
        """Count the servers of ``config`` from now on."""
        table = self._table
        self._servers = [(one, table.server(row)) for one, row in table.rows_of(config.servers)]
        self._threshold = config.panic_threshold
        self._epoch = 0

    def tick(self, _now_ms: int) -> None:
        """Count again if anything has changed, once all have had their first check."""
        cells = self._table.cells
        epoch = cells[EPOCH]
        if epoch == self._epoch or not (self._threshold or self._is_panic):
            return
        if cells[CHECKED] != cells[PROPOSED]:
            return
        self._epoch = epoch
        standings = [
            standing_of(server.state, server.backup, cells, at) for server, at in self._servers
        ]
        is_panic = choose(standings, self._threshold).is_panic
        if is_panic != self._is_panic:
            self._is_panic = is_panic
            log.event(
                "pool",
                "warning" if is_panic else "info",
                "too few servers are healthy, all are used" if is_panic else "panic is over",
                reason="panic" if is_panic else "healthy_again",
                healthy=sum(one.is_healthy and one.admin == READY for one in standings),
                ready=sum(one.admin == READY for one in standings),
                threshold=self._threshold,
            )
