"""What rounds come to."""

from __future__ import annotations

import json

from bench.speed.results import Result, as_json


def test_a_value_is_the_median_of_the_rounds() -> None:
    """Rounds that failed do not count, nor those without the metric."""
    result = Result("Small", rows={"ours": [{"rps": 1.0}, None, {"rps": 5.0}, {"rps": 2.0}, {}]})
    assert result.value("ours", "rps") == 2.0
    assert result.value("ours", "cpu_us") is None
    assert result.value("nginx", "rps") is None


def test_a_ratio_is_taken_within_a_round() -> None:
    """The machine was slow in the second: both were, and the ratio is what it was."""
    result = Result(
        "Small",
        rows={
            "ours": [{"rps": 30.0}, {"rps": 3.0}, {"rps": 20.0}],
            "nginx": [{"rps": 60.0}, {"rps": 6.0}, None],
        },
    )
    assert result.ratio("ours", "nginx", "rps") == 0.5


def test_nothing_is_divided_by_nothing() -> None:
    """No ratio to a peer that was not measured, or whose figure is 0."""
    result = Result("Small", rows={"ours": [{"rps": 30.0}], "nginx": [{"rps": 0.0}]})
    assert result.ratio("ours", "nginx", "rps") is None
    assert result.ratio("ours", "envoy", "rps") is None


def test_the_form_of_the_json() -> None:
    """Facts at the top, of each case its rounds and medians: what saved results have."""
    result = Result("Small GET", rows={"ours": [{"rps": 1.0}, None]}, skipped={"envoy": "gone"})
    whole = as_json({"small": result}, {"date": "today"})
    assert json.loads(json.dumps(whole)) == {
        "date": "today",
        "cases": {
            "small": {
                "title": "Small GET",
                "rounds": {"ours": [{"rps": 1.0}, None]},
                "skipped": {"envoy": "gone"},
                "median": {"ours": {"rps": 1.0}},
            }
        },
    }
