"""The backend processes of one run, and the verbs with which a script acts on them.

Every process is started through ``bench.procs`` and stopped by its pid; a stopped one (SIGSTOP) is woken
first. Knows no candidate and no load.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import procs
from bench.backends import failing

SCRIPT = Path(failing.__file__)
PORTS = (12000, 32000)
"""Below the range that the kernel gives to outgoing connections: while a server is dead, nobody may get its
port, not even a proxy's own attempt to reach it (a connection can be made to itself)."""
START_SECONDS = 10.0


class Stage:
    """``servers`` servers; with more than four all but the first live in one process."""

    def __init__(self, folder: Path, servers: int, cores: tuple[int, ...]) -> None:
        self.folder = folder
        self.cores = cores
        self.ports = _free_ports(servers)
        first = [[number] for number in range(servers)]
        self._groups = first if servers <= 4 else [[0], list(range(1, servers))]
        self._processes: list[procs.Process | None] = [None] * len(self._groups)
        self._ended: list[procs.Process] = []

    def __enter__(self) -> Stage:
        for group in range(len(self._groups)):
            self.start(group)
        for port in self.ports:
            if not procs.wait_until(lambda port=port: procs.listens(port), START_SECONDS):  # type: ignore[misc]
                self.stop()
                raise procs.BenchError("the backends did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{port}" for port in self.ports)

    def stop(self) -> None:
        for group, process in enumerate(self._processes):
            if process is not None and process.alive():
                self.kill(group)
        for process in [*self._ended, *filter(None, self._processes)]:
            process.stop()

    # -- verbs -------------------------------------------------------------------------------------

    def start(self, group: int, orders: dict[str, Any] | None = None) -> None:
        self._write(group, orders or {})
        before = self._processes[group]
        if before is not None:
            self._ended.append(before)
        pairs = ",".join(f"{number}:{self.ports[number]}" for number in self._groups[group])
        self._processes[group] = procs.Process(
            (
                sys.executable, "-IS", str(SCRIPT), pairs, str(self._control(group)),
                str(self.folder / f"executed-{group}"),
            ),
            cores=self.cores,
            log=self.folder / f"backend-{group}.log",
            cwd=self.folder,
        )  # fmt: skip

    def kill(self, group: int, _: Any = None) -> None:
        self._signal(group, signal.SIGKILL)

    def terminate(self, group: int, _: Any = None) -> None:
        self._signal(group, signal.SIGTERM)

    def hang(self, group: int, _: Any = None) -> None:
        self._signal(group, signal.SIGSTOP)

    def wake(self, group: int, _: Any = None) -> None:
        self._signal(group, signal.SIGCONT)

    def misbehave(self, group: int, orders: dict[str, Any]) -> None:
        self._write(group, orders)
        self._signal(group, signal.SIGUSR1)

    # -- afterwards --------------------------------------------------------------------------------

    def executed(self) -> list[tuple[bool, int]]:
        """(is a POST, number) of every request that a backend acted upon."""
        found = []
        for line in self._lines():
            method, _, number = line.partition(b" ")
            if method != b"C" and number.isdigit():
                found.append((method == b"P", int(number)))
        return found

    def checks(self) -> list[tuple[int, float]]:
        """(server, moment on the monotonic clock) of every health check that was passed."""
        found = []
        for line in self._lines():
            kind, *rest = line.split(b" ")
            if kind == b"C" and len(rest) == 2:
                found.append((int(rest[0]), float(rest[1])))
        return found

    def _lines(self) -> Iterator[bytes]:
        for group in range(len(self._groups)):
            path = self.folder / f"executed-{group}"
            if path.exists():
                yield from path.read_bytes().splitlines()

    def _signal(self, group: int, number: int) -> None:
        process = self._processes[group]
        assert process is not None
        os.kill(process.pid, number)

    def _control(self, group: int) -> Path:
        return self.folder / f"control-{group}"

    def _write(self, group: int, orders: dict[str, Any]) -> None:
        path = self._control(group)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(orders))
        new.replace(path)


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found
