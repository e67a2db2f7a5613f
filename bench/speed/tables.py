"""The results of the speed bench as Markdown: a table for each case, medians and ratios to ours. Pure.

Without ours in the run the first candidate is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.peers import OURS
from bench.report import aligned, number, provenance
from bench.speed import goals
from bench.speed.metrics import METRICS, Metric
from bench.speed.results import Result

NOISE = 0.05
"""Above this share of others on the proxy's core a row is marked."""


def markdown(results: Mapping[str, Result], facts: Mapping[str, Any]) -> str:
    """The whole report."""
    settings = facts["settings"]
    lines = [
        f"# Bench of {facts['date']}",
        "",
        f"Machine: {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}; load average "
        f"at the start {facts['load']}. {settings['rounds']} rounds of {settings['seconds']:g} s "
        f"after a warm-up of {settings['warm_up']:g} s, candidates interleaved; the proxy on a core of its "
        "own, load and backends on the other.",
        "",
        "Each cell: median over the rounds (lowest–highest), then the ratio to "
        f"{_base(results) or 'ours'} within a round. `cores busy` well below the workers' number "
        "means that the proxy was not what held it back.",
        "",
        *provenance(facts, "not measured"),
        "",
    ]
    reached = goals.judged(results)
    if reached:
        lines += ["## Goals", "", *reached, ""]
    for result in results.values():
        lines += [f"## {result.title}", "", *table(result), ""]
    return "\n".join(lines)


def table(result: Result) -> list[str]:
    """One case as aligned Markdown."""
    names = [name for name in result.rows if result.samples(name)]
    base = OURS if OURS in names else (names[0] if names else "")
    metrics = [
        (key, metric)
        for key, metric in METRICS.items()
        if any(key in sample for name in names for sample in result.samples(name))
    ]
    rows = [["", *(metric.title for _, metric in metrics)]]
    for name in names:
        rows.append([name, *(_cell(result, name, base, key, metric) for key, metric in metrics)])
    lines = aligned(rows) if names else ["Nothing measured."]
    if result.note:
        lines += ["", result.note]
    lines += [""] * bool(result.skipped)
    lines += [f"- {name}: left out, {reason}" for name, reason in result.skipped.items()]
    for name in names:
        noise = result.value(name, "foreign") or 0
        if noise > NOISE:
            lines += ["", f"{name}: others used {noise:.0%} of its core meanwhile."]
        errors = sum(sample.get("errors", 0) for sample in result.samples(name))
        if errors:
            lines += ["", f"{name}: {errors:.0f} failed requests over the rounds."]
    return lines


def _base(results: Mapping[str, Result]) -> str:
    for result in results.values():
        if result.samples(OURS):
            return OURS
    return next((name for result in results.values() for name in result.rows), "")


def _cell(result: Result, name: str, base: str, key: str, metric: Metric) -> str:
    values = [sample[key] for sample in result.samples(name) if key in sample]
    if not values:
        return ""
    text = number(median(values), metric.digits)
    if len(values) > 1 and metric.ratio:
        text += f" ({number(min(values), metric.digits)}–{number(max(values), metric.digits)})"
    ratio = result.ratio(name, base, key) if metric.ratio else None
    return text if ratio is None else f"{text} {ratio:.2f}x"
