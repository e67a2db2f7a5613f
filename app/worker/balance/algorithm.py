"""The configured algorithm of one worker: a policy for each snapshot, and what it has to be given for that.

Runs in workers. What a policy reads of the live system is bound here, once a snapshot; it knows neither
health nor requests but for the function that finds a request's key.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import Any

from app.config import Algorithm, Config
from app.policies import POLICIES, Guard, Inputs, Policy, PolicyError, load_custom, make
from app.shared.layout import FULL_RAMP, RAMP
from app.shared.table import Table
from app.telemetry import log
from app.wire.forwarded import Trust
from app.wire.hash_key import key_reader
from app.worker.balance.backend import Backend

ROUND_ROBIN = Algorithm("round_robin")


class PolicyFactory:
    """Makes the policy of each snapshot, as the configuration says.

    ``key_of`` finds a request's key, None where the policy asks for none. ``measures``: the policy goes by
    latency, so that somebody has to measure it.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._settings = ROUND_ROBIN
        self._guard: Guard | None = None
        self._ramps = False
        self.key_of: Callable[[Any], bytes | None] | None = None
        self.measures = False

    def __repr__(self) -> str:
        return f"<PolicyFactory {self._settings}>"

    @property
    def hash_on(self) -> str:
        """What of a request is its key."""
        return self._settings.hash_on

    def adopt(self, config: Config, trust: Trust) -> None:
        """Take over a configuration; a user's class that stays is not loaded again."""
        settings = config.algorithm
        if settings.is_custom and (settings != self._settings or self._guard is None):
            self._guard = _guard(settings)
        elif not settings.is_custom:
            self._guard = None
        self._settings = settings if self._guard or not settings.is_custom else ROUND_ROBIN
        definition = POLICIES.get(self._settings.name)
        reads = definition.reads if definition is not None else {"key", "latency"}
        self.key_of = key_reader(settings.hash_on, trust.client_of) if "key" in reads else None
        self.measures = "latency" in reads
        self._ramps = config.slow_start > 0 and (definition is None or definition.ramps)

    def policy(self, available: tuple[Backend, ...]) -> Policy:
        """The configured policy, built over the backends of one snapshot."""
        table = self._table
        rows = [backend.row for backend in available]
        latencies = [backend.latency for backend in available]
        inputs = Inputs(
            weights=self._weights(available),
            names=tuple(backend.url for backend in available),
            ticket=table.ticket,
            in_flight=lambda index: table.in_flight(rows[index]),
            latency=lambda index: latencies[index].read(monotonic()),
            capacity=tuple(backend.limit for backend in available),
            random=random.random,
        )
        if self._guard is not None:
            return self._guard.build(inputs)
        return make(self._settings.name, dict(self._settings.options), inputs)

    def _weights(self, available: tuple[Backend, ...]) -> tuple[int, ...]:
        """The weights as configured; in a slow start in tenths, and fewer of them for those that ramp up."""
        weights = tuple(backend.server.weight for backend in available)
        if not self._ramps:
            return weights
        cells, server = self._table.cells, self._table.server
        ramps = [cells[server(backend.row) + RAMP] or FULL_RAMP for backend in available]
        if min(ramps) == max(ramps):
            return weights
        return tuple(weight * ramp for weight, ramp in zip(weights, ramps, strict=True))


def _guard(settings: Algorithm) -> Guard | None:
    """A user's class, guarded; None, with a log line, if it cannot be loaded here."""

    def report(reason: str, detail: str) -> None:
        log.event(
            "pool",
            "error",
            "algorithm failed, round robin picks instead",
            algorithm=settings.name,
            reason=reason,
            detail=detail,
        )

    try:
        return Guard(load_custom(settings.name), dict(settings.options), monotonic, report)
    except PolicyError as error:  # it was there when the master tried it
        report("load_failed", str(error))
        return None
