"""Judging a configuration: what ends a start, and where gunicorn is to listen."""

from __future__ import annotations

import os

import pytest

from app.master import preflight
from tests.unit.master.master_bench import (
    MasterBench,
)


@pytest.mark.parametrize(
    ("terminals", "lines"), [((), 0), ((1, 2), 0), ((1,), 0), ((2,), 2)], ids=str
)
def test_a_bad_configuration_ends_a_start_with_every_problem_once(
    bench: MasterBench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminals: tuple[int, ...],
    lines: int,
) -> None:
    """In the log; on standard error for a person who does not see the log."""
    monkeypatch.setattr(os, "isatty", terminals.__contains__)
    bench.write('{"port": 0, "workers": 0}')
    with pytest.raises(SystemExit) as exit_:
        preflight.load_config()
    assert exit_.value.code == 78
    assert len(capsys.readouterr().err.splitlines()) == lines
    assert [level for level, _ in bench.events] == ["error", "error"]


@pytest.mark.parametrize(
    ("host", "bind"), [("127.0.0.1", "127.0.0.1:8080"), ("::1", "[::1]:8080"), ("lb", "lb:8080")]
)
def test_bind_puts_ipv6_addresses_in_brackets(bench: MasterBench, host: str, bind: str) -> None:
    bench.write(f'{{"host": "{host}", "port": 8080}}')
    assert preflight.bind_address(preflight.load_config()) == bind
