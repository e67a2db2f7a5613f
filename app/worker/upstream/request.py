"""A request as a backend gets it: bytes that are ready, and where the rest of them comes from.

A value with defaults; it prepares, guesses and completes nothing. Runs in workers, does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict

from app.errors import BadRequest
from app.wire.lenient import ReadHead
from app.wire.response import CHUNKED, ResponseHead
from app.wire.response import read_head as read_response_head
from app.worker.net.deadlines import NEVER, Deadline
from app.worker.net.splice import SpliceBody
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.send_proxy import ClientLane

ReadBody = Callable[[Deadline], bytes]
Interim = Callable[[ResponseHead], None]


class UpstreamRequest(requests.PreparedRequest):
    """A request that is ready to be sent: nothing of it is prepared, guessed or completed.

    ``head`` is the whole head as bytes, ``length`` what it says of the body: its size in bytes, or CHUNKED.
    ``raw_body`` is the part of the body that is already here, framed if the adapter is ours; ``read_body``
    gives the rest piece by piece, b"" at its end (None: there is no rest), sent chunked when ``is_chunked``.
    ``expects_continue`` holds the rest back until the backend wants it. The timeouts are in seconds, NEVER
    for none. ``sent_at`` (monotonic): since when its answer is waited for, 0.0 before it has a connection.
    """

    # Defaults stand on the class: most requests have no body, fewer one that is still to come.
    length = 0
    read_body: ReadBody | None = None
    splice_body: SpliceBody | None = None
    is_chunked = False
    trailers: Callable[[], list[tuple[bytes, bytes]]] = list
    expects_continue = False
    began_body = False
    read_head: ReadHead = staticmethod(read_response_head)
    upgrade = b""  # the protocols that a 101 may switch to
    on_interim: Interim | None = None
    connect_seconds: float | None = None
    base_url = ""
    expires_at = NEVER  # the total timeout, monotonic
    body_sent = 0
    adapter: Any = None
    sent_at = 0.0
    is_last_attempt = False  # nobody else would be asked if this one were given up

    def __init__(
        self,
        method: bytes,
        head: bytes,
        body: bytes,
        connections: ConnectionCache | ClientLane,
        deadline: Deadline,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        self.raw_method = method
        self.head = head
        self.raw_body = body
        self.connections = connections
        self.deadline = deadline
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout

    @property
    def cache(self) -> ConnectionCache:
        """All of this worker's connections to the backend, of which ``connections`` may be one client's."""
        return self.connections.cache

    def next_deadline(self, now: float) -> float:
        """When a wait for the backend that begins now has to end."""
        return min(now + self.read_timeout, self.expires_at)

    def check_here(self) -> None:
        """Refuse a body of which more is here than the head says, or less although no more will come.

        What is sent beyond a body's length, or taken into it, is another message to the backend: whoever
        made the exchange is not believed about that. Raises BadRequest.
        """
        if self.length != CHUNKED:
            missing = self.length - len(self.raw_body)
            if missing < 0 or (missing and self.read_body is None):
                raise _another_length(len(self.raw_body), self.length)

    def next_piece(self, deadline: Deadline) -> bytes:
        """The next piece of the rest of the body, b"" at its end. Held against the length, as what is here.

        What was spliced to the backend is in ``body_sent`` by then.
        """
        assert self.read_body is not None
        piece = self.read_body(deadline)
        if self.length != CHUNKED:
            taken = len(self.raw_body) + self.body_sent + len(piece)
            if taken > self.length or (not piece and taken < self.length):
                raise _another_length(taken, self.length)
        return piece

    # What an adapter other than ours may ask for, made when it asks.
    @property
    def method(self) -> str:  # type: ignore[override]
        """The method as text."""
        return self.raw_method.decode("latin-1")

    @property
    def url(self) -> str:  # type: ignore[override]
        """The server's URL with the raw target, which begins with a slash: it never adds to the host."""
        target = self.head.split(b" ", 2)[1].decode("latin-1")
        # The asterisk stands for the server itself, whose URL has no path (RFC 9110 §7.1).
        return self.base_url if target == "*" else self.base_url + target

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The fields of the head; repeated ones joined, as requests can hold but one of a name."""
        result: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for line in self.head.split(b"\r\n")[1:-2]:
            name, _, value = line.decode("latin-1").partition(": ")
            result[name] = f"{result[name]}, {value}" if name in result else value
        return result

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The body as bytes, or an iterator of its pieces; who is given that frames it in chunks."""
        if self.read_body is None and self.length != CHUNKED:
            return self.raw_body or None
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        if self.raw_body:
            yield self.raw_body
        while self.read_body is not None and (piece := self.next_piece(self.deadline)):
            self.body_sent += len(piece)
            yield piece


def _another_length(size: int, announced: int) -> BadRequest:
    return BadRequest(f"{size} bytes of a body of {announced}", reason="bad_framing")
