"""The bench table: backends, folders and cores of one run, and how one candidate is put on it.

A candidate is started anew for every measurement, so that rounds are independent of one
another, peak memory belongs to the case, and only one proxy lives at a time. Knows no case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import load, procs
from bench.backends import Backends
from bench.candidates import Candidate, Setup

START_SECONDS = 30.0
TIME_WAIT_MOST = 100000
TIME_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    rounds: int = 3
    seconds: float = 5.0
    warm_up: float = 1.0


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


class Lab:
    def __init__(
        self, root: Path, folder: Path, backends: Backends, settings: Settings, cores: list[int]
    ) -> None:
        self.root = root
        self.folder = folder
        self.backends = backends
        self.settings = settings
        self.load_cores = tuple(cores[:-1])
        self.proxy_cores = (cores[-1],)
        self._numbers = itertools.count()
        self._certificate: tuple[Path, Path] | None = None
        self.reference: Candidate | None = None
        """Whose peak sets the rate at which latencies are compared."""
        self._reference_peak = 0.0

    def setup(self) -> Setup:
        return Setup(backends=self.backends.web)

    def tls(self, setup: Setup) -> Setup:
        if self._certificate is None:
            certificate, key = self.folder / "certificate.pem", self.folder / "key.pem"
            procs.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7", "-subj", "/CN=localhost",
                 "-keyout", str(key), "-out", str(certificate)],
                cores=self.load_cores,
                seconds=20,
            )  # fmt: skip
            self._certificate = certificate, key
        return replace(setup, tls=self._certificate)

    def reference_peak(self, measure: Callable[[Lab, Proxy], float]) -> float:
        """Requests a second, measured once in a run."""
        if not self._reference_peak:
            if self.reference is None:
                raise procs.BenchError("there is no reference (envoy) in this run")
            with self.start(self.reference, self.setup()) as proxy:
                self._reference_peak = measure(self, proxy)
        return self._reference_peak

    @contextlib.contextmanager
    def start(
        self, candidate: Candidate, setup: Setup, cores: tuple[int, ...] | None = None
    ) -> Iterator[Proxy]:
        """The candidate running and answering; stopped and its folder gone at the end."""
        folder = self.folder / f"{candidate.name}-{next(self._numbers)}"
        folder.mkdir()
        port = procs.free_port()
        launch = candidate.launch(setup, port, folder)
        log, cores = folder / "access.log", cores or self.proxy_cores
        began = time.perf_counter()
        process = procs.Process(
            launch.command,
            cores=cores,
            log=log,
            cwd=launch.cwd,
            env=launch.env,
            stop_signal=launch.stop_signal,
        )
        try:
            with procs.running(process):
                tls = setup.tls is not None
                ready = procs.wait_until(
                    lambda: load.status_of(port, tls) == 200 or not process.alive(), START_SECONDS
                )
                took = time.perf_counter() - began
                if not ready or not process.alive():
                    raise procs.BenchError(f"it did not start: {process.said()}")
                yield Proxy(process, port, took, log, cores, "https" if tls else "http")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def settle_time_wait() -> None:
    """Wait until the kernel has forgotten enough closed connections; it remembers each for 60 s.

    Ports do not run short, since every start listens on a port of its own, and up to 120,000 were seen
    to cost nothing; above ``net.ipv4.tcp_max_tw_buckets`` (131,072 here) the kernel drops them.
    """
    procs.wait_until(lambda: _time_wait() < TIME_WAIT_MOST, TIME_WAIT_SECONDS, 0.5)


def _time_wait() -> int:
    words = Path("/proc/net/sockstat").read_text().split()
    return int(words[words.index("tw") + 1])
