"""``python -m bench.micro``: what each step of our path costs, in nanoseconds, with no proxy running.

So that a regression is found in its place. A step (bench/steps.py) whose part of the product is missing or
has changed its shape is named and left out. Figures include the call itself, some 30 ns.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import sys
import time
import timeit
from datetime import datetime, timezone
from pathlib import Path

from bench.report import aligned

# The steps are given doubles, which compiled code refuses: before anything of the product is imported.
os.environ.setdefault("LB_COMPILED", "off")

from bench.steps import STEPS, Call

SECONDS = 0.05
REPEATS = 7
RESULT = Path(__file__).resolve().parent.parent / "build" / "bench" / "micro.json"


def measure(call: Call, seconds: float, repeats: int) -> tuple[float, float]:
    """Nanoseconds a call: the lowest repeat, which is the least disturbed one, and the median."""
    timer = timeit.Timer(call, timer=time.process_time)  # other programs' turns do not count
    count, _ = timer.autorange()
    single = timer.timeit(count) / count
    count = max(1, int(seconds / max(single, 1e-9)))
    taken = sorted(timer.repeat(repeats, count))
    return taken[0] / count * 1e9, taken[len(taken) // 2] / count * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--only", help="steps whose name or part contains this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--core", type=int, help="pin to this core")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the figures go")
    parser.add_argument("--against", type=Path, help="an earlier JSON file to compare with")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, [options.core])
    before = json.loads(options.against.read_text())["steps"] if options.against else {}
    steps = [one for one in STEPS if not options.only or options.only in f"{one.part} {one.name}"]
    found: dict[str, dict[str, float]] = {}
    rows = [["step", "ns", "median", *(["before", "change"] if before else [])]]
    left_out = []
    for part, group in itertools.groupby(steps, lambda one: one.part):
        for one in group:
            key = f"{part}: {one.name}"
            try:
                call = one.prepare()
                call()
                gc.collect()
                lowest, middle = measure(call, options.seconds, options.repeats)
            except Exception as problem:  # noqa: BLE001 -- the rest of the table is worth having
                left_out.append(f"left out: {key}: {type(problem).__name__}: {problem}")
                continue
            found[key] = {"ns": lowest, "median_ns": middle}
            row = [key, f"{lowest:,.0f}", f"{middle:,.0f}"]
            if before:
                old = before.get(key, {}).get("ns")
                row += [f"{old:,.0f}", f"{lowest / old - 1:+.0%}"] if old else ["", ""]
            rows.append(row)
    print(*aligned(rows), *left_out, sep="\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "steps": found,
    }
    options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\nwritten: {options.json}", file=sys.stderr)
    if left_out:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
