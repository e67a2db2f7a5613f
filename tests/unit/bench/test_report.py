"""What the reports of both benches are made of."""

from __future__ import annotations

import json
from pathlib import Path

from bench.report import aligned, number, provenance, save


def test_figures_are_flush_right() -> None:
    """The first column holds names and stays left; Markdown is told the same."""
    assert aligned([["", "requests/s"], ["ours", "9"]]) == [
        "|      | requests/s |",
        "|------|-----------:|",
        "| ours |          9 |",
    ]


def test_words_are_flush_left() -> None:
    """Where cells hold words and figures."""
    assert aligned([["goal", "ours"], ["failed GETs", "0: met"]], figures=False) == [
        "| goal        | ours   |",
        "|-------------|--------|",
        "| failed GETs | 0: met |",
    ]


def test_numbers_have_separators() -> None:
    """And as many digits as their column says."""
    assert number(12345.678, 1) == "12,345.7"


def test_who_was_measured_and_who_was_not() -> None:
    """With the reason."""
    facts = {"versions": {"nginx": "1.22.1"}, "missing": {"haproxy": "haproxy is not installed"}}
    assert provenance(facts, "left out") == [
        "- nginx: 1.22.1",
        "- left out: haproxy: haproxy is not installed",
    ]


def test_results_are_saved_as_both(tmp_path: Path) -> None:
    """In a folder that need not be there."""
    save(tmp_path / "results", "run", {"µ": 1}, "# Run\n")
    assert json.loads((tmp_path / "results" / "run.json").read_text()) == {"µ": 1}
    assert (tmp_path / "results" / "run.md").read_text() == "# Run\n"
