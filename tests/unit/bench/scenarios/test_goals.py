"""What the scenario bench says of our goals: met, missed, or open."""

from __future__ import annotations

from typing import Any

from bench.scenarios.goals import GOALS, Verdict


def whole(failed: int, gets: int, p99: float) -> dict[str, Any]:
    return {
        "all": {"failed": failed, "failed_get": gets, "p99_ms": p99},
        "algorithm": "round_robin",
        "settled_off": 0.01,
        "is_seen_by_checks": True,
    }


def slow(p99: float, algorithm: str) -> dict[str, Any]:
    return {"phases": [{"p99_ms": 9.0}, {"p99_ms": p99}], "algorithm": algorithm}


def verdicts(results: dict[str, Any], name: str = "ours") -> dict[str, Verdict]:
    return {goal.target: goal.judge(results, name) for goal in GOALS}


def test_goals_beside_the_best_peer() -> None:
    """Half of its failures and a quarter of its p99; a variant of ours is no peer."""
    combined = {
        "ours": whole(10, 0, 500.0),
        "ours-tuned": whole(0, 0, 1.0),
        "nginx": whole(20, 1, 2001.0),
        "envoy": whole(90, 1, 1900.0),
    }
    found = verdicts({"combined": combined})
    assert found["≤ half of the best peer"] == Verdict("10, best peer 20", True)
    assert found["≤ 1/4 of the best peer"] == Verdict("500 ms, best peer 1,900 ms", False)
    assert found["≤ 5 of 16,000"].is_met is False
    assert found["0"].is_met is True


def test_goals_without_peers_are_open() -> None:
    """The figure is shown, nothing is claimed; what was not measured has no figure."""
    found = verdicts({"combined": {"ours": whole(0, 0, 5.0)}})
    assert found["≤ half of the best peer"] == Verdict("0", None)
    assert str(found["p99 ≤ 1/5 of round robin's"]) == ""


def test_evenness_is_that_of_the_worst_scenario() -> None:
    """Only of round robin, others share by load; only where checks can see the fault and its repair."""
    bad = {**whole(0, 0, 1.0), "settled_off": 0.03}
    results = {"combined": {"ours": whole(0, 0, 1.0)}, "hang": {"ours": bad}}
    target = "within 2 % of equal, 2 s after the check"
    assert verdicts(results)[target] == Verdict("3.0% off (hang)", False)
    assert (
        verdicts({"errors": {"ours": {**bad, "is_seen_by_checks": False}}})[target].is_met is None
    )
    bad["algorithm"] = "peak_ewma"
    assert verdicts(results)[target].is_met is True


def test_a_slow_server_is_judged_beside_our_own_round_robin() -> None:
    """In the phase in which it is slow, by the better of the two algorithms."""
    rows = {
        "ours": slow(200.0, "round_robin"),
        "ours/peak_ewma": slow(40.0, "peak_ewma"),
        "ours/least_connections": slow(90.0, "least_connections"),
        "nginx": slow(1.0, "round_robin"),
        "ours-tuned": slow(41.0, "peak_ewma"),
    }
    target = "p99 ≤ 1/5 of round robin's"
    assert verdicts({"slow": rows})[target] == Verdict("40 ms of 200", True)
    assert verdicts({"slow": rows}, "ours-tuned")[target].is_met is False
