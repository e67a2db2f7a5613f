"""The house tests itself: that files are where docs/architecture.md says, and what is written of them is so.

Nothing is imported: what is looked at is the text of the files, as whoever reads it has it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
APP = PROJECT / "app"
UNIT = PROJECT / "tests" / "unit"
# CHANGELOG.md is history, and names what there was.
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "gunicorn.conf.py", "pyproject.toml", "Makefile"),
    *("load_balancer.py", "docs/**/*", "app/**/*.py", "tests/**/*.py", "bench/**/*.py", "deploy/*"),
)

# A wing is a folder; a file at the top belongs to no wing, and there are few that may.
MOST_PACKAGES, MOST_FILES = 11, 3
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
A_NUMBER = re.compile(r"[0-9] µs")

# ``app`` is a host in some configurations and requests, with these domains.
HOSTS = {"example", "internal", "test", "localhost"}
# What a test names because it is not there.
ABSENT = {"app.worker.process.Absent"}
NAME = re.compile(r"(?<![\w./:@-])app((?:\.[A-Za-z_]\w*)+)")
PATH = re.compile(r"(?<![\w./-])((?:app|tests|bench|docs|deploy)/[\w./-]*\.(?:py|md))\b")
LINK = re.compile(r"\]\(([^)\s:#]+)(?:#[^)\s]*)?\)")
# How docs/architecture.md speaks of files and folders: by the end of their path where the rest is plain.
SHORT_PATH = re.compile(r"`((?:\w+/)*\w+(?:\.py|/))`")

# Who tells people what time it is: log lines, the Date field, the start of a worker.
WALL_CLOCK_READERS = {
    "master/hooks.py",
    "telemetry/access_log.py",
    "telemetry/log.py",
    "telemetry/sink.py",
    "worker/client/date.py",
}
WALL_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "ctime", "CLOCK_REALTIME"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}

# Tests that lie elsewhere than a source of theirs, each for a reason.
WITHOUT_A_SOURCE = {
    "test_house.py": "its source is the whole tree",
    "policies/test_example_policy.py": "tests the example beside it, as a user would",
}


def modules() -> list[Path]:
    """All of app/ but what the compiler has made of it."""
    return sorted(path for path in APP.rglob("*.py") if "_compiled" not in path.parts)


def test_the_balancer_itself_is_looked_at() -> None:
    """Or every other test here would hold of nothing."""
    assert len(modules()) > 100
    assert APP / "worker/proxy/forward.py" in modules()
    assert len(documents()) > 300


def test_the_top_of_the_house_has_few_doors() -> None:
    packages = {path.parent.name for path in APP.glob("[!_]*/__init__.py")}
    files = {path.name for path in APP.glob("*.py")}
    assert len(packages) <= MOST_PACKAGES, packages
    assert len(files) <= MOST_FILES, files


def test_no_folder_of_it_is_without_a_package() -> None:
    """One without __init__.py has no docstring, and no contract holds it."""
    folders = {path.parent for path in modules()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_a_file_is_read_in_one_sitting() -> None:
    sizes = {relative(path): path.read_text("utf-8").count("\n") for path in modules()}
    assert {path: lines for path, lines in sizes.items() if lines > MOST_LINES} == {}


def test_a_long_function_says_what_cutting_it_would_cost() -> None:
    unexcused = [
        f"{relative(path)}: {node.name}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
        and not A_NUMBER.search(ast.get_docstring(node) or "")
    ]
    assert unexcused == []


def test_wall_clocks_are_for_people_to_read() -> None:
    """Durations go by the monotonic clock: one that was set back would keep a server out for as long."""
    readers = {
        module.relative_to(APP).as_posix()
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if reads_wall_clock(node)
    }
    assert readers == WALL_CLOCK_READERS


def reads_wall_clock(node: ast.AST) -> bool:
    """``time.time``, ``time_ns`` or a date of now, by whatever import."""
    if isinstance(node, ast.Attribute):
        whose = getattr(node.value, "attr", getattr(node.value, "id", ""))
        return node.attr in WALL_CLOCKS.get(whose, ())
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return any(name.name in WALL_CLOCKS["time"] for name in node.names)
    return False


def test_every_module_says_what_it_is() -> None:
    trees = {relative(path): ast.parse(path.read_text("utf-8")) for path in modules()}
    assert [path for path, tree in trees.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("path", DOCUMENTS)
def test_what_is_named_is_there(path: str) -> None:
    """Modules and what they have, files of ours, by whoever speaks of them."""
    missing = [
        f"{relative(file)}:{line}: {name}"
        for file in PROJECT.glob(path)
        if file in documents()
        for line, text in prose(file)
        for name in missing_in(text)
    ]
    assert missing == []


def test_links_between_documents_lead_somewhere() -> None:
    """Those to files; a heading behind the # is not looked for."""
    pages = [path for path in documents() if path.suffix == ".md"]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text("utf-8"))]
    assert len(links) > 50
    broken = [f"{relative(page)}: {link}" for page, link in links if not is_file(page, link)]
    assert broken == []


