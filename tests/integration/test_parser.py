"""Which parser of heads a balancer runs with, and what it says about it at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import MODULE, Backend, Balancer, run


@pytest.fixture(name="elsewhere")
def _elsewhere(tmp_path: Path) -> str:
    """What PYTHONPATH must be for gunicorn_h1c to be as on a machine that could not build it."""
    (tmp_path / "gunicorn_h1c.py").write_text("raise ImportError('not built for this Python')\n")
    return str(tmp_path)


def test_without_the_c_parser(elsewhere: str, backend: Backend) -> None:
    """Requests and checks go as ever; one line at the start says so, what it costs, and what to do."""
    env = {"PYTHONPATH": elsewhere, "LB_PARSER": "auto"}
    with Balancer([backend], env=env, health_check={"path": "/"}) as balancer:
        assert balancer.get("/").status == 200
        assert balancer.log.wait_for(logger="health")[0]["healthy"]
        (line,) = balancer.log.select(logger="parser")
    assert line["level"] == "warning"
    assert "in Python" in line["message"]
    assert "microseconds more CPU" in line["message"]
    assert line["problem"] == "not built for this Python"
    assert "a C compiler and Python's headers" in line["remedy"]
    assert "make parser" in line["remedy"]


def test_who_asks_for_python_is_not_warned(backend: Backend) -> None:
    """The line is there all the same."""
    with Balancer([backend], env={"LB_PARSER": "python"}) as balancer:
        assert balancer.get("/").status == 200
        (line,) = balancer.log.select(logger="parser")
    assert line["level"] == "info"
    assert "remedy" not in line


def test_with_the_c_parser_nothing_is_said(backend: Backend) -> None:
    """As it should be is no news."""
    pytest.importorskip("gunicorn_h1c", reason="gunicorn_h1c is not installed (make parser)")
    with Balancer([backend], env={"LB_PARSER": "c"}) as balancer:
        assert balancer.get("/").status == 200
        assert balancer.log.select(logger="parser") == []


def test_who_requires_it_is_not_started_without(elsewhere: str) -> None:
    """And hears what to do."""
    done = run(MODULE, None, PYTHONPATH=elsewhere, LB_PARSER="c")
    assert done.returncode != 0
    assert "LB_PARSER=c, but not built for this Python: make parser" in done.stdout + done.stderr


def test_a_word_that_is_none_is_refused() -> None:
    """With those that are."""
    done = run(MODULE, None, LB_PARSER="fast")
    assert done.returncode != 0
    assert "LB_PARSER must be auto, c or python, got 'fast'" in done.stdout + done.stderr
