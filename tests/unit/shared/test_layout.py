"""One writer for each cell: what app.shared.layout says beside a cell is what the code does."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from app.shared import layout

APP = Path(layout.__file__).parents[1]
CELL = re.compile(r"^([A-Z_]+)(?:: Final)? = (\d+) +# (\w+)", re.MULTILINE)
WRITERS = {
    name: writer
    for name, _, writer in CELL.findall(Path(layout.__file__).read_text(encoding="utf-8"))
    if writer in ("master", "control", "worker", "any", "nobody")
}
# Declares its servers healthy where there is neither master nor control process.
LIBERTIES = {("STATE", "app/worker/application.py")}


def wing(source: Path) -> str:
    """Who runs it. In app/shared those that write are the master's: slots, publication, a new table."""
    folder = source.relative_to(APP).parts[0]
    return "master" if folder == "shared" else folder


def names_in(index: ast.expr) -> set[str]:
    """Cells in an index: by name (``at + STATE``), or where a backend has it (``backend.in_flight``)."""
    nodes = list(ast.walk(index))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr.upper() for node in nodes if isinstance(node, ast.Attribute)}


def written() -> dict[str, set[tuple[str, str]]]:
    """Each cell that is written by name, with the wings and files that do it."""
    found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for source in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
                targets = [node.target]
            else:
                continue
            for target in (inner for one in targets for inner in ast.walk(one)):
                if isinstance(target, ast.Subscript):
                    for name in names_in(target.slice) & WRITERS.keys():
                        found[name].add((wing(source), source.relative_to(APP.parent).as_posix()))
    return found


def test_every_cell_has_a_place_of_its_own_and_a_writer() -> None:
    source = Path(layout.__file__).read_text(encoding="utf-8")
    for part in source.split("# -- ")[1:]:
        places = [
            int(place) for _, place, writer in CELL.findall(part) if writer in WRITERS.values()
        ]
        assert len(places) == len(set(places)) > 5
    assert len(WRITERS) == 53


@pytest.mark.parametrize("name", WRITERS)
def test_a_cell_is_written_by_its_writer_alone(name: str) -> None:
    writers = {wing for wing, file in written()[name] if (name, file) not in LIBERTIES}
    if WRITERS[name] == "any":
        assert len(writers) <= 3
    elif WRITERS[name] == "nobody":
        assert not writers
    else:
        assert writers <= {WRITERS[name]}


def test_the_writers_are_found() -> None:
    """Else the test above would hold whatever is written."""
    found = written()
    assert len(found) > 35
    assert found["STATE"] > {("control", "app/control/health/checker.py")}
    assert {wing for wing, _ in found["IN_FLIGHT"]} == {"worker"}
