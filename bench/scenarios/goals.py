"""What this balancer sets out to reach in these scenarios, and whether it did. Pure.

Peers are the candidates of the same run that are not ours; a goal that is relative to the best of them is
open while none was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.peers import OURS

Result = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Result]]

PEER_SHARE_FAILED = 1 / 2
PEER_SHARE_P99 = 1 / 4
MOST_FAILED = 5
P99_MS = 100.0
OFF = 0.02
SLOW_SHARE = 1 / 5


@dataclass(frozen=True)
class Verdict:
    """``is_met`` is None where something that it needs was not measured."""

    figure: str
    is_met: bool | None

    def __str__(self) -> str:
        if not self.figure:
            return ""
        return self.figure if self.is_met is None else f"{self.figure}: {WORDS[self.is_met]}"


WORDS = {True: "met", False: "missed"}
NOTHING = Verdict("", None)


@dataclass(frozen=True)
class Goal:
    """A row of ``GOALS``."""

    what: str
    target: str
    judge: Callable[[Results, str], Verdict]
    """(results, candidate) → verdict."""


def _failed(results: Results, name: str) -> Verdict:
    return _beside_peers(results, name, "failed", PEER_SHARE_FAILED, "{:.0f}")


def _failed_few(results: Results, name: str) -> Verdict:
    return _below(results, name, "failed", MOST_FAILED, "{:.0f}")


def _failed_gets(results: Results, name: str) -> Verdict:
    return _below(results, name, "failed_get", 0, "{:.0f}")


def _p99(results: Results, name: str) -> Verdict:
    return _beside_peers(results, name, "p99_ms", PEER_SHARE_P99, "{:,.0f} ms")


def _p99_low(results: Results, name: str) -> Verdict:
    return _below(results, name, "p99_ms", P99_MS, "{:,.0f} ms")


def _even(results: Results, name: str) -> Verdict:
    """The worst of all scenarios in which servers go down for the checks too, and are repaired."""
    rows = [(title, rows[name]) for title, rows in results.items() if name in rows]
    found = [
        (row["settled_off"], title)
        for title, row in rows
        if "settled_off" in row and row["is_seen_by_checks"] and row["algorithm"] == "round_robin"
    ]
    if not found:
        return NOTHING
    off, title = max(found)
    return Verdict(f"{off:.1%} off ({title})", off <= OFF)


def _rolling(results: Results, name: str) -> Verdict:
    row = results.get("rolling", {}).get(name)
    if row is None:
        return NOTHING
    gets, unsent = row["all"]["failed_get"], row["failed_posts_not_executed"]
    return Verdict(f"{gets} GET, {unsent} POST", gets == 0 and unsent == 0)


def _rolling_all(results: Results, name: str) -> Verdict:
    row = results.get("rolling", {}).get(name)
    if row is None:
        return NOTHING
    return Verdict(str(row["all"]["failed"]), row["all"]["failed"] == 0)


def _slow(results: Results, name: str) -> Verdict:
    """By load or latency, beside round robin of the same balancer."""
    rows = results.get("slow", {})
    turns = rows.get(OURS)
    if turns is None:
        return NOTHING
    others = [row for title, row in rows.items() if title.startswith(f"{name}/")]
    if name in rows and rows[name]["algorithm"] != "round_robin":
        others.append(rows[name])
    if not others:
        return NOTHING
    best, limit = min(map(_slow_p99, others)), _slow_p99(turns) * SLOW_SHARE
    return Verdict(f"{best:,.0f} ms of {_slow_p99(turns):,.0f}", best <= limit)


def _slow_p99(row: Result) -> float:
    """Of the phase in which one server is slow."""
    return float(row["phases"][1]["p99_ms"])


def _beside_peers(results: Results, name: str, key: str, share: float, form: str) -> Verdict:
    rows = results.get("combined", {})
    if name not in rows:
        return NOTHING
    own = rows[name]["all"][key]
    peers = [row["all"][key] for title, row in rows.items() if is_peer(title)]
    if not peers:
        return Verdict(form.format(own), None)
    best = min(peers)
    return Verdict(f"{form.format(own)}, best peer {form.format(best)}", own <= best * share)


def _below(results: Results, name: str, key: str, limit: float, form: str) -> Verdict:
    rows = results.get("combined", {})
    if name not in rows:
        return NOTHING
    own = rows[name]["all"][key]
    return Verdict(form.format(own), own <= limit)


def is_peer(name: str) -> bool:
    return not name.startswith(OURS) and "/" not in name


GOALS = (
    Goal("failed requests, all phases", "≤ half of the best peer", _failed),
    Goal("the same, moonshot", f"≤ {MOST_FAILED} of 16,000", _failed_few),
    Goal("failed GETs", "0", _failed_gets),
    Goal("p99 overall", "≤ 1/4 of the best peer", _p99),
    Goal("the same, moonshot", f"≤ {P99_MS:.0f} ms", _p99_low),
    Goal("shares after repair, round robin", "within 2 % of equal, 2 s after the check", _even),
    Goal("rolling restart", "0 failed GETs, 0 failed POSTs never run", _rolling),
    Goal("the same, moonshot", "0 failed", _rolling_all),
    Goal("slow server, by load or latency", "p99 ≤ 1/5 of round robin's", _slow),
)
