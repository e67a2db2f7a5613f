"""A master for each test, which leaves no signal handlers behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.master.workers import ENDS_A_BOOTING_WORKER
from tests.unit.master.master_bench import (
    MasterBench,
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MasterBench]:
    handlers = {number: signal.getsignal(number) for number in ENDS_A_BOOTING_WORKER}
    yield MasterBench(tmp_path / "config.json", monkeypatch)
    for number, handler in handlers.items():  # post_fork is for a worker, which never comes back
        signal.signal(number, handler)
