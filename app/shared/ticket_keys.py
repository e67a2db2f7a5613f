"""The keys of TLS session tickets, the same for all workers, so that each reads what another wrote.

Owns when they are renewed and how they are read without a lock while they are. The owning master writes them
(``renew``), workers read (``read``). A master that takes the segment over (USR2) goes on with them. Bytes
only: what a ticket is, app.tls knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from app.shared.layout import CELL, OLD_TICKET_KEYS, TICKET_KEY_CELLS, TICKET_KEYS, TICKETS_NS
from app.shared.table import Table

# Who has the keys reads what was said in the sessions that were resumed under them: a day's, at most. Tickets
# are good for two hours (OpenSSL's default), so those of the keys before never meet their end unread.
RENEWAL_NS = 86_400 * 10**9
KEY_BYTES = TICKET_KEY_CELLS * CELL


class TicketKeys(NamedTuple):
    """``version`` changes with the keys; ``old`` is empty where there have been none before."""

    version: int
    current: bytes
    old: bytes


def renew(table: Table, now: int, random: Callable[[int], bytes]) -> bool:
    """Make the first keys, or new ones when a day is over at ``now`` (monotonic ns); whether it was so."""
    if not _is_due(table, now):
        return False
    cells = table.cells
    with table.writing():
        if not _is_due(table, now):  # a master of another generation was faster
            return False
        has_keys = cells[TICKETS_NS] != 0
        cells[TICKETS_NS] = 0
        if has_keys:
            current = cells[TICKET_KEYS : TICKET_KEYS + TICKET_KEY_CELLS]
            cells[OLD_TICKET_KEYS : OLD_TICKET_KEYS + TICKET_KEY_CELLS] = current
        new = memoryview(random(KEY_BYTES)).cast("Q")
        cells[TICKET_KEYS : TICKET_KEYS + TICKET_KEY_CELLS] = new
        cells[TICKETS_NS] = now
    return True


def read(table: Table) -> TicketKeys | None:
    """The keys as they are now; None where no master has made any, or is just about to."""
    cells = table.cells
    version = cells[TICKETS_NS]
    current = cells[TICKET_KEYS : TICKET_KEYS + TICKET_KEY_CELLS].tobytes()
    old = cells[OLD_TICKET_KEYS : OLD_TICKET_KEYS + TICKET_KEY_CELLS].tobytes()
    if not version or cells[TICKETS_NS] != version:
        return None
    return TicketKeys(version, current, old if any(old) else b"")


def _is_due(table: Table, now: int) -> bool:
    made = table.cells[TICKETS_NS]
    return made == 0 or now - made >= RENEWAL_NS
