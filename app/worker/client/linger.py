"""How a connection is ended on which the client may still be sending, or has not read all that it was sent.

Closing a socket with unread bytes in it sends RST, which can destroy the answer on its way (nginx's
lingering_close; RFC 9112 §9.6). So the client is told that nothing more comes, and what it still sends is
read and dropped, for a while. Runs in workers, in the connection's greenlet. Knows bytes, nothing of HTTP.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from app.worker.net.deadlines import NEVER, Deadline, Expired
from app.worker.net.stream import BODY_READ_SIZE
from app.worker.net.tls_stream import AnyStream

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 8 << 20


def linger(stream: AnyStream, deadline: Deadline) -> None:
    """Send the end, then drop what comes: until the client ends too, for LINGER_SECONDS and LINGER_BYTES.

    ``deadline`` is that of the greenlet that calls. The stream still has to be closed.
    """
    stream.shutdown_write()
    deadline.at = monotonic() + LINGER_SECONDS
    dropped = 0
    try:
        while dropped < LINGER_BYTES and (data := stream.read(BODY_READ_SIZE)):
            dropped += len(data)
    except (Expired, OSError):
        pass
    finally:
        deadline.at = NEVER
