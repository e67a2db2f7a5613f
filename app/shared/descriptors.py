"""Which descriptors a process has, and how many it may have.

Runs in whoever starts, before anything else is opened: 0, 1 and 2 are never free. In workers, which hold two
for each request, and in the control process, which holds one for each check that is under way: the usual soft
limit of 1,024 is meant for select(), which neither uses.
"""

from __future__ import annotations

import os
import resource

_STANDARD = 0, 1, 2


def fill_standard() -> None:
    """Open /dev/null as standard input, output and error where they are closed (``>&-``).

    Else the next file that is opened has the number of stdout, and whoever is executed later (USR2) writes
    its log there: into the shared table.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(null, True)


def raise_limit() -> None:
    """Allow this process as many as its administrator does: the hard limit. Never raises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # refused by a sandbox, or above the kernel's own bound
        pass
