"""What one run came to: errors by kind, latencies, shares; for each phase and over all. Pure.

A request belongs to the phase in which it was due. It failed unless it was answered 200 with the
whole of its own body. Latency runs from when it was due to its last byte or its failure, and all
requests count, failed ones too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bench.load.schedule import percentile
from bench.scenarios.scripts import Scenario

SETTLE_SECONDS = 2.0
"""What a repaired server is given, after its first passed check, before its share is judged."""
DEADLY = ("kill", "hang", "terminate")
SETTLED_REQUESTS = 200
"""Among fewer, a single retry moves a share by as much as is judged."""
WAKE_SECONDS = 0.05
"""A server that hung acts first upon what it finds in its sockets: nobody waits for that any more."""


def summarize(
    scenario: Scenario,
    columns: dict[str, Any],
    executed: Iterable[tuple[bool, int]],
    checks: Iterable[tuple[int, float]],
) -> dict[str, Any]:
    """``executed``: (is a POST, number); ``checks``: (server, when it passed one)."""
    due, count = columns["due"], len(columns["due"])
    bounds = [start for start, _ in scenario.phases] + [scenario.seconds]
    phases = []
    for number, (start, name) in enumerate(scenario.phases):
        chosen = [i for i in range(count) if start <= due[i] < bounds[number + 1]]
        phases.append({"name": name, "from": start, **_part(columns, chosen, scenario.servers)})
    lateness = sorted(s - d for s, d in zip(columns["sent"], due, strict=True))
    return {
        "all": _part(columns, range(count), scenario.servers),
        "phases": phases,
        "late_p99_ms": _ms(percentile(lateness, 0.99)),
        "late_max_ms": _ms(lateness[-1]),
        "connections": columns["connections"],
        **_executions(columns, executed),
        **_return(scenario, columns, checks),
    }


def _part(columns: dict[str, Any], chosen: Sequence[int], servers: int) -> dict[str, Any]:
    latencies = sorted(columns["done"][i] - columns["due"][i] for i in chosen)
    errors: dict[str, Counter[str]] = {"GET": Counter(), "POST": Counter()}
    shares: Counter[int] = Counter()
    for i in chosen:
        if columns["outcome"][i]:
            errors["POST" if columns["post"][i] else "GET"][columns["outcome"][i]] += 1
        if columns["server"][i] >= 0:
            shares[columns["server"][i]] += 1
    answered = sum(shares.values()) or 1
    return {
        "requests": len(chosen),
        "posts": sum(columns["post"][i] for i in chosen),
        "failed": sum(sum(kinds.values()) for kinds in errors.values()),
        "failed_get": sum(errors["GET"].values()),
        "failed_post": sum(errors["POST"].values()),
        "errors": {method: dict(kinds) for method, kinds in errors.items() if kinds},
        "p50_ms": _ms(percentile(latencies, 0.5)),
        "p99_ms": _ms(percentile(latencies, 0.99)),
        "p999_ms": _ms(percentile(latencies, 0.999)),
        "max_ms": _ms(latencies[-1] if latencies else 0.0),
        "shares": [round(shares[server] / answered, 4) for server in range(servers)],
    }


def _executions(columns: dict[str, Any], executed: Iterable[tuple[bool, int]]) -> dict[str, Any]:
    """Requests acted upon more than once, and failed POSTs that no server has acted upon."""
    times: Counter[int] = Counter()
    gets: Counter[int] = Counter()
    total = 0
    for is_post, number in executed:
        total += 1
        (times if is_post else gets)[number] += 1
    failed = [i for i, kind in enumerate(columns["outcome"]) if kind and columns["post"][i]]
    return {
        "executed": total,
        "gets_executed_twice": sum(1 for count in gets.values() if count > 1),
        "posts_executed_twice": sum(1 for count in times.values() if count > 1),
        "failed_posts_executed": sum(1 for i in failed if times[i]),
        "failed_posts_not_executed": sum(1 for i in failed if not times[i]),
    }


def _return(
    scenario: Scenario, columns: dict[str, Any], checks: Iterable[tuple[int, float]]
) -> dict[str, Any]:
    """How long repaired servers took to be checked and to be used again, and the shares afterwards."""
    if not scenario.repaired:
        return {}
    answers = zip(columns["server"], columns["due"], strict=True)
    answered, checked = _firsts(scenario, answers), _firsts(scenario, checks)
    found: dict[str, Any] = {"first_answer_after_s": answered, "first_check_after_s": checked}
    # Of a server whose checks passed all the time, the first that passes tells nobody of its repair.
    found["is_seen_by_checks"] = any(order.verb in DEADLY for order in scenario.orders)
    # A peer without active checks is judged from its first answers on.
    since = [checked[one] or answered[one] or 0.0 for one in scenario.repaired]
    settled_at = scenario.repair_at + max(since) + SETTLE_SECONDS
    shares: Counter[int] = Counter(
        server
        for server, due in zip(columns["server"], columns["due"], strict=True)
        if server >= 0 and settled_at <= due < scenario.until
    )
    total = sum(shares.values())
    if total >= SETTLED_REQUESTS:
        parts = [shares[server] / total for server in range(scenario.servers)]
        found["settled_shares"] = [round(part, 4) for part in parts]
        found["settled_requests"] = total
        found["settled_off"] = round(max(abs(p * len(parts) - 1) for p in parts), 4)
    return found


def _firsts(scenario: Scenario, moments: Iterable[tuple[int, float]]) -> dict[int, float | None]:
    """Of each repaired server the first moment after the repair, counted from it."""
    first: dict[int, float | None] = dict.fromkeys(scenario.repaired)
    since = scenario.repair_at + WAKE_SECONDS
    for server, moment in sorted(moments, key=lambda pair: pair[1]):
        if server in first and first[server] is None and since <= moment < scenario.until:
            first[server] = round(moment - scenario.repair_at, 3)
    return first


def doubts(scenario: Scenario, result: dict[str, Any]) -> list[str]:
    """What says that the bench itself, rather than the candidate, went wrong."""
    found = []
    well = result["phases"][0]
    # One that was due just before the first fault may well meet it.
    if well["failed"] > well["requests"] / 100:
        found.append(f"{well['failed']} requests failed while all was well")
    if min(well["shares"]) == 0 and scenario.algorithms[0] == "round_robin":
        found.append("a server got nothing while all was well")
    if empty := [phase["name"] for phase in result["phases"] if not phase["requests"]]:
        found.append(f"phases without requests: {', '.join(empty)}")
    if result["executed"] < result["all"]["requests"] - result["all"]["failed"]:
        found.append("more requests were answered than the servers acted upon")
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)
