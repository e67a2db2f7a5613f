"""What holds for every test of the proxy: pauses between attempts are noted and not made."""

from __future__ import annotations

import pytest

from app.worker.proxy import retry


@pytest.fixture(name="pauses", autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in seconds."""
    pauses: list[float] = []
    monkeypatch.setattr(retry, "sleep", pauses.append)
    return pauses
