"""The bounds that this balancer has set itself for speed, and whether a run has met them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.peers import OURS
from bench.report import aligned, number
from bench.speed.results import Result


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


def judged(results: Mapping[str, Result]) -> list[str]:
    """What this run says about each goal that it measured."""
    rows = [["goal", "bound", "measured", ""]]
    for goal in GOALS:
        result = results.get(goal.case)
        if result is None:
            continue
        found = (
            result.ratio(OURS, goal.peer, goal.metric)
            if goal.peer
            else result.value(OURS, goal.metric)
        )
        if found is None:
            continue
        met = found >= goal.bound if goal.at_least else found <= goal.bound
        unit = "x" if goal.peer else ""
        sign = "≥" if goal.at_least else "≤"
        rows.append(
            [
                goal.text,
                f"{sign} {number(goal.bound, 2)}{unit}",
                f"{number(found, 2)}{unit}",
                "met" if met else "missed",
            ]
        )
    return aligned(rows) if len(rows) > 1 else []
