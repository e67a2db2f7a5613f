"""Raises the weight of a server that is fit (again) step by step, over the time that ``slow_start`` gives.

Envoy's rule, rounded down to tenths: weight × max(1/10, time since it is fit / slow_start). The step stands
in the server's RAMP cell, of which this is the only writer: so all workers have the same weights at the same
time, and none looks at a clock. Steps of many servers are taken together, at most LOOKS times in that time,
because each change of the table makes every worker build its snapshot anew. Runs in the control process.
Must never know why a server is fit: ``begin`` is told.
"""

from __future__ import annotations

import time

from app.config import Config
from app.shared.layout import FULL_RAMP, RAMP, SINCE_MS
from app.shared.table import Table

LOOKS = 20


class SlowStart:
    """The servers that are below their weight."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._window_ms = 0
        self._rows: set[int] = set()
        self._looked_ms = 0

    def __repr__(self) -> str:
        return f"<SlowStart over {self._window_ms} ms, {len(self._rows)} rows below their weight>"

    def adopt(self, config: Config) -> None:
        """Take over a configuration, and the servers that a predecessor left below their weight.

        Without slow_start all have their whole weight at once.
        """
        self._window_ms = int(config.slow_start * 1000)
        table, cells = self._table, self._table.cells
        rows = (row for _, row in table.rows_of(config.servers))
        self._rows = {row for row in rows if cells[table.server(row) + RAMP]}
        if not self._window_ms and self._rows:
            for row in self._rows:
                cells[self._table.server(row) + RAMP] = 0
            self._rows = set()
            self._table.bump()

    def begin(self, row: int) -> None:
        """Give the server in ``row`` a tenth of its weight, to begin with.

        To be called before the workers can see that it is fit: they would use it with all of its weight.
        """
        if self._window_ms:
            at = self._table.server(row)
            self._table.cells[at + SINCE_MS] = time.monotonic_ns() // 1_000_000
            self._table.cells[at + RAMP] = 1
            self._rows.add(row)

    def tick(self, now_ms: int) -> None:
        """Take the steps that are due. ``now_ms`` is monotonic."""
        if not self._rows or (now_ms - self._looked_ms) * LOOKS < self._window_ms:
            return
        self._looked_ms = now_ms
        cells, has_changed = self._table.cells, False
        for row in tuple(self._rows):
            at = self._table.server(row)
            step = step_after(now_ms - cells[at + SINCE_MS], self._window_ms)
            # Also that of a server that has gone: its row was wiped, it began long ago.
            if step == FULL_RAMP:
                self._rows.discard(row)
                step = 0
            if cells[at + RAMP] != step:
                cells[at + RAMP] = step
                has_changed = True
        if has_changed:
            self._table.bump()


def step_after(elapsed_ms: int, window_ms: int) -> int:
    """How many tenths of its weight a server has, 1 to FULL_RAMP."""
    return min(max(1, elapsed_ms * FULL_RAMP // window_ms), FULL_RAMP)
