"""One candidate through one scenario: stage, candidate, load and script, all stopped at the end."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench import load as loadtool
from bench import procs
from bench.candidates import Candidate, Setup
from bench.scenarios import figures, load
from bench.scenarios.scripts import Scenario
from bench.scenarios.stage import Stage

START_SECONDS = 20.0
LEAD_SECONDS = 1.0
"""From the start of the load generator to its first request: it has imported and connected by then."""
CLEAR_SECONDS = 0.5


def measure(
    root: Path, folder: Path, keep: Path, candidate: Candidate, scenario: Scenario, algorithm: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, columns). The candidate's own log is kept in ``keep``."""
    cores = tuple(range(os.cpu_count() or 2))
    folder.mkdir(parents=True)
    port = procs.free_port()
    with Stage(folder, scenario.servers, cores) as stage:
        launch = candidate.launch(Setup(stage.addresses, algorithm=algorithm), port, folder)
        proxy = procs.Process(
            launch.command,
            cores=cores,
            log=folder / "access.log",
            cwd=launch.cwd,
            env=launch.env,
            stop_signal=launch.stop_signal,
        )
        with procs.running(proxy):
            ready = procs.wait_until(
                lambda: loadtool.status_of(port, False) == 200 or not proxy.alive(), START_SECONDS
            )
            if not ready or not proxy.alive():
                raise procs.BenchError(f"it did not start: {proxy.said()}")
            time.sleep(1.5)  # first checks are over, every worker is up
            steal = _stolen()
            columns, start = _play(root, folder, port, stage, scenario, cores)
            if not proxy.alive():
                raise procs.BenchError(f"it died: {proxy.said()}")
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
        (
            sys.executable, "-m", "bench.scenarios.load", str(port), str(scenario.rate),
            str(scenario.seconds), repr(start), str(output),
        ),
        cores=cores,
        log=folder / "load.log",
        cwd=root,
    )  # fmt: skip
    with procs.running(generator):
        for order in sorted(scenario.orders, key=lambda order: order.at):
            time.sleep(max(0.0, start + order.at - time.perf_counter()))
            getattr(stage, order.verb)(order.server, order.argument)
        limit = start + scenario.seconds + load.TIMEOUT_SECONDS + 5 - time.perf_counter()
        if not procs.wait_until(lambda: not generator.alive(), limit, 0.05) or not output.exists():
            raise procs.BenchError(f"the load generator failed: {generator.said()}")
    columns: dict[str, Any] = json.loads(output.read_text())
    return columns, start


def _stolen() -> float:
    return sum(procs.core_busy(core)[1] for core in range(os.cpu_count() or 2))
