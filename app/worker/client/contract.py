"""What a client's connection and the worker that accepted it know of each other.

Owns the seam between app.worker.client and the modules above it: a connection is given a ConnectionContext,
the same for all of a worker's, and a Place of its own; the worker sees an OpenConnection, or a
ParkableConnection. So no connection sees the worker, and a test needs none. Values and protocols, no
decisions. Not compiled: a compiled protocol takes compiled classes only, and those above are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from app.worker.net.deadlines import NEVER

if TYPE_CHECKING:
    from app.config import Limits
    from app.wire.request import HeadLimits
    from app.worker.net.deadlines import Deadline
    from app.worker.net.tls_stream import AnyStream
    from app.worker.proxy.handler import Proxy

# A client that was told of the drain has this long for a request that was on its way then, and one whose
# handshake ended in a drain to begin its first. It is more than a round trip, which RFC 9113 §6.8 wants
# between the two GOAWAY frames.
DRAIN_IDLE_SECONDS: Final = 2.0
# In a drain an idle connection looks this often whether it may stay.
DRAIN_LOOK_SECONDS: Final = 0.1
# An idle connection is parked after this long: its greenlet and stack cost several KiB.
PARK_SECONDS: Final = 1.0


class DrainState:
    """Whether the worker has to go, and until when its idle clients may still ask for something.

    ``is_on`` from the signal on: every answer says ``Connection: close``. ``idle_until``, monotonic seconds,
    is set a moment later, when the worker begins to wait for its connections: the latest that may be, for
    HTTP/2 to refuse streams by. Who is idle is closed by the worker, perhaps before.
    """

    __slots__ = ("idle_until", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self.idle_until = NEVER

    def __repr__(self) -> str:
        return f"<DrainState on={self.is_on} idle_until={self.idle_until}>"


class OpenConnection(Protocol):
    """What a drain needs of a connection whose greenlet runs."""

    deadline: Deadline

    @property
    def is_idle(self) -> bool:
        """Whether no request goes on."""

    def drain(self) -> None:
        """The worker has to go: take no more requests than must be."""

    def cut(self) -> None:
        """In the hub: end what goes on."""


class ParkableConnection(Protocol):
    """What parking needs of an idle connection without a greenlet."""

    @property
    def stream(self) -> AnyStream:
        """The stream to watch."""

    def run(self) -> None:
        """In a new greenlet: go on with the next request."""

    def close(self) -> None:
        """End it, without waiting."""


class Place(Protocol):
    """One socket's place among those that the worker counts, from accept to close."""

    def begin(self, connection: OpenConnection) -> None:
        """A greenlet serves it from now on: the connection is told of a drain, and cut at its end."""

    def pause(self) -> None:
        """It is idle and has no greenlet; it still counts."""

    def leave(self) -> None:
        """It was closed; again is harmless."""


class Parking(Protocol):
    """Where idle connections wait without a greenlet."""

    def park(self, connection: ParkableConnection) -> None:
        """Run it again in a new greenlet when the client says something; close it when its time is over."""


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """What every connection of a worker is given.

    Seconds, NEVER for any number of them: ``client_timeout`` for each piece that a client sends or takes,
    ``head_timeout`` for a request's head, ``idle_timeout`` between two requests. ``half_close`` is for the
    answer to a client that has ended its side, 0 for none: it has gone.
    """

    proxy: Proxy
    limits: Limits
    head_limits: HeadLimits
    client_timeout: float
    head_timeout: float
    idle_timeout: float
    half_close: float
    drain: DrainState
    parking: Parking
