"""Where this process's log goes, for one test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.telemetry import log
from tests.unit.telemetry.log_lines import (
    Lines,
)


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What this process writes to its log, for one test."""
    captured = Lines(tmp_path / "stdout")
    monkeypatch.setattr(log, "_sink", captured.sink)
    monkeypatch.setattr(log, "_threshold", logging.INFO)
    yield captured
    captured.close()


@pytest.fixture
def restored() -> Iterator[None]:
    """Leaves the process-wide hooks as they were."""
    import threading
    import warnings

    root = logging.getLogger()
    before = (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        warnings.showwarning,
        sys.stdout,
        sys.stderr,
        root.level,
        list(root.handlers),
    )
    yield
    (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        warnings.showwarning,
        sys.stdout,
        sys.stderr,
        root.level,
        root.handlers,
    ) = before
    for name in ("gunicorn.error", "gunicorn.access"):
        logging.getLogger(name).handlers.clear()
