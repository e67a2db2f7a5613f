"""One client's HTTP/2 connection: read in one greenlet, each of its streams served in one of its own.

Owns the client's side of the wire once ALPN has said h2: reading and feeding the protocol library (``h2``),
which streams there are, timeouts, attacks, drain. A slow stream delays no other, and nothing is kept
without a bound: what a client may do for nothing is counted (app.wire.h2_guard), and reading stops while
what it makes us say is not taken. What leaves is app.worker.client.http2.sender's affair. Runs in workers.
Never picks a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import gevent
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, StreamClosedError
from h2.settings import SettingCodes, Settings
from hpack import Encoder

from app.errors import (
    BadRequest,
    BodyTimeout,
    ClientError,
    ClientGone,
    ProxyError,
    ShuttingDown,
)
from app.wire.forwarded import connection_lines
from app.wire.h2 import MalformedError, read_request, read_trailers
from app.wire.h2_guard import FrameGuard, Refused, TokenBucket
from app.wire.proxy_protocol import Ends
from app.worker.client.addresses import addresses_of
from app.worker.client.http1 import DRAIN_LOOK_SECONDS
from app.worker.client.http1_writer import ConnectionOwner
from app.worker.client.http2.sender import Sender, Signal
from app.worker.client.http2.stream import Http2Stream
from app.worker.client.linger import linger
from app.worker.net.deadlines import NEVER, Deadline, Expired, deadlines
from app.worker.net.tls_stream import AnyStream

MAX_STREAMS = 100  # RFC 9113 §6.5.2 recommends no less
# All streams together; given back as soon as it has come, so that no stream holds up another's body.
CONNECTION_WINDOW = 1 << 20
# Requests given up before they were answered (rapid reset, CVE-2023-44487, and CVE-2025-8671, where we are
# brought to reset them). nghttp2's rate; its burst of 1000 is more than a page has images.
RESET_BURST = 200
RESET_RATE = 33
# Ours for compressing answers, whatever the client would allow: it is searched from end to end.
MAX_TABLE_BYTES = 4096
_HIGHEST_STREAM = 2**31 - 1


class _Encoder(Encoder):
    """The library's, without Huffman's code: it writes that in quadratic time, 2.7 ms for a field of 4 KB."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        """As the library's."""
        return super().encode(headers, huffman)


class _Protocol(H2Connection):
    """The library's connection, which remembers fewer of the streams that have ended, and counts no bodies.

    It counts those of DATA frames only, and ends the connection for one that differs from its content-length;
    app.worker.client.http2.stream counts all of them, and ends the stream.
    """

    MAX_CLOSED_STREAMS = 1024

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        stream: Any = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = _expect_nothing
        return stream


def _expect_nothing(headers: object) -> None:
    """In the place of the library's."""


