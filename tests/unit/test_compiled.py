"""When compiled modules are used, and when they are not."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from app import compiled
from app.compiled import Finder


@pytest.fixture(name="package")
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two sources that looks compiled, and an interpreter that is asked for nothing yet."""
    package = tmp_path / "app"
    (package / "wire").mkdir(parents=True)
    (package / "client.py").write_text("A = 1\n", encoding="ascii")
    (package / "wire" / "table.py").write_text("B = 2\n", encoding="ascii")
    monkeypatch.setattr(compiled, "PACKAGE", package)
    monkeypatch.setattr(compiled, "FOLDER", package / "_compiled")
    monkeypatch.setattr(compiled, "is_used", False)
    monkeypatch.setattr(compiled, "problem", "")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    for file in compiled.files(compiled.FOLDER).values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (compiled.FOLDER / compiled.STAMP).write_text(compiled.stamp() + "\n", encoding="ascii")
    return package


def finders() -> int:
    return sum(isinstance(one, Finder) for one in sys.meta_path)


def test_every_module_has_a_source() -> None:
    """A renamed one would run interpreted, and nobody would notice."""
    for name in compiled.MODULES:
        assert (compiled.PACKAGE / f"{name.replace('.', '/')}.py").is_file(), name


def test_used_once(package: Path) -> None:
    """By itself, where it is there."""
    compiled.use()
    compiled.use()
    assert compiled.is_used
    assert finders() == 1


def test_found_before_the_source(package: Path) -> None:
    """Only what is compiled."""
    finder = Finder(compiled.files(compiled.FOLDER))
    spec = finder.find_spec("app.wire.request")
    assert spec is not None
    suffix = EXTENSION_SUFFIXES[0]
    assert spec.origin == str(package / "_compiled" / "app" / "wire" / f"request{suffix}")
    assert finder.find_spec("app.worker.proxy.exchange") is None


def test_not_where_there_is_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is wrong with that."""
    monkeypatch.setattr(compiled, "FOLDER", package / "_elsewhere")
    compiled.use()
    assert not compiled.is_used
    assert compiled.problem == ""


def test_not_when_told_so(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off is off."""
    monkeypatch.setenv(compiled.VARIABLE, "off")
    compiled.use()
    assert not compiled.is_used
    assert compiled.problem == ""


@pytest.mark.parametrize("source", ["client.py", "wire/table.py", "new.py"])
def test_not_after_a_change_of_any_source(package: Path, source: str) -> None:
    """Of those that are not compiled too: their constants are in the code of those that are."""
    (package / source).write_text("A = 3\n", encoding="ascii")
    compiled.use()
    assert not compiled.is_used
    assert finders() == 0
    assert "changed" in compiled.problem


def test_not_without_a_stamp(package: Path) -> None:
    """What it was made of is unknown."""
    (compiled.FOLDER / compiled.STAMP).unlink()
    compiled.use()
    assert not compiled.is_used
    assert "stamp" in compiled.problem


def test_not_for_another_python(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extensions of one Python do not load in another."""
    monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [".cpython-399-x86_64-linux-gnu.so"])
    compiled.use()
    assert not compiled.is_used
    assert "another Python" in compiled.problem


def test_required(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever counts on it hears that it is not so, and what to do."""
    monkeypatch.setenv(compiled.VARIABLE, "required")
    compiled.use()
    assert compiled.is_used
    monkeypatch.setattr(compiled, "is_used", False)
    (package / "client.py").write_text("A = 4\n", encoding="ascii")
    with pytest.raises(ImportError, match="changed since it was compiled: make compile"):
        compiled.use()
    monkeypatch.setattr(compiled, "FOLDER", package / "_elsewhere")
    with pytest.raises(ImportError, match="nothing is compiled: make compile"):
        compiled.use()


def test_a_misspelt_value_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for "auto"."""
    monkeypatch.setenv(compiled.VARIABLE, "on")
    with pytest.raises(ImportError, match="LB_COMPILED must be auto, off or required, got 'on'"):
        compiled.use()
