"""What holds for every test: one marker, and randomness that can be had again.

A failing run prints its seed; ``LB_TEST_SEED=<seed> make test`` runs with the same numbers.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings

# Before anything imports it: the fuzz corpus and the wire tests share the package.
pytest.register_assert_rewrite("replay", "fakes")

SEED = int(os.environ.get("LB_TEST_SEED") or random.SystemRandom().randrange(2**32))
# The processes that a run is spread over have the same: they must all collect the same tests.
os.environ["LB_TEST_SEED"] = str(SEED)

# A blob to reproduce a failure on any machine; no deadline, because a busy machine is not a bug.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compiled", action="store_true", help="start balancers that run compiled (make compile)"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Here the sources run always: tests hand them classes of their own.
    os.environ["LB_COMPILED"] = "off"
    import app  # noqa: F401 - which looks at it once

    os.environ["LB_COMPILED"] = "required" if config.getoption("--compiled") else "off"
    config.addinivalue_line("markers", "integration: real gunicorn, real sockets, real time")


def pytest_report_header() -> str:
    return f"seed: LB_TEST_SEED={SEED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own, the same whichever tests ran before it."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture(autouse=True)
def _seeded(rng: random.Random) -> None:
    """The module's own generator too, for code that takes no generator."""
    random.seed(rng.random())
