"""Reads the PROXY protocol's header from a new connection, and not a byte more.

What follows may be a TLS handshake, which somebody else reads from the socket: so bytes are looked at first,
and only the header's are taken. Runs in workers. What a header may look like is app.wire.proxy_protocol's.
"""

from __future__ import annotations

import socket

from app.wire.proxy_protocol import MAX_V2_BYTES, BadProxyHeader, Header, read_header
from app.worker.net.deadlines import NEVER, Expired, deadlines
from app.worker.net.stream import Stream


def receive_header(stream: Stream, by: float) -> Header | None:
    """The header, read until the time ``by``; None from who leaves without a word, as health checks do.

    Raises BadProxyHeader, also for one that does not end.
    """
    deadline = deadlines.enter()
    deadline.at = by
    data = b""
    try:
        while True:
            stream.wait_readable()
            try:
                seen = stream.raw.recv(MAX_V2_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            if not seen:
                break
            header = read_header(data + seen)
            # All of an incomplete header is its own: taken, so that the wait is for more than that.
            stream.raw.recv(len(seen) if header is None else header.consumed - len(data))
            if header is not None:
                return header
            data += seen
    except Expired:
        raise BadProxyHeader("not complete in time") from None
    except OSError:
        return None
    finally:
        deadline.at = NEVER
        deadlines.leave(deadline)
    if data:
        raise BadProxyHeader("ended within it")
    return None
