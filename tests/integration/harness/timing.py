"""The one place where the integration tests' time limits come from.

Tests wait for conditions, never for time to pass, so these are upper bounds and a slow machine only has
to raise one number: ``LB_TEST_SCALE=3 make test``. A limit that says something about the balancer (the
time within which it must answer) goes through ``seconds`` too, so it stretches with everything else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SCALE = float(os.environ.get("LB_TEST_SCALE", "1"))


def seconds(value: float) -> float:
    """``value`` seconds on a machine like the one the tests were written on (two cores)."""
    return value * SCALE


PROMPT = seconds(5)
"""For what should happen at once: a log line, a socket seen closed, an answer from a ready backend."""

PATIENT = seconds(20)
"""For what costs processor time: booting workers, a reload, a graceful stop, tens of MiB."""

POLL = 0.01


class NotReached(AssertionError):
    """A condition did not become true in time."""


def wait_until(
    predicate: Callable[[], T], timeout: float = PROMPT, what: str = "", poll: float = POLL
) -> T:
    """Poll ``predicate`` until it is true and return its value; NotReached after ``timeout``."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            raise NotReached(
                f"not reached within {timeout:.1f} s: {what or predicate!r} (last: {value!r})"
            )
        time.sleep(poll)
