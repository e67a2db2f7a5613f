"""Who may get a request: ``available = healthy and not ejected and ready and not full``.

The one place where that is decided. ``choose`` says it for all backends whenever one of the first three facts
has changed, in workers and, for what is logged, in the control process; whether a backend is full is asked
when a place is taken (``Pool.claim``), because it changes with every request. Facts in, indexes out: no
clock, no sockets, no log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.shared.layout import ADMIN, DRAIN, EJECTED, EJECTION, HEALTHY, MAINT, READY, STALLED, STATE

_OUT = (EJECTED, STALLED)
_ADMIN = {"ready": READY, "drain": DRAIN, "maint": MAINT}  # each keeps out more than the one before


class Standing(NamedTuple):
    """What is known of one backend. ``is_out``: ejected, or found stalled. ``admin``: what operators want."""

    is_healthy: bool
    is_out: bool
    admin: int
    is_backup: bool


class Choice(NamedTuple):
    """Indexes of those to pick from; ``backups`` for requests that none of ``first`` can take.

    Empty with a ``reason``. ``draining`` get nothing but what is bound to them. ``is_panic``: so few are
    healthy that nobody asks whether one is.
    """

    first: list[int]
    backups: list[int]
    draining: list[int]
    is_panic: bool = False
    reason: str = ""


def standing_of(state: str, is_backup: bool, cells: memoryview, at: int) -> Standing:
    """The facts of a backend whose cells begin ``at``; ``state`` and ``is_backup`` as configured."""
    return Standing(
        cells[at + STATE] == HEALTHY,
        cells[at + EJECTION] in _OUT,
        max(_ADMIN[state], cells[at + ADMIN]),
        is_backup,
    )


def choose(standings: Sequence[Standing], panic_threshold: int = 0) -> Choice:
    """Who is available but for being full.

    Backups serve when no primary can (nginx's meaning), ejected ones when there is nobody else.
    """
    ready = [index for index, one in enumerate(standings) if one.admin == READY]
    healthy = [index for index in ready if standings[index].is_healthy]
    is_panic = is_panicking([standings[index] for index in ready], panic_threshold)
    if is_panic:
        healthy = ready
    trusted = [index for index in healthy if not standings[index].is_out]
    primaries = [index for index in trusted if not standings[index].is_backup]
    first = primaries or trusted or healthy
    draining = [
        index
        for index, one in enumerate(standings)
        if one.admin == DRAIN and one.is_healthy and not one.is_out
    ]
    if not first:
        is_draining = standings and (not ready or any(one.is_healthy for one in standings))
        reason = "all_draining" if is_draining else "none_healthy"
        return Choice([], [], draining, reason=reason)
    backups = [index for index in trusted if standings[index].is_backup] if primaries else []
    return Choice(first, backups, draining, is_panic)


def is_panicking(ready: Sequence[Standing], threshold: int) -> bool:
    """Whether fewer than ``threshold`` percent of the ready primaries are healthy.

    Not while healthy backups can serve in the place of primaries of which none is healthy. Without primaries
    the backups themselves are counted. An ejected one counts as healthy: its checks pass.
    """
    if not threshold or not ready:
        return False
    primaries = [one for one in ready if not one.is_backup] or ready
    healthy = sum(one.is_healthy for one in primaries)
    if not healthy and any(one.is_healthy for one in ready):
        return False
    return healthy * 100 < threshold * len(primaries)
