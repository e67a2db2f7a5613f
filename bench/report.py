"""From samples to tables: medians, spreads, ratios to ours, goals; JSON and Markdown. Pure.

A ratio is taken within a round, where both sides had the same neighbours on the machine, and
its median is reported. Without ours in the run the first candidate is what the others are
compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.cases import METRICS, Metric, Sample

BASE = "ours"
NOISE = 0.05
"""Above this share of others on the proxy's core a row is marked."""


@dataclass
class Result:
    """Of one case."""

    title: str
    note: str = ""
    rows: dict[str, list[Sample | None]] = field(default_factory=dict)
    """By candidate, one entry a round; None where that round failed."""
    skipped: dict[str, str] = field(default_factory=dict)

    def samples(self, name: str) -> list[Sample]:
        return [sample for sample in self.rows.get(name, []) if sample is not None]

    def value(self, name: str, metric: str) -> float | None:
        values = [sample[metric] for sample in self.samples(name) if metric in sample]
        return median(values) if values else None

    def ratio(self, name: str, base: str, metric: str) -> float | None:
        """Median over rounds of ``name`` divided by ``base``."""
        ratios = [
            one[metric] / other[metric]
            for one, other in zip(self.rows.get(name, []), self.rows.get(base, []), strict=False)
            if one and other and one.get(metric) is not None and other.get(metric)
        ]
        return median(ratios) if ratios else None


@dataclass(frozen=True)
class Goal:
    """One bound that this balancer has set itself."""

    text: str
    case: str
    metric: str
    peer: str | None
    bound: float
    at_least: bool


GOALS = (
    Goal("small GET, requests/s, of Envoy", "small", "rps", "envoy", 1.0, True),
    Goal("small GET, requests/s, of Caddy", "small", "rps", "caddy", 1.8, True),
    Goal("small GET, requests/s, of the aiohttp proxy", "small", "rps", "aiohttp", 2.6, True),
    Goal("small GET, requests/s, of nginx", "small", "rps", "nginx", 0.40, True),
    Goal("small GET, CPU a request, of Envoy", "small", "cpu_us", "envoy", 1.0, False),
    Goal("small GET, CPU a request, of Caddy", "small", "cpu_us", "caddy", 1 / 1.8, False),
    Goal(
        "small GET, CPU a request, of the aiohttp proxy",
        "small",
        "cpu_us",
        "aiohttp",
        1 / 2.6,
        False,
    ),
    Goal("small GET, CPU a request, of nginx", "small", "cpu_us", "nginx", 1 / 0.40, False),
    *(
        Goal(f"download, CPU s/GB, of {peer}", "download", "cpu_s_gb", peer, 1.0, False)
        for peer in ("envoy", "caddy", "haproxy", "haproxy-copying", "nginx")
    ),
    *(
        Goal(f"upload, CPU s/GB, of {peer}", "upload", "cpu_s_gb", peer, 1.0, False)
        for peer in ("nginx", "caddy")
    ),
    Goal("PSS KiB for each idle connection", "idle", "idle_pss_kib", None, 13, False),
    Goal("p99 at half load, of Envoy", "half_load", "p99_ms", "envoy", 1.5, False),
    Goal("start to first served request, s", "start", "start_s", None, 1.0, False),
    Goal("memory of master, control, one worker, PSS MiB", "memory", "pss_mib", None, 120, False),
)


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
        *(f"- {name}: {version}" for name, version in facts["versions"].items()),
        *(f"- not measured: {name}: {reason}" for name, reason in facts["missing"].items()),
        "",
    ]
    reached = goals(results)
    if reached:
        lines += ["## Goals", "", *reached, ""]
    for result in results.values():
        lines += [f"## {result.title}", "", *table(result), ""]
    return "\n".join(lines)


def table(result: Result) -> list[str]:
    """One case as aligned Markdown."""
    names = [name for name in result.rows if result.samples(name)]
    base = BASE if BASE in names else (names[0] if names else "")
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


def goals(results: Mapping[str, Result]) -> list[str]:
    """What this run says about each goal that it measured."""
    rows = [["goal", "bound", "measured", ""]]
    for goal in GOALS:
        result = results.get(goal.case)
        if result is None:
            continue
        found = (
            result.ratio(BASE, goal.peer, goal.metric)
            if goal.peer
            else result.value(BASE, goal.metric)
        )
        if found is None:
            continue
        met = found >= goal.bound if goal.at_least else found <= goal.bound
        unit = "x" if goal.peer else ""
        sign = "≥" if goal.at_least else "≤"
        rows.append(
            [
                goal.text,
                f"{sign} {_number(goal.bound, 2)}{unit}",
                f"{_number(found, 2)}{unit}",
                "met" if met else "missed",
            ]
        )
    return aligned(rows) if len(rows) > 1 else []


def as_json(results: Mapping[str, Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "cases": {
            case: {
                "title": result.title,
                "rounds": result.rows,
                "skipped": result.skipped,
                "median": {
                    name: {
                        key: result.value(name, key)
                        for key in METRICS
                        if result.value(name, key) is not None
                    }
                    for name in result.rows
                },
            }
            for case, result in results.items()
        },
    }


def _base(results: Mapping[str, Result]) -> str:
    for result in results.values():
        if result.samples(BASE):
            return BASE
    return next((name for result in results.values() for name in result.rows), "")


def _cell(result: Result, name: str, base: str, key: str, metric: Metric) -> str:
    values = [sample[key] for sample in result.samples(name) if key in sample]
    if not values:
        return ""
    text = _number(median(values), metric.digits)
    if len(values) > 1 and metric.ratio:
        text += f" ({_number(min(values), metric.digits)}–{_number(max(values), metric.digits)})"
    ratio = result.ratio(name, base, key) if metric.ratio else None
    return text if ratio is None else f"{text} {ratio:.2f}x"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows, the first of them the heads, as a Markdown table that also reads well as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    marks = [
        "-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths)
    ]
    return [lines[0], "|" + "|".join(marks) + "|", *lines[1:]]
