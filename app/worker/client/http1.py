"""One client's HTTP/1.1 connection: its requests are read one after another, and each has its answer.

Owns the heads, keep-alive, silent clients and those that hang up. Bodies are app.worker.client.http1_body's,
what is sent is app.worker.client.http1_writer's. The connection is also the exchange that
app.worker.proxy.handler works with. Runs in workers, one greenlet a connection. Imported by the master with
the worker's class: nothing here may import requests. Must never know the worker, nor pick a backend.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import gevent

from app.errors import BadRequest, BodyTimeout, ClientError, ClientGone, ProxyError, ShuttingDown
from app.wire.forwarded import connection_lines
from app.wire.proxy_protocol import Ends
from app.wire.request import HeadLimits, RequestHead, read_head
from app.worker.client.contract import (
    DRAIN_IDLE_SECONDS,
    PARK_SECONDS,
    ConnectionContext,
    Parking,
    Place,
)
from app.worker.client.http1_body import Http1Body
from app.worker.client.linger import linger
from app.worker.net.deadlines import NEVER, Expired, deadlines
from app.worker.net.tls_stream import AnyStream
from app.worker.net.turns import turns

# Requests that were read together, and are answered here, before others are looked at: 0.3 ms (a read of
# 64 KiB holds 1,300 of them: 45 ms).
PIPELINED_A_TURN: Final = 8


class Http1Connection(Http1Body):
    """A client's connection, and the client's side of its exchange in hand (app.worker.proxy.exchange).

    ``place`` is its socket's among those that the worker counts; ``opened_at`` when the socket was accepted,
    monotonic seconds, from which the first head's time runs; ``ends`` what a PROXY header said of it.
    ``is_idle``: no request is in hand.
    """

    __slots__ = (
        "_first_head_by",
        "_half_close",
        "_head_limits",
        "_head_timeout",
        "_idle_timeout",
        "_is_late",
        "_is_new",
        "_is_parked",
        "_is_running",
        "_parking",
        "_pipelined",
        "_place",
        "_requests_left",
        "forwarded",
        "is_idle",
        "is_trusted",
        "scheme",
    )

    def __init__(
        self,
        context: ConnectionContext,
        place: Place,
        stream: AnyStream,
        peer: str,
        scheme: str,
        opened_at: float,
        ends: Ends | None,
    ) -> None:
        super().__init__(context, stream, peer, ends)
        self._place: Place = place
        self._parking: Parking = context.parking
        self.scheme = scheme
        self.is_trusted: bool = self._proxy.is_trusted(peer)
        self.forwarded = connection_lines(peer, scheme)
        self._head_limits: HeadLimits = context.head_limits
        idle_timeout: float = context.idle_timeout
        self._idle_timeout = min(PARK_SECONDS, idle_timeout) if stream.has_events else idle_timeout
        self._head_timeout: float = context.head_timeout
        self._first_head_by = opened_at + self._head_timeout
        self._requests_left: int = context.limits.requests_per_connection
        self._half_close: float = context.half_close
        self._is_running = self._is_parked = False
        self._is_new = True
        self._is_late = False  # it came while the worker had to go
        self._pipelined = 0
        self.is_idle = True  # until its first whole head

    def run(self) -> None:
        """Serve the connection in this greenlet until it ends or falls idle."""
        self._place.begin(self)
        self.deadline = deadlines.enter()
        self._is_running, self._is_parked = True, False
        if self._is_new and self._drain.is_on:
            self._is_late = True
            self._first_head_by = min(self._first_head_by, monotonic() + DRAIN_IDLE_SECONDS)
        try:
            while True:
                was_read = self._buffer
                head = self._read_head()
                if head is None:
                    break
                self._begin(head)
                if self.stream.posted:
                    self._wait_for_client()
                if was_read:
                    self._begin_pipelined()
                self._serve()
                if not self._keep:
                    # Pipelined behind it, and never to be read: to close on that would be a reset.
                    if head.keep_alive and not self._is_cut:
                        self._must_linger |= bool(self._buffer or self.stream.peek())
                    break
            if self.stream.posted and not self._is_parked:
                self._flush()
            if self._must_linger:
                linger(self.stream, self.deadline)
        except (ClientError, ShuttingDown):
            pass
        finally:
            deadlines.leave(self.deadline)
            self._is_running = False
            if self._is_parked:
                self._place.pause()
            else:
                self.close()

    def close(self) -> None:
        """End the connection, without waiting; again is harmless."""
        try:
            self.stream.close()
        finally:
            self._place.leave()

    def drain(self) -> None:
        """The next answer says that it is the last (DrainState): nothing to do before."""

    def cut(self) -> None:
        """In the hub: end what goes on; what can still be told is answered and logged."""
        if self._is_running:
            deadlines.throw(self.deadline, ShuttingDown())

    def turn_away(self, error: ProxyError) -> None:
        """Refuse it at once, whatever it will ask: there are too many connections."""
        self.deadline = deadlines.enter()
        try:
            self._refuse(error)
            linger(self.stream, self.deadline)
        except (ClientError, ShuttingDown):
            pass
        finally:
            deadlines.leave(self.deadline)
            self.close()

    # -- the request -------------------------------------------------------------------------------

    def _read_head(self) -> RequestHead | None:
        """The next request's head, None when there will be none (the connection may be parked then)."""
        data, seen = self._buffer, 0
        stream, deadline = self.stream, self.deadline
        limits = self._head_limits
        while True:
            if data:
                try:
                    head = read_head(data, seen, limits)
                except BadRequest as error:
                    self._refuse(error, is_head=data.lstrip(b"\r\n")[:5] == b"HEAD ")
                    return None
                if head is not None:
                    self._buffer = data
                    deadline.at = NEVER
                    return head
                if not seen:
                    # One deadline for the whole head: a byte now and then does not extend it (slowloris).
                    deadline.at = (
                        self._first_head_by if self._is_new else monotonic() + self._head_timeout
                    )
                seen = len(data)
            else:
                self.is_idle = not self._is_late
                deadline.at = self._idle_deadline()
            try:
                piece = stream.read()
            except Expired:
                if data:
                    self._refuse(
                        BodyTimeout("request head not complete in time", reason="header_timeout")
                    )
                elif not self._is_new and stream.has_events:
                    if stream.posted:
                        self._flush()
                    if stream.peek() is not None:
                        continue  # it came meanwhile: inside TLS it will be no event any more
                    self._is_parked = True
                    self._parking.park(self)
                return None
            except OSError:
                return None
            if not piece:
                return None
            data = data + piece if data else piece

    def _idle_deadline(self) -> float:
        """When a client that has said nothing of its next request is waited for no longer."""
        if self._is_new:
            return self._first_head_by
        return deadlines.now + self._idle_timeout

    def _flush(self) -> None:
        """Wait until the client has taken what was posted for it. Raises ClientGone."""
        self.is_idle = False
        self._send(b"")

    def _wait_for_client(self) -> None:
        """Have the answer before taken, before its client's next request is begun; else drop that one."""
        try:
            self._flush()
        except ProxyError as error:
            self._proxy.drop(self, error)
            raise

    def _begin_pipelined(self) -> None:
        """Let others have their turn, and drop a request whose client has hung up since it was read."""
        self._pipelined += 1
        try:
            if self._pipelined % PIPELINED_A_TURN == 0:
                turns.next()
            if not self._half_close and self.stream.has_ended():
                raise ClientGone("connection closed before the request was begun")
        except ProxyError as error:
            self._proxy.drop(self, error)
            raise

    def _begin(self, head: RequestHead) -> None:
        """Set up for one exchange: what of the body is here, and how to get the rest."""
        data = self._buffer
        rest = data[head.consumed :] if len(data) > head.consumed else b""
        self.head = head
        self._is_new = self.is_idle = self._is_begun = self._chunked = self._sent_continue = False
        self._keep = head.keep_alive
        if self._requests_left:
            self._requests_left -= 1
            if not self._requests_left:
                # What was pipelined behind it is never read.
                self._keep, self._must_linger = False, True
        self.bytes_out = 0
        self.read_body = None
        length = head.length
        if not length:
            self.body = b""
            self._buffer = rest
            self._left = self.bytes_in = 0
            return
        self._begin_body(length, rest)

    # -- the exchange ------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Have the request in hand answered, and find out whether another may follow."""
        stream = self.stream
        stream.on_event = self._while_waiting
        stream.watch()
        try:
            self._proxy.handle(self)
        finally:
            stream.on_event = None
            if self._grace is not None:
                self._grace.close()
                self._grace = None
        if self._left:
            # Part of the request is unread: what follows on the connection cannot be told apart.
            self._keep = False
            self._must_linger = self._is_begun and not self._is_cut

    def _while_waiting(self) -> None:
        """In the hub: the client sent or closed something while it waits for its answer."""
        stream = self.stream
        if not stream.has_ended():
            stream.watch_end()  # of what it has sent nothing is read before its turn
        elif not self._half_close:
            self._give_up()
        elif self._grace is None:
            self._grace = gevent.get_hub().loop.timer(self._half_close)
            self._grace.start(self._give_up)

    def _give_up(self) -> None:
        """In the hub: nobody waits for the answer any more."""
        self.stream.on_event = None
        gone = ClientGone("connection closed while waiting for the response")
        deadlines.throw(self.deadline, gone)
