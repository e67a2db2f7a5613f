"""What a process has of its master through the fork: the shared table, and its place in it.

Owns that one fact of a process. The master's hooks set it, in the worker and before the worker's code runs;
the worker's application asks for it. So neither imports the other. Must never know what is configured: the
master's configuration passes through as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from app.shared.table import Table


class Inheritance(NamedTuple):
    """``slot``: the number of this worker's slot, negative if none was free.

    ``own_form()``: the configuration that its own master stands for, in the published form, whatever is
    published.
    """

    table: Table
    slot: int
    own_form: Callable[[], bytes]


_inheritance: Inheritance | None = None


def bequeath(inheritance: Inheritance) -> None:
    """Set what this process, a worker that was just forked, has of its master."""
    global _inheritance
    _inheritance = inheritance


def inheritance() -> Inheritance | None:
    """What this worker has of its master; None if none of our masters forked this process."""
    return _inheritance
