"""A balancer's shared memory with servers in it, and a log that a test can read.

Every unit test of what reads or writes the table begins here: the table is a real one, the configuration
went through the real reader, and what other processes would write there a test writes by the server's port.
A test that needs more (a pool, a checker, a clock) has a subclass of its own, named for what it adds.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import config as configuration
from app.config import Config
from app.shared import publication
from app.shared.layout import EJECTION, HEALTHY, STATE, UNCHECKED, counters_at
from app.shared.table import Table, identity_of
from app.telemetry import log

# A server by its port on 127.0.0.1, by its URL, or as its object in a configuration.
Entry = int | str | dict[str, Any]


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


class World:
    """A table, what stands in it for servers and workers, and what was logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None, slots: int = 4) -> None:
        """With ``monkeypatch`` log lines go to ``events`` and nowhere else."""
        self.table = Table.create(rows=16, slots=slots, blob_bytes=20_000)
        self.events: list[dict[str, Any]] = []
        if monkeypatch is not None:
            monkeypatch.setattr(log, "event", self._event)

    def _event(self, logger: str, level: str, message: str, **fields: Any) -> None:
        self.events.append({"logger": logger, "level": level, "message": message, **fields})

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """These fields of each log line; of ``backend`` the port alone."""
        return [tuple(_told(event, name) for name in names) for event in self.events]

    # -- the master's part

    def propose(self, *servers: Entry, **settings: Any) -> tuple[int, Config]:
        """A configuration that is not in use yet: its sequence, and itself."""
        entries = [url(server) if isinstance(server, int) else server for server in servers]
        config = configuration.parse(json.dumps({"servers": entries, **settings}))
        identities = [identity_of(server.url) for server in config.servers]
        return publication.propose(self.table, configuration.to_json(config), identities), config

    def publish(self, *servers: Entry, **settings: Any) -> Config:
        """A configuration in use; servers of which nothing is known are healthy at once."""
        sequence, config = self.propose(*servers, **settings)
        rows = self.table.row_index()
        for server in config.servers:
            state = self.table.server(rows[identity_of(server.url)]) + STATE
            if self.table.cells[state] == UNCHECKED:
                self.table.cells[state] = HEALTHY
        publication.publish(self.table, sequence)
        return config

    # -- the servers' cells

    def row(self, port: int) -> int:
        """-1 where there is no such server."""
        return self.table.row_index().get(identity_of(url(port)), -1)

    def at(self, port: int) -> int:
        """Where its cells begin."""
        return self.table.server(self.row(port))

    def read(self, port: int, cell: int) -> int:
        return self.table.cells[self.at(port) + cell]

    def write(self, port: int, cell: int, value: int) -> None:
        """As the control process: workers are told."""
        self.table.cells[self.at(port) + cell] = value
        self.table.bump()

    def ejection(self, port: int) -> int:
        return self.read(port, EJECTION)

    def is_healthy(self, port: int) -> bool:
        return self.table.is_healthy(self.row(port))

    # -- the workers' cells

    def counters(self, port: int, slot: int) -> tuple[memoryview, int]:
        """A worker's cells, and where those about this server begin."""
        return self.table.slot(slot), counters_at(self.row(port))


def _told(event: dict[str, Any], name: str) -> Any:
    return event[name].rpartition(":")[2] if name == "backend" else event.get(name)
