"""Where each number of the shared segment lies, what its values mean, and who writes it.

In 64-bit cells, then bytes:

    header   HEADER_CELLS            magic, version, sizes, epoch, sequences, owner, heartbeat, seals of blobs
    servers  rows × SERVER_STRIDE    identity, last sequence that names it, health, admin state, ejection
    slots    slots × slot cells      SLOT_HEADER cells, then rows × ROW_STRIDE counters; slot 0 is the ledger
    names    rows × ADDRESSES_STRIDE a server's addresses, where it has a name (app.shared.addresses); control
    blobs    2 × blob_bytes          the configuration with an odd and with an even sequence

One writer for each cell, named beside it: ``master``, ``control`` (the control process) or ``worker`` (the
one whose slot it is); nothing is locked on the way of a request. Two liberties: the master empties what
nobody writes any more (a dead worker's slot, the row of a server that is gone), and an application without a
master declares its servers healthy itself. tests/unit/shared/test_layout.py holds that no other wing writes a
cell.

Names and numbers only. Imported by all three kinds of process; imports nothing.
"""

from __future__ import annotations

from typing import Final

MAGIC = 0x4C42_5441_424C_4531  # "LBTABLE1"
# Of the layout below, and of the blob as far as older readers cannot take it; a new master with another one
# makes its own segment. 3: whoever has version 2 reads the blob strictly, and an unknown key (such as the
# envelope of app.config.published) would freeze it, so none of them may share a segment with us. 4: times of
# checks are monotonic, and there are cells that a master of version 3 would neither make nor renew: keys of
# session tickets, the addresses of names, which worker wishes to go.
VERSION = 4

CELL = 8  # bytes
HEADER_CELLS = 64
SERVER_STRIDE = 16  # two cache lines: neighbours' checks do not share one
SLOT_HEADER = 16
ADDRESSES_MAX = 16  # of a server's; what a resolver gives beyond that is left out
ADDRESSES_STRIDE = 3 + 3 * ADDRESSES_MAX
ROW_STRIDE = 12  # for each server and worker; rows of one worker are written by that worker alone

# fmt: off
# -- header: an index into the segment -------------------------------------------------------------

AT_MAGIC = 0         # master  once, as all up to INSTANCE
AT_VERSION = 1       # master
AT_ROWS = 2          # master
AT_SLOTS = 3         # master
AT_BLOB_BYTES = 4    # master  of each of the two blobs
INSTANCE = 5         # master  random: tells this balancer from any other, in all processes, HUP and USR2
# Alone on its cache line with what changes as rarely. It has several writers, so it is never incremented:
# each change stores a clock reading, and a lost update cannot make two changes look like one.
EPOCH: Final = 8     # any     monotonic ns of the last change that workers have to take up
PUBLISHED = 9        # master  sequence of the configuration that workers use; 0 before the first
PROPOSED = 10        # master  sequence that the control process is to check; ≥ PUBLISHED
OWNER = 11           # master  pid of the one that proposed last; the control process is its child
CHECKED = 16         # control sequence whose servers have all had their first check
HEARTBEAT = 17       # control monotonic ms at which it was last seen running
SEALS = 24           # master  of each of the two blobs: sequence, length, crc32, spare
TICKETS_NS = 40      # master  monotonic ns at which the keys of tickets were made, 0 while they are written
TICKET_KEYS = 41     # master  those that tickets are written with: TICKET_KEY_CELLS cells
OLD_TICKET_KEYS = 51  # master  and the ones before, with which they are still read; zeros if there are none

# -- a server: relative to Table.server(row) -------------------------------------------------------

IDENTITY = 0         # master  app.shared.table.identity_of its URL, 0 for a row never used
SEQUENCE = 1         # master  of the last configuration that names it
ADMIN = 2            # nobody  what operators want; one of READY, DRAIN, MAINT
RAMP = 3             # control slow start: tenths of its weight, 0 outside of one
SINCE_MS = 4         # control monotonic ms at which that began
STATE = 8            # control UNCHECKED, HEALTHY or UNHEALTHY
STREAK = 9           # control checks in a row that spoke against STATE
CHANGED_MS = 10      # control monotonic ms of the last change of STATE
CHECKED_MS = 11      # control monotonic ms of the last check
STATUS = 12          # control status of the last check's answer, 0 without one
EJECTION = 13        # control TRUSTED, EJECTED, TRIAL or STALLED
EJECTION_MS = 14     # control monotonic ms since when
EJECTIONS = 15       # control how often lately

