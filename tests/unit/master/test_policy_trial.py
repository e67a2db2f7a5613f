"""Trying a user's algorithm in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from app import config as configuration
from app.master import policy_trial

GOOD = """
class Good:
    def __init__(self, inputs, step=1):
        self.n = len(inputs.weights) // step
    def pick(self, key=None):
        return 0
"""


def refusal(name: str, **options: object) -> str:
    config = configuration.parse(json.dumps({"algorithm": {"name": name, **options}}))
    try:
        policy_trial.require(config)
    except configuration.ConfigError as error:
        return str(error)
    return ""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's, found through sys.path as everywhere."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path / "users_own.py"


def test_a_good_class_is_accepted(module: Path) -> None:
    """And imported only in the other process."""
    module.write_text(GOOD)
    assert refusal("users_own.Good", step=2) == ""
    assert "users_own" not in sys.modules


def test_what_is_wrong_is_said_with_its_path(module: Path) -> None:
    """One line for the operator."""
    module.write_text(GOOD.replace("return 0", "raise ValueError('not\\ntoday')"))
    message = refusal("users_own.Good")
    assert message.startswith("algorithm: users_own.Good: pick(")
    assert message.endswith("ValueError: not today")


def test_options_reach_the_class(module: Path) -> None:
    """One that it does not know is refused."""
    module.write_text(GOOD)
    assert "unexpected keyword argument 'stride'" in refusal("users_own.Good", stride=2)


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import sys; sys.exit('passed')"])
def test_a_module_that_ends_the_process_is_refused(module: Path, code: str) -> None:
    """Whatever status it ends with."""
    module.write_text(code)
    assert refusal("users_own.Good")


def test_what_it_prints_is_not_taken_for_the_verdict(module: Path) -> None:
    """Nor does it reach our output."""
    module.write_text("print('passed', flush=True)\nraise RuntimeError('no')")
    assert "RuntimeError: no" in refusal("users_own.Good")


def test_one_that_never_ends_is_given_up(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start does not hang with it."""
    monkeypatch.setattr(policy_trial, "LIMIT_SECONDS", 1.0)
    module.write_text("while True: pass")
    assert "within 1 s" in refusal("users_own.Good")


def test_a_built_in_algorithm_costs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started."""
    monkeypatch.setattr(policy_trial, "_try", lambda *_: "tried")
    assert refusal("hash") == ""


def test_options_are_no_arguments(module: Path, tmp_path: Path) -> None:
    """Every user of the machine sees the arguments of a process, and an option may be a secret."""
    seen = tmp_path / "seen"
    module.write_text(
        GOOD + f"\nopen({str(seen)!r}, 'wb').write(open('/proc/self/cmdline', 'rb').read())\n"
    )
    assert "token" in refusal("users_own.Good", token="s3cr3t")
    assert b"s3cr3t" not in seen.read_bytes()
