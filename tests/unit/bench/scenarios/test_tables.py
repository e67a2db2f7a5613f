"""The tables of the scenario bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.scenarios.scripts import ALL, Scenario
from bench.scenarios.tables import markdown, overview, reached, tables

RESULTS = Path(__file__).parents[4] / "bench" / "scenarios" / "results"


def part(failed: int = 0, **errors: dict[str, int]) -> dict[str, Any]:
    return {
        "requests": 1200, "failed": failed, "failed_get": failed, "failed_post": 0, "errors": errors,
        "p50_ms": 4.56, "p99_ms": 2005.4, "p999_ms": 2006.0, "max_ms": 2010.0,
        "shares": [0.5, 0.5],
    }  # fmt: skip


def result(**more: Any) -> dict[str, Any]:
    return {
        "all": part(2),
        "phases": [part(), part(2, GET={"closed": 1, "504": 1})],
        "posts_executed_twice": 0,
        "failed_posts_not_executed": 0,
        "late_p99_ms": 0.12,
        "algorithm": "round_robin",
        **more,
    }


KILL = Scenario("kill", "One is killed", 4.0, ((0, "all well"), (2.5, "one killed")), (), servers=2)


def test_saved_results_still_make_the_report_that_was_saved() -> None:
    """Results are kept for years: their JSON is read, and says the same to the letter."""
    saved = json.loads((RESULTS / "failures.json").read_text())
    measured = [scenario for scenario in ALL if scenario.name in saved["results"]]
    text = markdown(saved["results"], measured, saved["facts"])
    assert text == (RESULTS / "failures.md").read_text()


def test_a_scenario_has_a_table_for_the_whole_and_one_for_each_phase() -> None:
    """Each kind of error with its number; a server that never came back is named so."""
    lines = tables(KILL, {"ours": result(first_answer_after_s={"0": None, "1": 1.04})})
    assert [line for line in lines if line.startswith(("#", "From"))] == [
        "### One is killed",
        "From 0 s: all well",
        "From 2.5 s: one killed",
    ]
    assert "| ours      | 2 of 1,200 | 2   | 0    | 4.6    | 2,005 |" in lines[4]
    assert "| never, 1.0 " in lines[4]
    assert "1 × 504, 1 × closed" in lines[-2]


def test_shares_of_many_servers_are_told_as_a_range() -> None:
    """The first is the one with the fault."""
    many = {**part(), "shares": [0.04, *[0.24] * 3, 0.24]}
    lines = tables(KILL, {"ours": result(phases=[many, many])})
    assert "first 4.0%, others 24.0%–24.0%" in lines[-2]


def test_the_overview_has_a_column_for_each_candidate() -> None:
    """Not for one under another algorithm; empty where a candidate was not measured."""
    rows = {"ours": result(), "ours/peak_ewma": result()}
    lines = overview({"kill": rows, "other": {"nginx": result()}}, [KILL])
    assert lines[0] == "| scenario: failed GET + POST, p99 ms | ours         | nginx |"
    assert lines[2] == "| One is killed                       | 2 + 0, 2,005 |       |"


def test_goals_are_told_of_ours_alone() -> None:
    """Peers have no goals, and without ours there is no table."""
    assert reached({"combined": {"nginx": result()}}) == []
    lines = reached({"combined": {"ours": result(), "nginx": result()}})
    assert lines[0].split("|")[3].strip() == "ours"
    assert "nginx" not in lines[0]
    assert any("2, best peer 2: missed" in line for line in lines)
