"""What a file of settings can do to the process that reads it, and how a cause becomes a line of the log."""

from __future__ import annotations

import os
import sys

import pytest

from app.master.reload import cause_of
from tests.unit.master.master_bench import (
    MasterBench,
)


def test_a_process_is_as_before_after_a_refusal(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, import path and folder, which a file of settings may change."""
    arbiter = bench.start()

    def meddle() -> None:
        os.environ["LB_PORT"] = "1"
        sys.path.insert(0, "/nowhere")
        os.chdir("/")
        raise SystemExit(1)

    arbiter.settings = meddle
    before = dict(os.environ), list(sys.path), os.getcwd()
    bench.reload(arbiter)
    assert (dict(os.environ), list(sys.path), os.getcwd()) == before
    assert bench.events[-1][1] == "configuration not changed, the last good one stays"


def raised(source: str) -> BaseException:
    """What a file of settings with this text raises, as gunicorn hands it on."""
    try:
        try:
            exec(compile(source, "/etc/gunicorn.conf.py", "exec"), {})
        except Exception:
            raise SystemExit(1)  # noqa: B904 - as gunicorn does
    except BaseException as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a = 1\nspam", "NameError: name 'spam' is not defined (line 2)"),
        ("def f():\n  1 / 0\nf()\n", "ZeroDivisionError: division by zero (line 2)"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 1)"),
        ("raise ValueError", "ValueError (line 1)"),
        ("raise OSError('many\\n\\nlines\\n\\n[the last]')", "OSError: many … [the last (line 1)"),
    ],
)
def test_a_cause_is_one_line(source: str, words: str) -> None:
    """With the place in the file, though gunicorn makes a SystemExit of it."""
    assert cause_of(raised(source), "./gunicorn.conf.py") == words


def test_a_syntax_error_knows_its_line_itself() -> None:
    message = cause_of(raised("a = 1\ndef (\n"), "gunicorn.conf.py")
    assert message.startswith("SyntaxError: ")
    assert message.endswith("(line 2)")
    assert "\n" not in message
