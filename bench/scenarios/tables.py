"""The figures of the scenario bench as tables, for the terminal and for Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report import aligned, provenance
from bench.scenarios.goals import GOALS, is_peer
from bench.scenarios.scripts import Scenario

Result = Mapping[str, Any]


def tables(scenario: Scenario, rows: Mapping[str, Result]) -> list[str]:
    """One scenario: a line for each candidate over the whole run, then one for each of its phases."""
    lines = [f"### {scenario.title}", ""]
    lines += _table(_OVERALL, [(name, *_overall(result)) for name, result in rows.items()])
    for number, (start, name) in enumerate(scenario.phases):
        lines += ["", f"From {start:g} s: {name}", ""]
        lines += _table(
            _PHASE, [(row, *_part(result["phases"][number])) for row, result in rows.items()]
        )
    return [*lines, ""]


def overview(
    results: Mapping[str, Mapping[str, Result]], scenarios: Sequence[Scenario]
) -> list[str]:
    """Every scenario in one table: failed requests and p99 of each candidate."""
    names: list[str] = []
    for rows in results.values():
        names += [row for row in rows if row not in names and "/" not in row]
    lines = []
    for scenario in scenarios:
        if scenario.name in results:
            cells = [_cell(results[scenario.name].get(name)) for name in names]
            lines.append((scenario.title, *cells))
    head = ["scenario: failed GET + POST, p99 ms", *names]
    return _table(head, lines)


def reached(results: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """The goals, and whether each of our variants has met them."""
    names: list[str] = []
    for rows in results.values():
        names += [row for row in rows if row not in names and not is_peer(row) and "/" not in row]
    lines = [
        (goal.what, goal.target, *(str(goal.judge(results, name)) for name in names))
        for goal in GOALS
    ]
    return _table(["goal", "target", *names], lines) if names else []


def markdown(
    results: Mapping[str, Mapping[str, Result]],
    scenarios: Sequence[Scenario],
    facts: Mapping[str, Any],
) -> str:
    """The whole report."""
    lines = [
        f"Measured {facts['date']}, {facts['cores']} cores, load average of the machine"
        f" {facts['load']} before and {facts['load_after']} after.",
        "",
        *provenance(facts, "left out"),
        "",
        *overview(results, scenarios),
        "",
        *reached(results),
        "",
    ]
    for scenario in scenarios:
        if results.get(scenario.name):
            lines += tables(scenario, results[scenario.name])
    return "\n".join(lines)


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    whole = result["all"]
    return f"{whole['failed_get']} + {whole['failed_post']}, {whole['p99_ms']:,.0f}"


_OVERALL = [
    "candidate", "failed", "GET", "POST", "p50 ms", "p99", "p99.9", "max", "POSTs run twice",
    "failed POSTs never run", "used again after s", "furthest from equal", "load late p99 ms",
]  # fmt: skip


def _overall(result: Result) -> tuple[str, ...]:
    whole = result["all"]
    back = result.get("first_answer_after_s")
    off = result.get("settled_off")
    return (
        f"{whole['failed']} of {whole['requests']:,}",
        str(whole["failed_get"]),
        str(whole["failed_post"]),
        f"{whole['p50_ms']:.1f}",
        f"{whole['p99_ms']:,.0f}",
        f"{whole['p999_ms']:,.0f}",
        f"{whole['max_ms']:,.0f}",
        str(result["posts_executed_twice"]),
        str(result["failed_posts_not_executed"]),
        ", ".join("never" if v is None else f"{v:.1f}" for v in back.values()) if back else "",
        f"{off:.1%}" if off is not None else "",
        f"{result['late_p99_ms']:.1f}",
    )


_PHASE = ["candidate", "requests", "GET errors", "POST errors", "p50 ms", "p99", "max", "shares"]


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(part["requests"]),
        _kinds(part, "GET"),
        _kinds(part, "POST"),
        f"{part['p50_ms']:.1f}",
        f"{part['p99_ms']:,.0f}",
        f"{part['max_ms']:,.0f}",
        _shares(part["shares"]),
    )


def _kinds(part: Mapping[str, Any], method: str) -> str:
    kinds = part["errors"].get(method, {})
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items())) or "0"


def _shares(shares: Sequence[float]) -> str:
    if len(shares) <= 4:
        return " ".join(f"{share:.1%}" for share in shares)
    others = shares[1:]
    return f"first {shares[0]:.1%}, others {min(others):.1%}–{max(others):.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned([head, *rows], figures=False)
