"""docs/http.md names a test for each rule: they exist."""

from __future__ import annotations

import re
from pathlib import Path

from replay import corpus

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"`((?:requests|responses)/[^`]+|tests/[^`]+)`")


def test_every_test_that_is_named_exists() -> None:
    """Cases by class and name, other tests by file and function."""
    cases = {str(case) for case in corpus.load()}
    groups = {case.group for case in corpus.load()}
    found = REFERENCE.findall(TEXT)
    assert len(found) > 80
    for reference in found:
        if reference.startswith("tests/"):
            path, _, function = reference.partition("::")
            assert (ROOT / path).exists(), reference
            if function:
                assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), reference
        else:
            assert reference in cases | groups, reference


def test_every_rule_is_held_or_said_to_be_missing() -> None:
    """A row without a test says "not yet"."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "| --- |" not in line]
    rules = [row for row in rows if not row.startswith(("| Rule |", "| Limit |"))]
    assert len(rules) > 50
    for row in rules:
        *_, held_by = row.strip("| ").rsplit(" | ", 1)
        is_missing = "not yet" in row
        assert is_missing or "`" in held_by or held_by.startswith("every "), row
