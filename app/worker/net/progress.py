"""How much of what was sent its peer has taken, as the kernel tells.

Owns the two questions to a socket that tell slow from silent, and sent from received. Runs in workers. Knows
sockets, and nothing of what they carry.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Any, Final

_SIZE: Final = struct.Struct("=i")
_ACKED: Final = struct.Struct("=Q")
_ACKED_OFFSET: Final = 120  # tcpi_bytes_acked in struct tcp_info, linux/tcp.h, since Linux 4.1


def taken(raw: Any) -> int:
    """How much of what was sent on a socket its peer has taken, to be compared with what it was before.

    0 where nobody knows: not Linux, or no socket at all.
    """
    count = acknowledged(raw)
    return count if count >= 0 else -pending(raw)


def pending(raw: Any) -> int:
    """How much of what was sent on a socket its peer has not taken yet; 0 where nobody knows."""
    try:
        size: int = _SIZE.unpack(fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(_SIZE.size)))[0]
    except (AttributeError, OSError, ValueError):
        return 0
    return size


def acknowledged(raw: Any) -> int:
    """How many bytes the peer's kernel has taken; -1 where nobody knows: not Linux, or a Unix socket."""
    try:
        info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    except (AttributeError, OSError):
        return -1
    if len(info) < _ACKED_OFFSET + 8:
        return -1
    count: int = _ACKED.unpack_from(info, _ACKED_OFFSET)[0]
    return count
