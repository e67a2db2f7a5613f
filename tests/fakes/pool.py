"""A pool of backends without a table: all are healthy, and what is told of them is kept for the test."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from app.errors import NoBackend, ProxyError
from app.shared.layout import RETRIES, SLOT_HEADER
from app.worker.upstream.adapter import Adapter

_ADAPTER = Adapter()


class Pool:
    """Hands out its backends in turn, as round robin does, leaving out those already tried.

    ``others`` are the retries that other workers have made, ``told`` what was said of each.
    """

    sticky: Any = None

    @staticmethod
    def bound_client(_exchange: Any) -> str:
        """Nobody is bound to a server."""
        return ""

    def __init__(self, count: int) -> None:
        self.cells = [0] * (SLOT_HEADER + 2 * count)
        self.table = SimpleNamespace(cells=[0] * 8)
        self.backends = [
            SimpleNamespace(
                name=f"server {number}", prefix=b"", authority=b"server", connections=None,
                adapter=_ADAPTER, base_url="", is_watched=False, cookie=b"",
                in_flight=SLOT_HEADER + 2 * number, requests=SLOT_HEADER + 2 * number + 1,
            )
            for number in range(count)
        ]  # fmt: skip
        self.turn = 0
        self.others = 0
        self.has_places = True
        self.told: list[tuple[str, int | str]] = []

    def pick(self, tried: tuple[Any, ...], _exchange: Any = None) -> Any:
        for _ in self.backends:
            backend = self.backends[self.turn % len(self.backends)]
            self.turn += 1
            if backend not in tried:
                self.hold(backend)
                return backend
        raise NoBackend(reason="all_tried")

    pick_now = pick

    def hold(self, backend: Any) -> None:
        self.cells[backend.in_flight] += 1

    def release(self, backend: Any) -> None:
        self.cells[backend.in_flight] -= 1

    def has_other(self, tried: tuple[Any, ...]) -> bool:
        return len(self.backends) > len(tried) + 1

    def has_place_besides(self, tried: Collection[Any]) -> bool:
        return self.has_places and any(one not in tried for one in self.backends)

    def total(self, cell: int) -> int:
        return self.cells[cell] + (self.others if cell == RETRIES else 0)

    def in_flight(self) -> list[int]:
        return [self.cells[backend.in_flight] for backend in self.backends]

    def asked(self) -> list[int]:
        """How many requests each backend was sent."""
        return [self.cells[backend.requests] for backend in self.backends]

    def retry_after(self, _reason: str) -> int:
        return 1

    def failed(self, backend: Any, error: ProxyError, _asked: bytes) -> None:
        self.told.append((backend.name, error.reason))

    def answered(self, backend: Any, status: int, _seconds: float, _asked: bytes) -> None:
        self.told.append((backend.name, status))
