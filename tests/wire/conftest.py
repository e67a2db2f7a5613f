"""The replay package by its own name, the integration tests' harness, and which tests need sockets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "integration"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes through a real balancer is an integration test."""
    for item in items:
        if item.path.name in ("test_online.py", "test_gevent.py"):
            item.add_marker(pytest.mark.integration)