class Http2Connection:
    """A client's connection with all its streams."""

    def __init__(
        self,
        worker: ConnectionOwner,
        stream: AnyStream,
        peer: str,
        scheme: str,
        opened_at: float,
        on_close: Callable[[], None] | None,
        ends: Ends | None,
    ) -> None:
        now = monotonic()
        self.worker = worker
        self.stream = stream
        self.peer = peer
        self._ends = ends
        self.scheme = scheme
        self.is_trusted = worker.proxy.is_trusted(peer)
        self.forwarded = connection_lines(peer, scheme)
        self.timeout: float = worker.timeouts.client or NEVER
        self.body_limit = worker.proxy.body_limit
        self.body_rate = worker.limits.body_rate
        self.streams: dict[int, Http2Stream] = {}
        self.deadline: Deadline
        self._loop = gevent.get_hub().loop
        self._h2 = _Protocol(
            H2Configuration(
                client_side=False,
                header_encoding=False,
                # A bad request is one stream's affair (app.wire.h2); for the library it ends them all.
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.encoder = _Encoder()
        self._gate = FrameGuard(now, 2 * worker.head_limits.all_fields)
        self._resets = TokenBucket(RESET_BURST, RESET_RATE, now)
        self._on_close = on_close
        self._requests_left = worker.limits.requests_per_connection or _HIGHEST_STREAM
        self._since = now  # idle
        self._inside_since = opened_at
        self._first_by = opened_at + worker.head_timeout
        self._frames = 0
        self._last = 0  # the highest stream that was taken on
        self._unacknowledged = 0
        self.outlet = Sender(self._h2, stream, self.timeout, self._gate.moved, self._lost)
        self._done = Signal()
        self._is_new = True
        self._is_reading = False
        self._leaves_at = NEVER  # after that a stream more is refused

    @property
    def is_idle(self) -> bool:
        """Whether no request goes on."""
        return not self.streams

    def addresses(self) -> tuple[object, object]:
        """As Exchange.addresses."""
        return addresses_of(self._ends, self.stream.raw)

    def run(self) -> None:
        """Serve the connection in this greenlet until it ends."""
        self.worker.connections.add(self)
        self.deadline = deadlines.enter()
        gevent.spawn_raw(self.outlet.run)
        must_linger = False
        try:
            self._greet()
            if not self.worker.alive:  # it was shaking hands when the others were told
                self.drain()
            must_linger = self._read()
        finally:
            try:
                self._end(must_linger)
            finally:
                deadlines.leave(self.deadline)
                self.worker.connections.discard(self)
                self._close()

    def turn_away(self, error: ProxyError) -> None:
        """Refuse all streams at once: there are too many connections."""
        self.deadline = deadlines.enter()
        try:
            self._log(error)
            self._greet()
            self.outlet.go_away(0, ErrorCodes.REFUSED_STREAM)
            gevent.spawn_raw(self.outlet.run)
            self._end(must_linger=True)
        finally:
            deadlines.leave(self.deadline)
            self._close()

    def drain(self) -> None:
        """Tell the client to open no more streams; those on their way are served (RFC 9113 §6.8)."""
        self._leaves_at = min(self._leaves_at, self.worker.drains_until)
        self.outlet.go_away(_HIGHEST_STREAM, ErrorCodes.NO_ERROR)
        self._rearm()

    def cut(self) -> None:
        """In the hub: end what goes on; what can still be told is answered and logged."""
        for stream in tuple(self.streams.values()):
            self._throw(stream, ShuttingDown())
        if self._is_reading:
            self.deadline.at = deadlines.now

    # -- reading -----------------------------------------------------------------------------------

    def _greet(self) -> None:
        h2 = self._h2
        limits = self.worker.head_limits
        head_size = limits.all_fields + limits.line
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: head_size,
        }
        h2.local_settings = Settings(client=False, initial_values=settings)
        h2.initiate_connection()
        # From here on the library's limits only back ours, which refuse a stream and not the connection:
        # a client may not have read the settings yet.
        h2.local_settings = Settings(
            client=False,
            initial_values={**settings, SettingCodes.MAX_CONCURRENT_STREAMS: _HIGHEST_STREAM},
        )
        h2.decoder.max_header_list_size = 2 * head_size
        h2.increment_flow_control_window(CONNECTION_WINDOW - h2.inbound_flow_control_window)
        self.outlet.collect()

    def _read(self) -> bool:
        """Read until the connection ends; whether the client should be let to read what we said."""
        self._is_reading = True
        deadline = self.deadline
        try:
            while not self.outlet.is_lost:
                deadline.at = self._next_deadline()
                try:
                    if self.outlet.wait_for_room():
                        continue
                    data = self.stream.read()
                except Expired:
                    if self._has_expired():
                        return True
                    continue
                except OSError:
                    return False
                if not data:
                    return False
                self._feed(data, monotonic())
        except Refused as refused:
            self._log(BadRequest("", reason=refused.reason))
            self.outlet.go_away(self._last, refused.code)
            return True
        except H2Error as error:
            self._log(BadRequest(str(error), reason="bad_http2"))
            self.outlet.collect()
            return True
        finally:
            self._is_reading = False
            deadline.at = NEVER
        return False

    def _feed(self, data: bytes, now: float) -> None:
        gate = self._gate
        was_inside = gate.is_inside
        events: Iterable[Event] = self._h2.receive_data(gate.feed(data, now))
        if not was_inside or gate.frames != self._frames:
            self._frames = gate.frames
            self._inside_since = now
        for event in events:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)
        self.outlet.collect()

    def _next_deadline(self) -> float:
        """When waiting for the client's next bytes is over. Bytes alone put nothing off."""
        until = NEVER
        if not self.streams:
            if self._leaves_at != NEVER:
                until = max(self._leaves_at, monotonic() + DRAIN_LOOK_SECONDS)
            elif self._is_new:
                until = self._first_by
            else:
                until = self._since + (self.worker.timeouts.keepalive or NEVER)
        if self._gate.is_inside:  # slowloris
            until = min(until, self._inside_since + self.worker.head_timeout)
        return until

    def _rearm(self) -> None:
        if self._is_reading:
            self.deadline.at = self._next_deadline()

    def _has_expired(self) -> bool:
        """A deadline is over: whether the connection is too."""
        if self.outlet.is_lost:
            return True
        if self._gate.is_inside and monotonic() >= self._inside_since + self.worker.head_timeout:
            if not self._is_new or self._frames:
                self._log(BodyTimeout("frame not complete in time", reason="header_timeout"))
            self.outlet.go_away(self._last, ErrorCodes.PROTOCOL_ERROR)
            return True
        if self.streams:
            return False
        self.outlet.go_away(self._last, ErrorCodes.NO_ERROR)
        return True

    def _on_request(self, event: RequestReceived) -> None:
        identity, fields = event.stream_id, event.headers
        self._is_new = False
        if len(self.streams) >= MAX_STREAMS or monotonic() > self._leaves_at:
            # Says that nothing was done: the client may try again elsewhere (RFC 9113 §8.7).
            self._refuse(identity, ErrorCodes.REFUSED_STREAM)
            return
        self._last = identity
        stream = Http2Stream(self, identity, event.stream_ended is not None)
        try:
            stream.head_in(read_request(fields, stream.has_all, self.worker.head_limits))
        except MalformedError as malformed:
            self._log(malformed)
            self._refuse(identity, ErrorCodes.PROTOCOL_ERROR)
            return
        except BadRequest as error:
            stream.refusal = error
            stream.is_head = (b":method", b"HEAD") in fields
        self.streams[identity] = stream
        self._requests_left -= 1
        if not self._requests_left:
            self._leaves_at = 0.0
            self.outlet.go_away(identity, ErrorCodes.NO_ERROR)
        gevent.spawn_raw(self._serve, stream)

    def _on_data(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 2:
            self._h2.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.gone is not None:
            return
        try:
            stream.take_in(event.data, size)
        except MalformedError as error:
            self._end_malformed(stream, error)

    def _on_end(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.gone is not None:
            return
        try:
            stream.end_in()
        except MalformedError as error:
            self._end_malformed(stream, error)

    def _on_trailers(self, event: TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.gone is not None:
            return
        try:
            stream.trailers_in(read_trailers(event.headers))
        except MalformedError as error:
            self._end_malformed(stream, error)

    def _on_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        if not stream.has_ended:
            self._count_reset()
        self._leave(stream, ClientGone("stream reset by the client"))

    def _on_window(self, event: WindowUpdated) -> None:
        if not event.stream_id:
            self.outlet.opened()
        elif (stream := self.streams.get(event.stream_id)) is not None:
            stream.room.give()

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        encoder = self._h2.encoder
        if encoder.header_table_size > MAX_TABLE_BYTES:
            encoder.header_table_size = MAX_TABLE_BYTES
        self.outlet.opened()

    def _end_malformed(self, stream: Http2Stream, error: MalformedError) -> None:
        """What follows its head makes it no message (RFC 9113 §8.1.1): it ends, wherever its request is."""
        self._leave(stream, error)
        self._refuse(stream.id, ErrorCodes.PROTOCOL_ERROR)

    def _refuse(self, identity: int, code: ErrorCodes) -> None:
        self._count_reset()
        try:
            self._h2.reset_stream(identity, code)
        except StreamClosedError:
            pass  # the client did, in the same breath

    def _count_reset(self) -> None:
        if not self._resets.spend(1, monotonic()):
            raise Refused(ErrorCodes.ENHANCE_YOUR_CALM, "reset_flood")

    def _log(self, error: ProxyError) -> None:
        self.worker.proxy.refuse(self.peer, error, monotonic())

    # -- streams -----------------------------------------------------------------------------------

    def _serve(self, stream: Http2Stream) -> None:
        """The greenlet of one stream."""
        stream.deadline = deadlines.enter()
        try:
            if stream.refusal is not None:
                body = self.worker.proxy.refuse(self.peer, stream.refusal, monotonic())
                stream.refuse(stream.refusal, body, self.worker.proxy.server_field)
            elif stream.gone is not None:  # before its turn came: not worth a backend's connection
                self.worker.proxy.drop(stream, stream.gone)
            else:
                stream.begin()
                self.worker.proxy.handle(stream)
        except (ClientError, ShuttingDown):
            pass
        finally:
            deadlines.leave(stream.deadline)
            self._finish(stream)

    def _finish(self, stream: Http2Stream) -> None:
        del self.streams[stream.id]
        if stream.gone is None:
            if not stream.has_ended:
                self.outlet.reset(stream, ErrorCodes.INTERNAL_ERROR)
            elif not stream.has_all:
                # The answer stands, the rest of the request is not wanted (RFC 9113 §8.1).
                self.outlet.reset(stream, ErrorCodes.NO_ERROR)
        self._gate.served()
        if not self.streams:
            self._since = monotonic()
            self._rearm()
            self._done.give()

    def _leave(self, stream: Http2Stream, error: ProxyError) -> None:
        """There is no client for this stream any more."""
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
        self.outlet.finish()
        if must_linger and not self.outlet.is_lost:
            linger(self.stream, self.deadline)

    def _close(self) -> None:
        try:
            self.stream.close()
        finally:
            if self._on_close is not None:
                self._on_close()


_HANDLERS: dict[type[Event], Any] = {
    RequestReceived: Http2Connection._on_request,
    DataReceived: Http2Connection._on_data,
    StreamEnded: Http2Connection._on_end,
    TrailersReceived: Http2Connection._on_trailers,
    StreamReset: Http2Connection._on_reset,
    WindowUpdated: Http2Connection._on_window,
    RemoteSettingsChanged: Http2Connection._on_settings,
}
