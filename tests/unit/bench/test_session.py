"""Who takes part in a run, and why others do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import session
from bench.peers.candidate import Candidate


class Here(Candidate):
    name = "here"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "1.0"


class Gone(Here):
    name = "gone"
    pypi = ("gone-bin",)

    def missing(self) -> str | None:
        return "gone-bin is not installed"


def test_who_cannot_run_is_left_out_with_the_reason() -> None:
    """What the installation said, where it said something, else what the candidate says."""
    chosen, missing = session.present((Here, Gone), {})
    assert [candidate.name for candidate in chosen] == ["here"]
    assert missing == {"gone": "gone-bin is not installed"}
    _, missing = session.present((Gone,), {"gone-bin": "no network"})
    assert missing == {"gone": "no network"}


def test_facts_name_everybody() -> None:
    """Those who run with their versions."""
    chosen, missing = session.present((Here, Gone), {})
    facts = session.facts(chosen, missing)
    assert facts["versions"] == {"here": "1.0"}
    assert list(facts["missing"]) == ["gone"]
    assert facts["date"].endswith(" UTC")


def test_what_a_killed_bench_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its pid: not what belongs to one that runs, not what others call by another name."""
    monkeypatch.setattr(session, "MEMORY_FOLDER", tmp_path)
    dead, alive, other = f"lb-bench-{2**30}-a", f"lb-bench-{os.getppid()}-b", "lb-other"
    for name in (dead, alive, other):
        (tmp_path / name).mkdir()
    with session.folder_in_memory() as folder:
        (folder / "log").touch()
        assert {one.name for one in tmp_path.iterdir()} == {alive, other, folder.name}
    assert {one.name for one in tmp_path.iterdir()} == {alive, other}
