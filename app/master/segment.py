"""The shared segment as a master makes it at start, or takes it over from the master that executed it (USR2).

Owns its sizes, which are fixed from then on, and with them the question whether a new configuration still
fits; also the secret of sticky sessions, which outlives a master with the segment. Runs in the master. What
the segment holds is app.shared.layout's; when something is published, app.master.supervisor's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping

from app import config as configuration
from app.config import Config, ConfigError
from app.config.secrets import MADE_HERE
from app.shared import publication, slots
from app.shared.table import Table, TableError
from app.telemetry import log

TABLE_FD = "LB_TABLE_FD"  # environment: where a re-executed master (USR2) finds the segment

MIN_ROWS = 256
MIN_BLOB_BYTES = 1 << 20


def make_or_inherit(workers: int, config: Config) -> Table:
    """The segment for a master with so many ``workers``: its predecessor's, if there is one that fits."""
    return inherited_table(workers, config) or new_table(workers, config)


def new_table(workers: int, config: Config) -> Table:
    """With room to grow by a reload. Two generations of workers overlap at each HUP, and at USR2 too."""
    return Table.create(
        rows=max(MIN_ROWS, 4 * len(config.servers)),
        slots=4 * workers + 16,
        blob_bytes=max(MIN_BLOB_BYTES, 4 * len(configuration.to_json(config))),
    )


def inherited_table(workers: int, config: Config) -> Table | None:
    """The segment of the master that executed us (USR2), if it is one that we can go on with."""
    fd = os.environ.pop(TABLE_FD, None)
    if fd is None or "GUNICORN_PID" not in os.environ:
        return None
    try:
        table = Table.attach(int(fd))
    except (ValueError, TableError) as error:
        problem = str(error)
    else:
        blob = configuration.to_json(config)
        if (
            publication.fits(table, len(config.servers), len(blob))
            and slots.count_free(table) >= 2 * workers
        ):
            return table
        problem = "it is too small"
        os.close(table.fd)
    log.event("master", "warning", "the old master's table is left behind", problem=problem)
    return None


def hand_over(table: Table, environ: MutableMapping[str, str]) -> None:
    """In the child that becomes the next master: let it find the segment in the environment it will have."""
    os.set_inheritable(table.fd, True)
    environ[TABLE_FD] = str(table.fd)


def refuse_misfit(table: Table, config: Config, blob_bytes: int) -> None:
    """ConfigError if there is no room for this configuration, whose published form has ``blob_bytes``."""
    if not publication.fits(table, len(config.servers), blob_bytes):
        raise _no_room("servers", table.rows)
    room = (table.slots - 1) // 2  # the new workers boot beside the old ones
    if config.workers > room:
        raise _no_room("workers", room)


def secret_for(table: Table) -> str:
    """The secret of sticky sessions where the file gives none: an earlier master's, else a new one."""
    return secret_of(table) or MADE_HERE + secrets.token_hex(32)


def secret_of(table: Table) -> str | None:
    """The secret that an earlier master has made."""
    try:
        sticky = configuration.from_json(publication.published(table)[1]).sticky
    except ConfigError:  # nothing yet, or another release's that we cannot read
        return None
    if sticky is None or sticky.secret is None or not sticky.secret.startswith(MADE_HERE):
        return None
    return sticky.secret


def _no_room(path: str, room: int) -> ConfigError:
    message = f"too many for a reload (room for {room}); restart instead"
    return ConfigError((configuration.Problem(path, message),))
