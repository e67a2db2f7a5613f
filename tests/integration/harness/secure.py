"""HTTP/2 over TLS: an authority of the tests' own, clients that trust it, and the numbers of errors."""

from __future__ import annotations

import ssl

import trustme

from .balancer import Balancer
from .http2 import Http2Client

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x6, 0x7, 0x8, 0xB
MAX_STREAMS = 100

AUTHORITY = trustme.CA()


def context() -> ssl.SSLContext:
    """A client's context."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(made)
    return made


def connect(
    balancer: Balancer, settings: dict[int, int] | None = None, is_greedy: bool = True
) -> Http2Client:
    """A client that has shaken hands."""
    client = Http2Client(balancer.address, context(), settings, is_greedy)
    assert client.socket.selected_alpn_protocol() == "h2"
    return client
