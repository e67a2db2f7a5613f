"""How long a client is waited for while it sends a request body.

Owns the patience of ``timeouts.client`` and ``limits.body_rate``, for HTTP/1.1 and HTTP/2 alike. A WSGI
server's input has ``timeouts.client`` only: it may gather several pieces before it returns, so nobody can
tell from outside how fast they came. How large a body may be is app.worker.proxy.body_limit's, for the
handler asks that too. Runs in workers. Pure: the waiting is done by whoever has the connection.
"""

from __future__ import annotations

from typing import Final

from app.errors import BodyTimeout

# Slow start and a lost packet or two are no attack (Kestrel gives a body 5 s at first, mod_reqtimeout 20).
# The lower a rate the longer it is taken over: at the default of 100 bytes a second a client may be silent
# for a minute before it has sent any.
GRACE_SECONDS: Final = 5.0
GRACE_BYTES: Final = 6000
LONGEST_GRACE_SECONDS: Final = 60.0


def patience(timeout: float, received: int, waited: float, rate: int) -> float:
    """Seconds to wait for the next piece of a body; none or less if the time for it is used up.

    ``received`` bytes have come in ``waited`` seconds of waiting for this client. ``timeout`` is for each
    piece, ``rate`` in bytes a second for the whole body, 0 for any.
    """
    if not rate:
        return timeout
    grace = min(max(GRACE_SECONDS, GRACE_BYTES / rate), LONGEST_GRACE_SECONDS)
    return min(timeout, grace + received / rate - waited)


def too_slow(patience: float, timeout: float) -> BodyTimeout:
    """The error of a piece that did not come within ``patience``: which of the two limits that was."""
    if patience < timeout:
        return BodyTimeout("below limits.body_rate", reason="body_too_slow")
    return BodyTimeout("request body not complete in time")
