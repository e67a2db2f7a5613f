"""Errors of this machine, which say nothing about the server that they were met at.

Workers must not eject a server for them, and a health check that meets one has no result. Pure.
"""

from __future__ import annotations

import errno
from typing import Final

# Descriptors, memory or ports have run out.
_OURS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
)


def is_ours(error: BaseException | None) -> bool:
    """Whether an error of a connect or an exchange is no fault of the server's."""
    return getattr(error, "errno", None) in _OURS
