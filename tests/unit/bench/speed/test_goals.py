"""The goals of the speed bench."""

from __future__ import annotations

from bench.speed.cases import ALL
from bench.speed.goals import GOALS, judged
from bench.speed.metrics import METRICS
from bench.speed.results import Result


def verdicts(**cases: dict[str, float]) -> dict[str, str]:
    """{goal: its last three cells}; each case has {candidate/metric: value}."""
    results = {}
    for case, values in cases.items():
        rows: dict[str, dict[str, float]] = {}
        for key, value in values.items():
            name, _, metric = key.partition("/")
            rows.setdefault(name, {})[metric] = value
        results[case] = Result(case, rows={name: [sample] for name, sample in rows.items()})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in judged(results)[2:]]
    return {goal: " ".join(cells) for goal, *cells in lines}


def test_a_goal_beside_a_peer_is_a_ratio() -> None:
    """More requests are better, less CPU is better; the bound itself is met."""
    found = verdicts(
        small={"ours/rps": 40.0, "nginx/rps": 100.0, "ours/cpu_us": 26.0, "nginx/cpu_us": 10.0}
    )
    assert found == {
        "small GET, requests/s, of nginx": "≥ 0.40x 0.40x met",
        "small GET, CPU a request, of nginx": "≤ 2.50x 2.60x missed",
    }


def test_a_goal_without_a_peer_is_a_figure() -> None:
    """Peers' own are no matter."""
    found = verdicts(start={"ours/start_s": 1.01, "nginx/start_s": 9.0})
    assert found == {"start to first served request, s": "≤ 1.00 1.01 missed"}


def test_what_was_not_measured_is_not_judged() -> None:
    """No peer, no case, no table."""
    assert judged({}) == []
    assert verdicts(small={"ours/rps": 1.0}) == {}


def test_goals_are_about_what_is_measured() -> None:
    """Cases and metrics that exist, each pair of bound and peer once."""
    names = {case.name for case in ALL}
    assert all(goal.case in names and goal.metric in METRICS for goal in GOALS)
    assert all(goal.at_least == METRICS[goal.metric].higher_is_better for goal in GOALS)
    assert len({(goal.case, goal.metric, goal.peer) for goal in GOALS}) == len(GOALS)
