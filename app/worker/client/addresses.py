"""Both ends of a client's connection, for the PROXY header that a backend may want (``send_proxy``).

Runs in workers. Knows sockets, nothing of what is said on them.
"""

from __future__ import annotations

from typing import Any

from app.errors import ClientGone
from app.wire.proxy_protocol import Ends


def addresses_of(ends: Ends | None, raw: Any) -> tuple[object, object]:
    """Where the connection comes from and where it ends. Raises ClientGone if it has broken meanwhile.

    ``ends`` is what a PROXY header in front of it said, None if there was none; ``raw`` the socket, None
    where a WSGI server does not show it: both ends are unknown then, and None.
    """
    if ends is not None:
        return ends
    if raw is None:
        return None, None
    try:
        return raw.getpeername(), raw.getsockname()
    except OSError as error:
        raise ClientGone(str(error)) from error
