"""Fixtures of the integration tests: who shares a balancer, and what is shown when a test fails.

Starting a balancer costs about a second, so tests that only send requests share one for the whole run
(``balancer``, in front of ``backend``, whose handler each test sets), and tests that kill, reload,
stall or count start their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# The harness is imported by its own name whatever import mode pytest runs in.
sys.path.insert(0, str(HERE))
pytest.register_assert_rewrite("harness")

from harness import Backend, Balancer, handlers, seconds  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test."""
    # A failed test leaves its sockets to the garbage collector: the next test is not to be blamed.
    ignore = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(ignore)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the outputs of the running balancers with a failure."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and HERE in item.path.parents:
        for balancer in Balancer.live:
            report.sections.append(("balancer", balancer.report()))


@pytest.fixture(scope="session", name="shared_backend")
def _shared_backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="session", name="shared_balancer")
def _shared_balancer(shared_backend: Backend) -> Iterator[Balancer]:
    timeouts = {"connect": seconds(1), "read": seconds(10), "client": seconds(10)}
    with Balancer([shared_backend], timeouts=timeouts) as balancer:
        yield balancer


@pytest.fixture(name="backend")
def _backend(shared_backend: Backend) -> Backend:
    """The one server behind ``balancer``: answers its name until the test says otherwise."""
    shared_backend.handler = handlers.ok
    shared_backend.clear()
    return shared_backend


@pytest.fixture(name="balancer")
def _balancer(shared_balancer: Balancer, backend: Backend) -> Balancer:
    """One worker in front of ``backend``, without health checks; shared by the whole run."""
    return shared_balancer