def test_the_map_names_files_and_folders_that_are_there() -> None:
    """By the end of their path."""
    text = (PROJECT / "docs/architecture.md").read_text("utf-8")
    known = ["/" + relative(path) for path in (*modules(), *PROJECT.glob("*.py"))]
    known += [f"/{relative(path.parent)}/" for path in modules()]
    named = SHORT_PATH.findall(text)
    assert len(named) > 40
    assert [name for name in named if not any(one.endswith("/" + name) for one in known)] == []


def test_unit_tests_lie_as_their_sources_do() -> None:
    """One file for one source, of the same name."""
    tests = {path.relative_to(UNIT).as_posix() for path in UNIT.rglob("test_*.py")}
    assert len(tests) > 150
    homeless = {path for path in tests if not any(map(Path.is_file, sources(path)))}
    assert homeless == set(WITHOUT_A_SOURCE)


def relative(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def is_file(page: Path, link: str) -> bool:
    return (page.parent / link).exists()


def sources(test: str) -> tuple[Path, ...]:
    """Where the source of a unit test may be: in app/, or beside app/."""
    folder, _, file = test.rpartition("/")
    name = file.removeprefix("test_")
    source = Path(folder, "__init__.py" if name == "init.py" else name)
    return APP / source, PROJECT / source


@cache
def documents() -> frozenset[Path]:
    """Texts of ours in which something of the house may be named."""
    return frozenset(
        path
        for pattern in DOCUMENTS
        for path in PROJECT.glob(pattern)
        if path.is_file() and "_compiled" not in path.parts and path.suffix != ".pyc"
    )


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a document; of a program its comments and strings, each with where it begins."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
            yield token.start[0], token.string


def missing_in(text: str) -> Iterator[str]:
    """What is named in a text and is not there."""
    for match in NAME.finditer(text):
        parts = match[1].split(".")[1:]
        is_name = parts[0] not in HOSTS and match[0] not in ABSENT and not parts[0].startswith("__")
        if is_name and not is_there(parts):
            yield match[0]
    for match in PATH.finditer(text):
        if not (PROJECT / match[1]).is_file():
            yield match[1]


def is_there(parts: list[str]) -> bool:
    """Whether ``app`` followed by these parts is a package, a module, or what one of them has."""
    place, rest = APP, parts
    while rest and (place / rest[0]).is_dir():
        place, rest = place / rest[0], rest[1:]
    module = place / "__init__.py"
    if rest and (place / f"{rest[0]}.py").is_file():
        module, rest = place / f"{rest[0]}.py", rest[1:]
    names = names_in(module)
    # What a name that was imported has is in another file, ours or not.
    return not rest or (rest[0] in names and (names[rest[0]] or set(rest) <= set(names)))


@cache
def names_in(module: Path) -> dict[str, bool]:
    """What a module and its classes have, not what is local to a function; whether it was imported."""
    return dict(_names(ast.parse(module.read_text("utf-8"))))


def _names(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, False
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    yield inner.attr, False
            continue
        if isinstance(node, ast.ClassDef):
            yield node.name, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, False
        elif isinstance(node, ast.alias):
            yield node.asname or node.name, True
        yield from _names(node)
