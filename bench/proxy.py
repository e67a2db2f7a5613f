"""A candidate that runs: started for one measurement, watched, stopped; for both benches.

Each measurement has a candidate of its own, so that rounds are independent of one another, peak memory
belongs to what was measured, and only one proxy lives at a time. Knows no case and no scenario.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import procs
from bench.load import single
from bench.peers.candidate import Candidate, Setup

START_SECONDS = 30.0


@dataclass
class Cost:
    """Filled in when a watch ends."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak_mib: float = 0.0
    foreign: float = 0.0
    """Share of the proxy's cores that others used meanwhile: the noise of the measurement."""

    @property
    def busy(self) -> float:
        return self.cpu / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Proxy:
    """A running candidate."""

    process: procs.Process
    port: int
    start_seconds: float
    access_log: Path
    cores: tuple[int, ...]
    scheme: str = "http"

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    @contextlib.contextmanager
    def watch(self) -> Iterator[Cost]:
        """What the whole process tree spends while the block runs."""
        cost = Cost()
        # What earlier blocks logged is given back, or memory would fill over a long case.
        os.truncate(self.access_log, 0)
        core = [procs.core_busy(number) for number in self.cores]
        before, start = self.process.usage(), time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - start
        after = self.process.usage()
        if not self.process.alive():
            raise procs.BenchError(f"the proxy died: {self.process.said()}")
        cost.cpu = after.cpu - before.cpu
        cost.peak_mib = after.peak_kib / 1024
        total = sum(
            sum(procs.core_busy(number)) - sum(then)
            for number, then in zip(self.cores, core, strict=True)
        )
        cost.foreign = max(0.0, total - cost.cpu) / cost.seconds / len(self.cores)


@contextlib.contextmanager
def running(
    candidate: Candidate, setup: Setup, folder: Path, cores: tuple[int, ...]
) -> Iterator[Proxy]:
    """The candidate, configured in ``folder``, once it answers 200; stopped at the end."""
    port = procs.free_port()
    launch = candidate.launch(setup, port, folder)
    log, tls = folder / "access.log", setup.tls is not None
    began = time.perf_counter()
    process = procs.Process(
        launch.command,
        cores=cores,
        log=log,
        cwd=launch.cwd,
        env=launch.env,
        stop_signal=launch.stop_signal,
    )
    with procs.running(process):
        ready = procs.wait_until(
            lambda: single.status_of(port, tls) == 200 or not process.alive(), START_SECONDS
        )
        took = time.perf_counter() - began
        if not ready or not process.alive():
            raise procs.BenchError(f"it did not start: {process.said()}")
        yield Proxy(process, port, took, log, cores, "https" if tls else "http")
