"""Clients that send requests all the time, for tests of what happens meanwhile.

Each client is strict: a request it has sent must be answered with 200, whole, also when the connection
was kept alive; only an end that it can see BEFORE it sends is not a failure, as in any pooling client.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from .client import Client, Response
from .timing import PATIENT, wait_until


@dataclass(frozen=True)
class Outcome:
    """One request; ``error`` is empty when it was answered with 200."""

    started: float
    finished: float
    status: int
    body: str
    error: str
    is_reused: bool


class Load:
    """``kept`` clients on keep-alive connections, ``fresh`` ones with a connection a request."""

    def __init__(
        self,
        address: tuple[str, int],
        kept: int = 6,
        fresh: int = 2,
        pace: float = 0.005,
        target: str = "/load",
        limit: float = PATIENT,
    ) -> None:
        self._address = address
        self._pace = pace
        self._target = target
        self._limit = limit
        self._stop = threading.Event()
        self._outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number < kept,), daemon=True)
            for number in range(kept + fresh)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> list[Outcome]:
        """End every client after its request; every outcome, in the order of their ends."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENT * 2)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"
        return self.outcomes

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcomes so far."""
        return list(self._outcomes)

    @property
    def failures(self) -> list[Outcome]:
        """Requests that were not answered with 200."""
        return [outcome for outcome in self.outcomes if outcome.error]

    def bodies(self) -> Counter[str]:
        """How often each body came back."""
        return Counter(outcome.body for outcome in self.outcomes if not outcome.error)

    def wait_for_more(self, count: int, timeout: float = PATIENT) -> None:
        """Wait until ``count`` more requests have ended."""
        before = len(self._outcomes)
        wait_until(
            lambda: len(self._outcomes) >= before + count,
            timeout,
            f"{count} more outcomes after {before}; last: {self._outcomes[-3:]}",
        )

    def _run(self, is_kept: bool) -> None:
        client: Client | None = None
        while not self._stop.is_set():
            if client is not None and client.has_input():
                client.close()
                client = None
            client = self._one(client, is_kept)
            time.sleep(self._pace)
        if client is not None:
            client.close()

    def _one(self, client: Client | None, is_kept: bool) -> Client | None:
        started, is_reused = time.monotonic(), client is not None
        response: Response | None = None
        error = ""
        try:
            client = client or Client(self._address, self._limit)
            response = client.get(self._target, [] if is_kept else [("Connection", "close")])
            if response.status != 200:
                error = f"status {response.status}: {response.body[:200]!r}"
        except (OSError, AssertionError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        self._outcomes.append(
            Outcome(
                started=started,
                finished=time.monotonic(),
                status=response.status if response else 0,
                body=response.body.decode("latin-1") if response else "",
                error=error,
                is_reused=is_reused,
            )
        )
        if client and (error or not is_kept or (response and response.will_close)):
            client.close()
            return None
        return client


def burst(
    address: tuple[str, int], count: int, clients: int, target: str = "/", per_connection: int = 0
) -> list[Response]:
    """``count`` requests by ``clients`` at once, a new connection after each ``per_connection``."""
    left = iter(range(count))
    lock = threading.Lock()
    responses: list[Response] = []
    problems: list[BaseException] = []

    def run() -> None:
        client: Client | None = None
        sent = 0
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        break
                if client is None or (per_connection and sent % per_connection == 0):
                    if client is not None:
                        client.close()
                    client = Client(address)
                sent += 1
                responses.append(client.get(target))
        except BaseException as problem:
            problems.append(problem)
        finally:
            if client is not None:
                client.close()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENT * 2)
    assert not problems, problems
    assert len(responses) == count
    return responses
