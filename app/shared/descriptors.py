"""How many descriptors a process may have open.

Runs in workers, which hold two for each request, and in the control process, which holds one for each check
that is under way. The usual soft limit of 1,024 is meant for select(), which neither uses.
"""

from __future__ import annotations

import resource


def raise_limit() -> None:
    """Allow this process as many as its administrator does: the hard limit. Never raises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # refused by a sandbox, or above the kernel's own bound
        pass
