"""One client's HTTP/2 connection: read in one greenlet, each of its streams served in one of its own.

Owns the client's side of the wire once ALPN has said h2: reading and feeding the protocol library (``h2``),
which streams there are, timeouts, attacks, drain. A slow stream delays no other, and nothing is kept
without a bound: what a client may do for nothing is counted (app.wire.h2_guard), and reading stops while
what it makes us say is not taken. What leaves is app.worker.client.http2.sender's affair. Runs in workers.
Never picks a backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from h2 import events as h2_events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error, StreamClosedError

from app.errors import BadRequest, BodyTimeout, ClientError, ClientGone, ProxyError, ShuttingDown
from app.wire.forwarded import connection_lines
from app.wire.h2 import MalformedError, read_request, read_trailers
from app.wire.h2_guard import FrameGuard, Refused
from app.wire.proxy_protocol import Ends
from app.wire.request import HeadLimits
from app.worker.client.addresses import addresses_of
from app.worker.client.contract import (
    DRAIN_IDLE_SECONDS,
    ConnectionContext,
    DrainState,
    Place,
)
from app.worker.client.http2.patience import Patience
from app.worker.client.http2.protocol import (
    CONNECTION_WINDOW,
    HIGHEST_STREAM,
    MAX_STREAMS,
    bound_table,
    greet,
    new_protocol,
)
from app.worker.client.http2.sender import Sender, Signal
from app.worker.client.http2.stream import Http2Stream
from app.worker.client.linger import linger
from app.worker.net.deadlines import NEVER, Deadline, Expired, deadlines
from app.worker.net.tls_stream import AnyStream
from app.worker.net.turns import turns

if TYPE_CHECKING:
    from app.worker.proxy.handler import Proxy


class Http2Connection:
    """A client's connection with all its streams."""

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
        now = monotonic()
        self._proxy: Proxy = context.proxy
        self._drain: DrainState = context.drain
        self._place: Place = place
        self._head_limits: HeadLimits = context.head_limits
        self.stream = stream
        self.peer = peer
        self._ends = ends
        self.scheme = scheme
        self.is_trusted = self._proxy.is_trusted(peer)
        self.forwarded = connection_lines(peer, scheme)
        self.timeout: float = context.client_timeout
        self.body_limit: int = self._proxy.body_limit
        self.body_rate: int = context.limits.body_rate
        self.streams: dict[int, Http2Stream] = {}
        self.deadline: Deadline
        self._loop = gevent.get_hub().loop
        self._guard = FrameGuard(now, 2 * self._head_limits.all_fields)
        self._h2 = new_protocol(self._guard)
        self._requests_left: int = context.limits.requests_per_connection or HIGHEST_STREAM
        self._patience = Patience(opened_at, now, context.head_timeout, context.idle_timeout)
        self._last = 0  # the highest stream that was taken on
        self._unacknowledged = 0
        self.sender = Sender(self._h2, stream, self.timeout, self._guard.sent, self._lost)
        self._late_until = 0.0
        self._done = Signal()
        self._is_reading = False

    @property
    def is_idle(self) -> bool:
        """Whether no request goes on."""
        return not self.streams and monotonic() >= self._late_until

    def addresses(self) -> tuple[object, object]:
        """As Exchange.addresses."""
        return addresses_of(self._ends, self.stream.raw)

    def run(self) -> None:
        """Serve the connection in this greenlet until it ends."""
        self._place.begin(self)
        self.deadline = deadlines.enter()
        gevent.spawn_raw(self.sender.run)
        must_linger = False
        try:
            self._greet()
            if self._drain.is_on:  # it was shaking hands when the others were told
                self.drain()
                self._late_until = monotonic() + DRAIN_IDLE_SECONDS
                self._patience.refuses_after = max(self._patience.refuses_after, self._late_until)
            must_linger = self._read()
        finally:
            try:
                self._end(must_linger)
            finally:
                deadlines.leave(self.deadline)
                self._close()

    def turn_away(self, error: ProxyError) -> None:
        """Refuse all streams at once: there are too many connections."""
        self.deadline = deadlines.enter()
        try:
            self._log(error)
            self._greet()
            self.sender.go_away(0, ErrorCodes.REFUSED_STREAM)
            gevent.spawn_raw(self.sender.run)
            self._end(must_linger=True)
        finally:
            deadlines.leave(self.deadline)
            self._close()

    def drain(self) -> None:
        """Tell the client to open no more streams; those on their way are served (RFC 9113 §6.8)."""
        self._patience.refuses_after = min(self._patience.refuses_after, self._drain.idle_until)
        self.sender.go_away(HIGHEST_STREAM, ErrorCodes.NO_ERROR)
        self._rearm()

    def cut(self) -> None:
        """In the hub: end what goes on; what can still be told is answered and logged."""
        for stream in tuple(self.streams.values()):
            self._throw(stream, ShuttingDown())
        if self._is_reading:
            self.deadline.at = deadlines.now

    # -- reading -----------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Send the server's preface, which need not wait for the client's (RFC 9113 §3.4)."""
        greet(self._h2, self._head_limits)
        self.sender.collect()

    def _read(self) -> bool:
        """Read until the connection ends; whether the client should be let to read what we said."""
        self._is_reading = True
        deadline = self.deadline
        try:
            while not self.sender.is_lost:
                deadline.at = self._next_deadline()
                try:
                    if self.sender.wait_for_room():
                        continue
                    if self._guard.has_more:
                        turns.next()
                        data = b""
                    else:
                        data = self.stream.read()
                        if not data:
                            return False
                except Expired:
                    if self._has_expired():
                        return True
                    continue
                except OSError:
                    return False
                self._feed(data, monotonic())
        except Refused as refused:
            self._log(BadRequest("", reason=refused.reason))
            self.sender.go_away(self._last, refused.code)
            return True
        except H2Error as error:
            self._log(BadRequest(str(error), reason="bad_http2"))
            self.sender.collect()
            return True
        finally:
            self._is_reading = False
            deadline.at = NEVER
        return False

    def _feed(self, data: bytes, now: float) -> None:
        """Act on what the client has sent. Raises Refused, H2Error: the connection is over."""
        guard = self._guard
        was_inside = guard.is_inside
        events: Iterable[Any] = self._h2.receive_data(guard.feed(data, now))
        self._patience.fed(was_inside, guard.frames, now)
        for event in events:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                try:
                    handle(self, event)
                except MalformedError as error:
                    self._end_malformed(event.stream_id, error)
        self.sender.collect()

    def _next_deadline(self) -> float:
        """When waiting for the client's next bytes is over. Bytes alone put nothing off."""
        return self._patience.until(bool(self.streams), self._guard.is_inside, monotonic())

    def _rearm(self) -> None:
        """Something has happened that changes how long the client is waited for."""
        if self._is_reading:
            self.deadline.at = self._next_deadline()

    def _has_expired(self) -> bool:
        """Whether the connection is over, now that a wait for the client is."""
        if self.sender.is_lost:
            return True
        if self._guard.is_inside and self._patience.frame_is_late(monotonic()):
            if self._patience.has_spoken():
                self._log(BodyTimeout("frame not complete in time", reason="header_timeout"))
            self.sender.go_away(self._last, ErrorCodes.PROTOCOL_ERROR)
            return True
        if self.streams:
            return False
        self.sender.go_away(self._last, ErrorCodes.NO_ERROR)
        return True

    def _on_request(self, event: h2_events.RequestReceived) -> None:
        identity, fields = event.stream_id, event.headers
        self._patience.is_new = False
        if len(self.streams) >= MAX_STREAMS or monotonic() > self._patience.refuses_after:
            # Says that nothing was done: the client may try again elsewhere (RFC 9113 §8.7).
            self._refuse(identity, ErrorCodes.REFUSED_STREAM)
            return
        self._last = identity
        stream = Http2Stream(self, identity, event.stream_ended is not None)
        try:
            stream.head_in(read_request(fields, stream.has_all, self._head_limits))
        except MalformedError:
            raise  # it has no answer
        except BadRequest as error:
            stream.refusal = error
            stream.is_head = (b":method", b"HEAD") in fields
        self.streams[identity] = stream
        self._requests_left -= 1
        if not self._requests_left:
            self._patience.refuses_after = 0.0
            self.sender.go_away(identity, ErrorCodes.NO_ERROR)
        gevent.spawn_raw(self._serve, stream)

    def _on_data(self, event: h2_events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 2:
            self._h2.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0
        stream = self.streams.get(event.stream_id)
        if stream is not None and stream.gone is None:
            self._guard.received(len(event.data))
            stream.take_in(event.data, size)

    def _on_end(self, event: h2_events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None and stream.gone is None:
            stream.end_in()

    def _on_trailers(self, event: h2_events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None and stream.gone is None:
            stream.trailers_in(read_trailers(event.headers))

    def _on_reset(self, event: h2_events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        if not stream.has_ended:
            self._guard.gave_up()
        error: ProxyError = ClientGone("stream reset by the client")
        if not event.remote_reset:  # the protocol has, for what came on it
            error = MalformedError("error of the stream", reason="malformed_request")
        self._leave(stream, error)

    def _on_window(self, event: h2_events.WindowUpdated) -> None:
        if not event.stream_id:
            self.sender.opened()
        elif (stream := self.streams.get(event.stream_id)) is not None:
            stream.room.give()

    def _on_settings(self, event: h2_events.RemoteSettingsChanged) -> None:
        bound_table(self._h2)
        self.sender.opened()

    def _end_malformed(self, identity: int, error: MalformedError) -> None:
        """What its client sent makes it no message (RFC 9113 §8.1.1): it ends, wherever its request is."""
        stream = self.streams.get(identity)
        if stream is not None:
            self._leave(stream, error)
        else:  # it is the head: nobody serves it
            self._log(error)
        self._refuse(identity, ErrorCodes.PROTOCOL_ERROR)

    def _refuse(self, identity: int, code: ErrorCodes) -> None:
        self._guard.gave_up()
        try:
            self._h2.reset_stream(identity, code)
        except StreamClosedError:
            pass  # the client did, in the same breath

    def _log(self, error: ProxyError) -> None:
        self._proxy.refuse(self.peer, error, monotonic())

    # -- streams -----------------------------------------------------------------------------------

    def _serve(self, stream: Http2Stream) -> None:
        """The greenlet of one stream."""
        stream.deadline = deadlines.enter()
        try:
            if stream.refusal is not None:
                fields, body = self._proxy.refuse(self.peer, stream.refusal, monotonic())
                stream.answer(stream.refusal.status, fields, body)
            elif stream.gone is not None:  # before its turn came: not worth a backend's connection
                self._proxy.drop(stream, stream.gone)
            else:
                stream.begin()
                self._proxy.handle(stream)
        except (ClientError, ShuttingDown):
            pass
        finally:
            deadlines.leave(stream.deadline)
            self._finish(stream)

    def _finish(self, stream: Http2Stream) -> None:
        del self.streams[stream.id]
        if stream.gone is None:
            if not stream.has_ended:
                self.sender.reset(stream, ErrorCodes.INTERNAL_ERROR)
            elif not stream.has_all:
                # The answer stands, the rest of the request is not wanted (RFC 9113 §8.1).
                self.sender.reset(stream, ErrorCodes.NO_ERROR)
        self._guard.served()
        if not self.streams:
            self._patience.idle_since = monotonic()
            if self._drain.is_on:
                self._patience.part()
            self._rearm()
            self._done.give()

    def _leave(self, stream: Http2Stream, error: ProxyError) -> None:
        """Say of a stream that there is no client for it any more, and interrupt whoever serves it."""
        if stream.gone is None:
            stream.gone = error
            stream.received.give()
            self._loop.run_callback(self._throw, stream, error)

    def _throw(self, stream: Http2Stream, error: ProxyError) -> None:
        """In the hub: interrupt a stream's greenlet, if it has begun and not ended."""
        deadline = getattr(stream, "deadline", None)
        if deadline is not None and stream.id in self.streams:
            deadlines.throw(deadline, error)

    def _lost(self) -> None:
        """Nothing can be sent any more: reading ends at the next tick."""
        if self._is_reading:
            self.deadline.at = deadlines.now

    def _end(self, must_linger: bool) -> None:
        """What goes on ends with the connection; what was made is sent."""
        for stream in tuple(self.streams.values()):
            self._leave(stream, ClientGone("connection closed while waiting for the response"))
        while self.streams:
            self._done.wait()
        self.sender.finish()
        if must_linger and not self.sender.is_lost:
            linger(self.stream, self.deadline)

    def _close(self) -> None:
        """Close the socket and give back its place."""
        try:
            self.stream.close()
        finally:
            self._place.leave()


_HANDLERS: dict[type[h2_events.Event], Any] = {
    h2_events.RequestReceived: Http2Connection._on_request,
    h2_events.DataReceived: Http2Connection._on_data,
    h2_events.StreamEnded: Http2Connection._on_end,
    h2_events.TrailersReceived: Http2Connection._on_trailers,
    h2_events.StreamReset: Http2Connection._on_reset,
    h2_events.WindowUpdated: Http2Connection._on_window,
    h2_events.RemoteSettingsChanged: Http2Connection._on_settings,
}
