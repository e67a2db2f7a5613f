"""What is done again and again, all of it at every tick, and none of it at another's mercy.

Runs in workers (app.worker.net.deadlines ticks) and in the control process. Must never know what is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from app.telemetry import log

T = TypeVar("T")


class Ticks(Generic[T]):
    """A list of callables; each is called at every tick, with the time as its owner keeps it."""

    def __init__(self) -> None:
        self._callables: list[Callable[[T], object]] = []
        self._failing: set[Callable[[T], object]] = set()  # have said so

    def __repr__(self) -> str:
        return f"<Ticks of {len(self._callables)}, failing {len(self._failing)}>"

    def add(self, function: Callable[[T], object]) -> None:
        """Have ``function`` called at every tick. It must not block."""
        self._callables.append(function)

    def run(self, now: T) -> None:
        """One tick. A callable that raises is logged once, until it has worked again."""
        for function in self._callables:
            try:
                function(now)
                self._failing.discard(function)
            except Exception as failure:  # noqa: BLE001 - the others are not to blame
                if function not in self._failing:
                    self._failing.add(function)
                    log.uncaught("tick", "tick failed", failure)
