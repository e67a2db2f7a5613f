"""What the reports of both benches are made of: aligned tables, who was measured, the files. No figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def aligned(rows: Sequence[Sequence[str]], *, figures: bool = True) -> list[str]:
    """Rows, the first of them the heads, as a Markdown table that also reads well as it is.

    All columns but the first are flush right where they hold ``figures``, else flush left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_right = [figures and column > 0 for column in range(len(widths))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        )
        + " |"
        for row in rows
    ]
    marks = [
        "-" * (width + 1) + (":" if right else "-")
        for width, right in zip(widths, is_right, strict=True)
    ]
    return [lines[0], "|" + "|".join(marks) + "|", *lines[1:]]


def number(value: float, digits: int) -> str:
    """With separators of thousands."""
    return f"{value:,.{digits}f}"


def provenance(facts: Mapping[str, Any], absent: str) -> list[str]:
    """Which versions were measured, and who was ``absent`` for what reason."""
    return [
        *(f"- {name}: {version}" for name, version in facts["versions"].items()),
        *(f"- {absent}: {name}: {reason}" for name, reason in facts["missing"].items()),
    ]


def save(folder: Path, stem: str, data: Mapping[str, Any], text: str) -> None:
    """The results as ``stem``.json and .md in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.dumps(data, indent=1, ensure_ascii=False)
    (folder / f"{stem}.json").write_text(whole + "\n")
    (folder / f"{stem}.md").write_text(text)
