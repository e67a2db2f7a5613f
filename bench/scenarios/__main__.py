"""Servers fail by script, requests keep coming: this balancer and its peers, run after run."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import install, peers, report, session
from bench.peers.candidate import Candidate
from bench.procs import BenchError
from bench.scenarios import figures, goals, run, scripts, tables
from bench.session import BUILD, ROOT

KEEP = BUILD / "scenarios"
RESULTS = Path(__file__).with_name("results")
PLOT = Path(__file__).with_name("plot.py")
MATPLOTLIB_SECONDS = 300
PLOT_SECONDS = 120


def main() -> int:
    """0 if all that was asked for was measured."""
    options = _options()
    session.end_cleanly()
    # Our own variants need nothing but this Python.
    has_peers = any(map(goals.is_peer, options.candidate))
    problems = session.prepare(offline=options.offline) if has_peers else {}
    kinds = [kind for kind in peers.FAILURES if kind.name in options.candidate]
    chosen, missing = session.present(kinds, problems)
    scenarios = [item for item in (*scripts.ALL, scripts.SHORT) if item.name in options.scenario]
    is_sound = True
    facts = session.facts(chosen, missing)
    results: dict[str, dict[str, Any]] = {}
    try:
        with session.folder_in_memory() as folder:
            for scenario in scenarios:
                results[scenario.name], is_good = _measure(folder, scenario, chosen, options)
                is_sound = is_sound and is_good
                print(*tables.tables(scenario, results[scenario.name]), sep="\n")
    except KeyboardInterrupt:
        print("\nstopped; what was measured so far follows", file=sys.stderr)
        is_sound = False
    print(*tables.overview(results, scenarios), "", *tables.reached(results), sep="\n")
    facts["load_after"] = f"{os.getloadavg()[0]:.2f}"
    _save(results, scenarios, facts, RESULTS if options.save else _kept(options))
    return 0 if is_sound else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios", description=__doc__)
    names = [item.name for item in scripts.ALL]
    short = scripts.SHORT.name
    parser.add_argument(
        "--quick",
        action="store_true",
        help="does the bench work? ours alone, half a minute, no plot",
    )
    parser.add_argument("--scenario", action="append", choices=[*names, short])
    parser.add_argument("--candidate", action="append", choices=[c.name for c in peers.FAILURES])
    parser.add_argument("--offline", action="store_true", help="install nothing")
    parser.add_argument("--no-plot", action="store_true")
    parser.add_argument("--save", action="store_true", help="into bench/scenarios/results")
    options = parser.parse_args()
    everybody = [candidate.name for candidate in peers.FAILURES]
    options.scenario = options.scenario or ([short] if options.quick else names)
    options.candidate = options.candidate or ([peers.OURS] if options.quick else everybody)
    options.no_plot = options.no_plot or options.quick
    return options


def _measure(
    folder: Path, scenario: scripts.Scenario, chosen: list[Candidate], options: argparse.Namespace
) -> tuple[dict[str, Any], bool]:
    """The results, and whether nothing speaks against them."""
    is_sound = True
    rows: dict[str, Any] = {}
    plotted = []
    for algorithm in scenario.algorithms:
        for candidate in chosen:
            name = candidate.name
            if algorithm != scenario.algorithms[0]:
                if algorithm not in candidate.algorithms:
                    continue
                name = f"{name}/{algorithm}"
            place = folder / f"{scenario.name}-{name.replace('/', '-')}"
            began = time.perf_counter()
            try:
                result, columns = run.measure(ROOT, place, KEEP, candidate, scenario, algorithm)
            except BenchError as problem:
                print(f"{scenario.name} {name}: {problem}", file=sys.stderr)
                is_sound = False
                continue
            finally:
                shutil.rmtree(place, ignore_errors=True)
            result["algorithm"] = candidate.algorithm(algorithm)
            for doubt in figures.doubts(scenario, result):
                print(f"{scenario.name} {name}: {doubt}", file=sys.stderr)
                is_sound = False
            rows[name] = result
            plotted.append({"name": name, "p99_ms": result["all"]["p99_ms"], "columns": columns})
            whole, took = result["all"], time.perf_counter() - began
            print(
                f"{scenario.name} {name}: failed {whole['failed_get']} GET {whole['failed_post']} POST,"
                f" p99 {whole['p99_ms']:.0f} ms [{took:.0f} s]",
                file=sys.stderr,
            )
    if plotted and not options.no_plot:
        _plot(scenario, plotted, RESULTS if options.save else KEEP)
    return rows, is_sound


def _plot(scenario: scripts.Scenario, rows: list[dict[str, Any]], folder: Path) -> None:
    python = install.python(BUILD)
    if not install.package_file(BUILD, "matplotlib/__init__.py"):
        command = [str(python), "-m", "pip", "install", "-q", "matplotlib"]
        subprocess.run(command, check=False, timeout=MATPLOTLIB_SECONDS)
    folder.mkdir(parents=True, exist_ok=True)
    KEEP.mkdir(parents=True, exist_ok=True)
    data = KEEP / f"{scenario.name}-requests.json"
    data.write_text(
        json.dumps(
            {
                "title": f"{scenario.title} ({scenario.rate:.0f} requests/s, one in ten a POST)",
                "phases": scenario.phases,
                "seconds": scenario.seconds,
                "rows": rows,
            }
        )
    )
    command = [str(python), str(PLOT), str(data), str(folder / scenario.name)]
    done = subprocess.run(
        command, check=False, timeout=PLOT_SECONDS, capture_output=True, text=True
    )
    if done.returncode:
        print(f"no plot of {scenario.name}: {done.stderr.strip()[-300:]}", file=sys.stderr)


def _kept(options: argparse.Namespace) -> Path:
    """Where results go that are not to be saved; a quick run overwrites no others."""
    return KEEP / "quick" if options.quick else KEEP


def _save(
    results: dict[str, dict[str, Any]],
    scenarios: list[scripts.Scenario],
    facts: dict[str, Any],
    folder: Path,
) -> None:
    text = tables.markdown(results, scenarios, facts)
    report.save(folder, "failures", {"facts": facts, "results": results}, text)
    print(f"\nwritten: {folder}/failures.json and .md, and the plots there", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
