"""One candidate through one scenario: stage, candidate, load and script, all stopped at the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from bench import procs, proxy
from bench.load import recorded
from bench.peers.candidate import Candidate, Setup
from bench.scenarios import figures
from bench.scenarios.scripts import Scenario
from bench.scenarios.stage import Stage

WORKERS = 2
UP_SECONDS = 1.5
"""After the first answer: by then first checks are over, and every worker is up."""
LEAD_SECONDS = 1.0
"""From the start of the load generator to its first request: it has imported and connected by then."""
CLEAR_SECONDS = 0.5


def measure(
    root: Path, folder: Path, keep: Path, candidate: Candidate, scenario: Scenario, algorithm: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, columns). The candidate's own log is kept in ``keep``."""
    cores = tuple(range(os.cpu_count() or 2))
    folder.mkdir(parents=True)
    with Stage(folder, scenario.servers, cores) as stage:
        setup = Setup(stage.addresses, WORKERS, algorithm, servers_fail=True)
        with proxy.running(candidate, setup, folder, cores) as running:
            time.sleep(UP_SECONDS)
            steal = _stolen()
            columns, start = _play(root, folder, running.port, stage, scenario, cores)
            if not running.process.alive():
                raise procs.BenchError(f"it died: {running.process.said()}")
            # A hung server is awake by now, and acts upon what lay in its sockets.
            time.sleep(CLEAR_SECONDS)
        checks = [(server, moment - start) for server, moment in stage.checks()]
        result = figures.summarize(scenario, columns, stage.executed(), checks)
        result["stolen_share"] = round((_stolen() - steal) / scenario.seconds, 3)
    kept = keep / f"{scenario.name}-{candidate.name}-{algorithm}.log"
    keep.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "access.log", kept)
    return result, columns


def _play(
    root: Path, folder: Path, port: int, stage: Stage, scenario: Scenario, cores: tuple[int, ...]
) -> tuple[dict[str, Any], float]:
    """The columns, and when the first of its seconds began (the clock is the monotonic one)."""
    output = folder / "requests.json"
    start = time.perf_counter() + LEAD_SECONDS
    generator = procs.Process(
        recorded.command(port, scenario.rate, scenario.seconds, start, output),
        cores=cores,
        log=folder / "load.log",
        cwd=root,
    )
    with procs.running(generator):
        for order in sorted(scenario.orders, key=lambda order: order.at):
            time.sleep(max(0.0, start + order.at - time.perf_counter()))
            getattr(stage, order.verb)(order.server, order.argument)
        limit = start + scenario.seconds + recorded.TIMEOUT_SECONDS + 5 - time.perf_counter()
        if not procs.wait_until(lambda: not generator.alive(), limit, 0.05) or not output.exists():
            raise procs.BenchError(f"the load generator failed: {generator.said()}")
    columns: dict[str, Any] = json.loads(output.read_text())
    return columns, start


def _stolen() -> float:
    return sum(procs.core_busy(core)[1] for core in range(os.cpu_count() or 2))
