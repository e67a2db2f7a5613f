"""``python -m bench``: choose, install, measure in interleaved rounds, report.

Runs from the project's root with the project's virtual environment. Owns the order of things
and the clean end: whatever happens, every process started here has been stopped by its pid.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from bench import backends, candidates, cases, install, report
from bench.candidates import Candidate
from bench.cases import Case
from bench.lab import Lab, Settings
from bench.procs import BenchError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
RESULTS = ROOT / "bench" / "results"
QUICK_CANDIDATES = ("ours", "nginx", "envoy", "caddy")
QUICK_CASES = ("small",)
QUICK = Settings(rounds=3, seconds=4, warm_up=1)
REFERENCE = "envoy"
"""Whose half peak is the rate at which latencies are compared."""
MEMORY_FOLDER = Path("/dev/shm")
FILES_NEEDED = 20000
FOLDER_PREFIX = "lb-bench-"


def main() -> None:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    raise_file_limit()
    problems = install.prepare(BUILD, offline=options.offline)
    install.compile_ours(ROOT)
    chosen, missing = _candidates(options.candidate, options.case, problems)
    if not chosen:
        raise SystemExit(f"no candidate can run: {missing}")
    wanted = [case for case in cases.ALL if case.name in options.case]
    settings = Settings(options.rounds, options.seconds, options.warm_up)
    facts = _facts(settings, chosen, missing)
    results: dict[str, report.Result] = {}
    interrupted = False
    try:
        with table(settings) as lab:
            lab.reference = next((one for one in chosen if one.name == REFERENCE), None)
            for case in wanted:
                results[case.name] = report.Result(case.title, case.note)
                _measure(lab, case, chosen, results[case.name])
                print(f"\n## {case.title}\n", *report.table(results[case.name]), sep="\n")
    except KeyboardInterrupt:
        interrupted = True
        print("\nstopped; what was measured so far follows", file=sys.stderr)
    reached = report.goals(results)
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
    parser.add_argument("--candidate", action="append", choices=[c.name for c in candidates.ALL])
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
        options.candidate = QUICK_CANDIDATES if options.quick else [c.name for c in candidates.ALL]
    return options


def _candidates(
    names: list[str], wanted: list[str], problems: dict[str, str]
) -> tuple[list[Candidate], dict[str, str]]:
    chosen, missing = [], {}
    for kind in candidates.ALL:
        if kind.name not in names or (kind.only and not set(kind.only) & set(wanted)):
            continue
        candidate = kind(ROOT, BUILD)
        reason = candidate.missing()
        if reason is None:
            chosen.append(candidate)
        else:
            missing[kind.name] = problems.get(kind.name, reason)
            print(f"left out: {kind.name}: {missing[kind.name]}", file=sys.stderr)
    return chosen, missing


def _measure(lab: Lab, case: Case, chosen: list[Candidate], result: report.Result) -> None:
    """Round after round, the candidates in turn, so that a slow minute hurts all of them alike."""
    entries = []
    for candidate in chosen:
        reason = cases.lacks(case, candidate)
        if candidate.only and case.name not in candidate.only:
            continue
        if reason:
            result.skipped[candidate.name] = reason
        elif not case.only_ours or candidate.name == report.BASE:
            entries += [(candidate, *row) for row in cases.expand(case, candidate)]
    for number in range(lab.settings.rounds):
        for candidate, row, measure in entries:
            if row in result.skipped:
                continue
            if case.before:
                case.before()
            began = time.perf_counter()
            try:
                sample = measure(lab, candidate)
            except BenchError as problem:
                result.skipped[row] = " ".join(f"round {number + 1}: {problem}".split())
                sample = None
            result.rows.setdefault(row, []).append(sample)
            took = time.perf_counter() - began
            found = _brief(sample) if sample else result.skipped[row]
            where = f"{case.name} {number + 1}/{lab.settings.rounds} {row}"
            print(f"{where}: {found} [{took:.0f} s]", file=sys.stderr)


@contextlib.contextmanager
def table(settings: Settings) -> Iterator[Lab]:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("the bench needs two cores: one for the proxy, one for the load")
    # In memory, so that no disk takes part in the access logs and the large files.
    memory = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None
    _sweep(memory or Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=memory))
    try:
        with backends.standing(folder / "backends", cores[:-1], ROOT) as standing:
            yield Lab(ROOT, folder, standing, settings, cores)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what a bench that was killed has left; its processes died with it."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _facts(settings: Settings, chosen: list[Candidate], missing: dict[str, str]) -> dict[str, Any]:
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "warm_up": settings.warm_up,
        },
        "versions": {candidate.name: candidate.version() for candidate in chosen},
        "missing": missing,
    }


def _save(results: dict[str, report.Result], facts: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = facts["date"].removesuffix(" UTC").replace(" ", "-").replace(":", "")
    text = report.markdown(results, facts)
    (folder / f"{stem}.json").write_text(
        json.dumps(report.as_json(results, facts), indent=1, ensure_ascii=False) + "\n"
    )
    (folder / f"{stem}.md").write_text(text)
    (folder / "latest.md").write_text(text)
    print(f"\nwritten: {folder / stem}.json, .md and latest.md", file=sys.stderr)


def _brief(sample: cases.Sample) -> str:
    shown = ("rps", "cpu_us", "gb_s", "cpu_s_gb", "p99_ms", "idle_pss_kib", "start_s", "pss_mib")
    return ", ".join(
        f"{sample[key]:,.{cases.METRICS[key].digits}f} {cases.METRICS[key].title}"
        for key in shown
        if key in sample
    )


def raise_file_limit() -> None:
    """For 10,000 servers with a connection each; inherited by everything started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_NEEDED if hard == resource.RLIM_INFINITY else min(FILES_NEEDED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _interrupt(*_: object) -> NoReturn:
    """Once: a second signal must not cut the cleaning up short, which takes seconds at most."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
