"""The bench table: backends, folders and cores of one run, and how one candidate is put on it.

Lives in the bench's own process for the whole of a run. Knows no case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import procs, proxy, session
from bench.backends import fast
from bench.backends.fast import Backends
from bench.peers.candidate import Candidate, Setup
from bench.proxy import Proxy

TIME_WAIT_MOST = 100000
TIME_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """How often and how long each case is measured."""

    rounds: int = 3
    seconds: float = 5.0
    warm_up: float = 1.0


class Lab:
    """One run's: the load has all cores but the last, the proxy has that one."""

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
        """The usual one: two servers, one worker."""
        return Setup(backends=self.backends.web)

    def tls(self, setup: Setup) -> Setup:
        """The same with TLS towards clients."""
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
        try:
            with proxy.running(candidate, setup, folder, cores or self.proxy_cores) as running:
                yield running
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def table(root: Path, settings: Settings) -> Iterator[Lab]:
    """The lab of one run: two cores, a folder in memory, backends that answer."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("the bench needs two cores: one for the proxy, one for the load")
    with (
        session.folder_in_memory() as folder,
        fast.standing(folder / "backends", cores[:-1], root) as backends,
    ):
        yield Lab(root, folder, backends, settings, cores)


def settle_time_wait() -> None:
    """Wait until the kernel has forgotten enough closed connections; it remembers each for 60 s.

    Ports do not run short, since every start listens on a port of its own, and up to 120,000 were seen
    to cost nothing; above ``net.ipv4.tcp_max_tw_buckets`` (131,072 here) the kernel drops them.
    """
    procs.wait_until(lambda: _time_wait() < TIME_WAIT_MOST, TIME_WAIT_SECONDS, 0.5)


def _time_wait() -> int:
    words = Path("/proc/net/sockstat").read_text().split()
    return int(words[words.index("tw") + 1])
