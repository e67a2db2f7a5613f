"""The tables of the speed bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.speed.cases import ALL
from bench.speed.results import Result, as_json
from bench.speed.tables import markdown, table

SAVED = sorted((Path(__file__).parents[4] / "bench" / "results").glob("2*.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_saved_results_still_make_the_report_that_was_saved(path: Path) -> None:
    """Results are kept for years: their JSON is read, and says the same to the letter."""
    saved = json.loads(path.read_text())
    notes = {case.name: case.note for case in ALL}
    results = {
        name: Result(case["title"], notes[name], case["rounds"], case["skipped"])
        for name, case in saved["cases"].items()
    }
    facts = {name: value for name, value in saved.items() if name != "cases"}
    assert markdown(results, facts) == path.with_suffix(".md").read_text()
    assert as_json(results, facts) == saved


def test_each_cell_has_median_spread_and_ratio() -> None:
    """Ours is what the others are compared with; what has no ratio shows its median alone."""
    result = Result(
        "Small",
        rows={
            "ours": [{"rps": 1000.0, "busy": 0.99}, {"rps": 3000.0, "busy": 0.97}],
            "nginx": [{"rps": 2000.0, "busy": 0.5}, {"rps": 6000.0, "busy": 0.5}],
        },
    )
    assert table(result)[2:] == [
        "| ours  | 2,000 (1,000–3,000) 1.00x |       0.98 |",
        "| nginx | 4,000 (2,000–6,000) 2.00x |       0.50 |",
    ]


def test_without_ours_the_first_is_compared_with() -> None:
    """So that a run of two peers says something too."""
    rows = {"envoy": [{"rps": 4.0}], "nginx": [{"rps": 2.0}]}
    assert [line.split()[-2] for line in table(Result("Small", rows=rows))[2:]] == [
        "1.00x",
        "0.50x",
    ]


def test_what_is_wrong_with_a_row_stands_below() -> None:
    """Who was left out, whose core others used, who failed requests."""
    result = Result(
        "Small",
        note="Off in all.",
        rows={"ours": [{"rps": 1.0, "foreign": 0.3, "errors": 2.0}]},
        skipped={"envoy": "it did not start"},
    )
    assert [line for line in table(result)[3:] if line] == [
        "Off in all.",
        "- envoy: left out, it did not start",
        "ours: others used 30% of its core meanwhile.",
        "ours: 2 failed requests over the rounds.",
    ]


def test_nothing_measured() -> None:
    """All rounds failed."""
    result = Result("Small", rows={"ours": [None]}, skipped={"ours": "round 1: it did not start"})
    assert table(result)[0] == "Nothing measured."
