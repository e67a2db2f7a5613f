"""``python -m bench``: choose, install, measure in interleaved rounds, report.

Runs from the project's root with the project's virtual environment. Owns the order of things
and the clean end: whatever happens, every process started here has been stopped by its pid.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bench import peers, report, session
from bench.peers import ours
from bench.peers.candidate import Candidate
from bench.procs import BenchError
from bench.session import BUILD, ROOT
from bench.speed import cases, goals, lab, metrics, tables
from bench.speed.cases import Case
from bench.speed.lab import Lab, Settings
from bench.speed.results import Result, as_json

RESULTS = ROOT / "bench" / "results"
QUICK_CANDIDATES = ("ours", "nginx", "envoy", "caddy")
QUICK_CASES = ("small",)
QUICK = Settings(rounds=3, seconds=4, warm_up=1)
REFERENCE = "envoy"
"""Whose half peak is the rate at which latencies are compared."""


def main() -> None:
    options = _options()
    session.end_cleanly()
    session.raise_file_limit()
    problems = session.prepare(offline=options.offline)
    ours.compile_request_path(ROOT)
    kinds = [
        kind
        for kind in peers.SPEED
        if kind.name in options.candidate and (not kind.only or set(kind.only) & set(options.case))
    ]
    chosen, missing = session.present(kinds, problems)
    if not chosen:
        raise SystemExit(f"no candidate can run: {missing}")
    wanted = [case for case in cases.ALL if case.name in options.case]
    settings = Settings(options.rounds, options.seconds, options.warm_up)
    facts = session.facts(chosen, missing) | {"cpu": _cpu(), "settings": vars(settings)}
    results: dict[str, Result] = {}
    interrupted = False
    try:
        with lab.table(ROOT, settings) as bench:
            bench.reference = next((one for one in chosen if one.name == REFERENCE), None)
            for case in wanted:
                results[case.name] = Result(case.title, case.note)
                _measure(bench, case, chosen, results[case.name])
                print(f"\n## {case.title}\n", *tables.table(results[case.name]), sep="\n")
    except KeyboardInterrupt:
        interrupted = True
        print("\nstopped; what was measured so far follows", file=sys.stderr)
    reached = goals.judged(results)
    if reached:
        print("\n## Goals\n", *reached, sep="\n")
    whole = not (options.quick or options.partial or interrupted)
    _save(results, facts, RESULTS if whole or options.save else BUILD / "results")
    if interrupted:
        raise SystemExit(130)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "mode",
        nargs="?",
        choices=("full", "quick"),
        default="full",
        help="quick: ours, nginx, Envoy and Caddy on the small GET, under 2 minutes",
    )
    parser.add_argument("--case", action="append", choices=[case.name for case in cases.ALL])
    parser.add_argument("--candidate", action="append", choices=[c.name for c in peers.SPEED])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of load for each measurement")
    parser.add_argument("--warm-up", type=float)
    parser.add_argument("--offline", action="store_true", help="install nothing")
    parser.add_argument("--save", action="store_true", help="into bench/results even if partial")
    options = parser.parse_args()
    options.quick = options.mode == "quick"
    options.partial = bool(options.case or options.candidate)
    defaults = QUICK if options.quick else Settings()
    options.rounds = options.rounds or defaults.rounds
    options.seconds = options.seconds or defaults.seconds
    options.warm_up = options.warm_up or defaults.warm_up
    if not options.case:
        options.case = QUICK_CASES if options.quick else [case.name for case in cases.ALL]
    if not options.candidate:
        options.candidate = QUICK_CANDIDATES if options.quick else [c.name for c in peers.SPEED]
    return options


def _measure(bench: Lab, case: Case, chosen: list[Candidate], result: Result) -> None:
    """Round after round, the candidates in turn, so that a slow minute hurts all of them alike."""
    entries = []
    for candidate in chosen:
        reason = cases.lacks(case, candidate)
        if candidate.only and case.name not in candidate.only:
            continue
        if reason:
            result.skipped[candidate.name] = reason
        elif not case.only_ours or candidate.name == peers.OURS:
            entries += [(candidate, *row) for row in cases.expand(case, candidate)]
    for number in range(bench.settings.rounds):
        for candidate, row, measure in entries:
            if row in result.skipped:
                continue
            if case.before:
                case.before()
            began = time.perf_counter()
            try:
                sample = measure(bench, candidate)
            except BenchError as problem:
                result.skipped[row] = " ".join(f"round {number + 1}: {problem}".split())
                sample = None
            result.rows.setdefault(row, []).append(sample)
            took = time.perf_counter() - began
            found = _brief(sample) if sample else result.skipped[row]
            where = f"{case.name} {number + 1}/{bench.settings.rounds} {row}"
            print(f"{where}: {found} [{took:.0f} s]", file=sys.stderr)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def _save(results: dict[str, Result], facts: dict[str, Any], folder: Path) -> None:
    stem = facts["date"].removesuffix(" UTC").replace(" ", "-").replace(":", "")
    text = tables.markdown(results, facts)
    report.save(folder, stem, as_json(results, facts), text)
    (folder / "latest.md").write_text(text)
    print(f"\nwritten: {folder / stem}.json, .md and latest.md", file=sys.stderr)


def _brief(sample: metrics.Sample) -> str:
    shown = ("rps", "cpu_us", "gb_s", "cpu_s_gb", "p99_ms", "idle_pss_kib", "start_s", "pss_mib")
    return ", ".join(
        f"{sample[key]:,.{metrics.METRICS[key].digits}f} {metrics.METRICS[key].title}"
        for key in shown
        if key in sample
    )


if __name__ == "__main__":
    main()
