"""What of a pool may be picked now: an immutable snapshot, built anew whenever a fact about a server changes.

Owns the step from the table's cells to backends that are available, with a policy over them; picks read the
result and test no health. Runs in workers, no I/O. Must never know a request, nor where the facts come from;
what they mean is app.shared.availability's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.policies import Policy
from app.shared.availability import Standing, choose, standing_of
from app.shared.layout import EJECTION, TRIAL
from app.shared.table import Table
from app.worker.balance.algorithm import PolicyFactory
from app.worker.balance.backend import Backend


class Snapshot:
    """The backends that may be picked, and the policy that picks; never changed once built.

    ``backups`` serve requests for which none of ``backends`` is left. ``is_plain``: a pick needs neither a
    key nor a look at who is full. ``is_limited``: all can be full. ``sticky`` finds the backend of a client
    that has been there before, where there are such clients.
    """

    __slots__ = (
        "backends",
        "backups",
        "is_limited",
        "is_plain",
        "pick",
        "reason",
        "sticky",
    )

    def __init__(
        self,
        backends: tuple[Backend, ...],
        policy: Policy | None,
        reason: str = "",
        backups: tuple[Backend, ...] = (),
        has_key: bool = False,
        sticky: Mapping[bytes | None, Backend] | None = None,
    ) -> None:
        self.backends = backends
        self.backups = backups
        self.pick: Callable[..., int] | None = policy.pick if policy is not None else None
        is_free = not has_key and sticky is None
        self.is_plain = policy is not None and is_free and not any(one.limit for one in backends)
        self.is_limited = all(one.limit for one in backends + backups)
        self.sticky = sticky
        self.reason = reason  # why there is none, where there is none


def build(
    backends: tuple[Backend, ...],
    table: Table,
    panic_threshold: int,
    factory: PolicyFactory,
    watches: Callable[[Backend], bool],
    is_sticky: bool,
) -> Snapshot:
    """The snapshot of what the table says now; sets on each backend what follows for it.

    ``watches`` is OutcomeCounter.watches: whether all answers of a backend are to be told. With ``is_sticky``
    backends that drain keep the clients that have their cookie. One that comes back starts with unknown
    latency.
    """
    away = {backend for backend in backends if not backend.is_available}
    standings = [_settle(backend, table, watches) for backend in backends]
    choice = choose(standings, panic_threshold)
    first = tuple(backends[index] for index in choice.first)
    backups = tuple(backends[index] for index in choice.backups)
    for backend in first + backups:
        backend.is_available = True
        if backend in away:
            backend.latency.forget()
    sticky: dict[bytes | None, Backend] | None = None
    if is_sticky:
        draining = tuple(backends[index] for index in choice.draining)
        sticky = {backend.cookie: backend for backend in first + backups + draining}
    policy = factory.policy(first) if first else None
    return Snapshot(first, policy, choice.reason, backups, factory.key_of is not None, sticky)


def _settle(backend: Backend, table: Table, watches: Callable[[Backend], bool]) -> Standing:
    """Set what of a backend follows from its own cells; whether it is available is not known yet."""
    cells, at = table.cells, table.server(backend.row)
    backend.is_on_trial = cells[at + EJECTION] == TRIAL
    backend.limit = 1 if backend.is_on_trial else backend.server.max_connections
    backend.is_watched = watches(backend)
    backend.is_available = False
    configured = backend.server
    return standing_of(configured.state, configured.backup, cells, at)
