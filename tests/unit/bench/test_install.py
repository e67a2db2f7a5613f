"""Where the bench finds what it has installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import install

SITE = "venv/lib/python3.11/site-packages"


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands are there, as far as the bench can see; whoever installs anything fails."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("venv.create", lambda *_, **__: pytest.fail("it makes an environment"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it runs an installer"))


def test_nothing_is_installed_twice(tmp_path: Path) -> None:
    """The packages are noted when they are installed; their order says nothing."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").write_text("one\ntwo")
    assert install.prepare(tmp_path, {}, ["two", "one", "two"]) == {}


def test_offline_nothing_is_installed(tmp_path: Path) -> None:
    """Each package that is missing then has its reason."""
    problems = install.prepare(tmp_path, {}, ["one"], offline=True)
    assert problems == {"one": "the bench's venv is incomplete and --offline was given"}


def test_without_the_load_tools_there_is_no_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which packages have them."""
    monkeypatch.setattr("shutil.which", lambda name: None if name == "h2load" else name)
    with pytest.raises(SystemExit, match="apt-get install nghttp2-client"):
        install.prepare(tmp_path, {}, [], offline=True)


def test_a_file_of_a_package_is_found_under_any_python(tmp_path: Path) -> None:
    """None where it is not installed."""
    assert install.package_file(tmp_path, "envoy/_bin/envoy") is None
    binary = tmp_path / SITE / "envoy" / "_bin" / "envoy"
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert install.package_file(tmp_path, "envoy/_bin/envoy") == binary