UNCHECKED, HEALTHY, UNHEALTHY = 0, 1, 2  # STATE
READY, DRAIN, MAINT = 0, 1, 2  # ADMIN
TICKET_KEY_CELLS = 10  # 80 bytes: a name of 16, then 32 for HMAC, then 32 for AES (OpenSSL)
FULL_RAMP = 10
TRUSTED, EJECTED, TRIAL, STALLED = 0, 1, 2, 3  # EJECTION
STAYS, WISHES_TO_GO, GOES = 0, 1, 2  # LEAVING

# -- a worker: relative to its slot ----------------------------------------------------------------
# Of app.worker: TROUBLES by balance.outcome_counter, the next three by stalls, WAITING_NS by balance.queue,
# ASKED and RETRIES by proxy.retry, CONNECTIONS by listener, LEAVING by process.

PID = 0              # master  in its hooks: reserved in the master, taken in the worker
GENERATION = 1       # master  in the worker's hook: gunicorn's age of the worker
STARTED_MS = 2       # master  in the worker's hook: unix ms, for people to read
TROUBLES = 3         # worker  changes whenever it has counted a failure, or a good answer after one
LOOKED_MS = 4        # worker  monotonic ms of its last look at what it waits for; as of then the next two:
SUSPECTS = 5         # worker  servers that keep it waiting for long
ANSWERED_MS = 6      # worker  when any of all last answered: the latest HEARD_MS below, as a shortcut to it
WAITING_NS = 7       # worker  monotonic ns since its oldest request waits for a place, 0 if none does
ASKED = 8            # worker  requests of the last ten seconds, as of the last tick
RETRIES = 9          # worker  retries of that time that the budget was charged for
CONNECTIONS = 10     # worker  clients' connections it has, and one; 0 while it accepts none
LEAVING = 11         # worker  STAYS, WISHES_TO_GO (it serves until it has a successor) or GOES

# -- a server in a worker: relative to counters_at(row) in the worker's slot -----------------------
# Of app.worker: IN_FLIGHT by balance.pool, REQUESTS by proxy.attempt, the last four by stalls, the others by
# balance.outcome_counter.

IN_FLIGHT = 0        # worker  requests now
REQUESTS = 1         # worker  requests ever
FAILURES = 2         # worker  failures ever
CONNECT_STREAK = 3   # worker  failures in a row, by kind
RESET_STREAK = 4     # worker
ERROR_STREAK = 5     # worker
RECOVERIES = 6       # worker  good answers ever, while there was something bad to forget or on trial
OUTCOMES = 7         # worker  the last ones, good and bad, since there was a bad one (outcome_bits)
HEARD_MS = 8         # worker  of each look at what it waits for, not of requests; monotonic ms: last answer,
UNANSWERED = 9       # worker  how many requests wait that were sent since,
OLDEST_MS = 10       # worker  since when the oldest does,
USUAL_MS = 11        # worker  and how long answers usually take
# fmt: on

STREAKS = CONNECT_STREAK, RESET_STREAK, ERROR_STREAK
WAITS = HEARD_MS, UNANSWERED, OLDEST_MS, USUAL_MS
LEDGER = 0  # the slot that keeps the counters of workers that are gone

# Bytes of the segment's file that record locks are taken on.
CONTROL_LOCK = 0  # by the control process, for its life
WRITER_LOCK = 1  # by a master, for microseconds


def counters_at(row: int) -> int:
    """Where a server's counters begin in any worker's slot."""
    return SLOT_HEADER + row * ROW_STRIDE


def size(rows: int, slots: int, blob_bytes: int) -> int:
    """Bytes of a segment."""
    cells = HEADER_CELLS + rows * (SERVER_STRIDE + ADDRESSES_STRIDE) + slots * counters_at(rows)
    return cells * CELL + 2 * blob_bytes
