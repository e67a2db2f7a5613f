"""The HTTP/2 protocol library (``h2``) as a server of ours uses it.

Owns what we tell a client at first (SETTINGS, the connection's window), what of the library is changed and
why, and the numbers of both. Runs in workers. Makes bytes, knows no socket and none of our streams.

The library ends a connection for much that RFC 9113 calls an error of one stream, and answers each frame that
comes for a stream which was reset, although those may have been on their way (§5.1). Both are changed here.
"""

from __future__ import annotations

from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection, _decode_headers
from h2.errors import ErrorCodes
from h2.events import StreamReset, TrailersReceived
from h2.exceptions import (
    FlowControlError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError

from app.wire.h2_guard import FrameGuard, Refused
from app.wire.request import HeadLimits

MAX_STREAMS: Final = 100  # RFC 9113 §6.5.2 recommends no less
# All streams together; given back as soon as it has come, so that no stream holds up another's body.
CONNECTION_WINDOW: Final = 1 << 20
# Ours for compressing answers, whatever the client would allow: it is searched from end to end.
MAX_TABLE_BYTES: Final = 4096
HIGHEST_STREAM: Final = 2**31 - 1


class _Encoder(Encoder):
    """The library's, without Huffman's code: it writes that in quadratic time, 2.7 ms for a field of 4 KB."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        """As the library's."""
        return super().encode(headers, huffman)


class _CompressionError(ProtocolError):
    """A field section that cannot be decompressed (RFC 9113 §4.3)."""

    error_code = ErrorCodes.COMPRESSION_ERROR


class _Decoder(Decoder):
    """The library's, which says what is wrong as RFC 9113 wants it said."""

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """As the library's."""
        try:
            return super().decode(data, raw)
        except OversizedHeaderListError:
            raise
        except HPACKError as error:
            raise _CompressionError(str(error)) from error


class _Stream(H2Stream):
    """The library's stream, which judges neither what a message says nor how long it is.

    app.wire.h2 and app.worker.client.http2.stream do, for one stream. The library would end the connection.
    """

    def receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> Any:
        """As the library's. Trailers that do not end their stream are malformed (RFC 9113 §8.1)."""
        events: list[Any] = self.state_machine.process_input(StreamInputs.RECV_HEADERS)
        event = events[0]
        event.headers = headers
        if end_stream:
            ended = self.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            event.stream_ended = ended[0]
            events += ended
        elif isinstance(event, TrailersReceived):
            code = ErrorCodes.PROTOCOL_ERROR
            return self.reset_stream(code), [_reset_by_us(self.stream_id, code)]
        return [], events

    def receive_data(self, data: bytes, end_stream: bool, flow_control_len: int) -> Any:
        """As the library's. More than the stream's window allows is the stream's error (RFC 9113 §6.9.1)."""
        events: list[Any] = self.state_machine.process_input(StreamInputs.RECV_DATA)
        try:
            self._inbound_window_manager.window_consumed(flow_control_len)
        except FlowControlError:
            self.state_machine.process_input(StreamInputs.SEND_RST_STREAM)
            error = StreamClosedError(self.stream_id)
            error.error_code = ErrorCodes.FLOW_CONTROL_ERROR
            error._events = [_reset_by_us(self.stream_id, error.error_code)]
            raise error from None
        event = events[0]
        event.data = data
        event.flow_controlled_length = flow_control_len
        if end_stream:
            ended = self.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            event.stream_ended = ended[0]
            events += ended
        return [], events


class _Protocol(H2Connection):
    """The library's connection, which remembers fewer of the streams that have ended.

    What comes for those is charged: of one that we reset it may have been on its way and is passed over, of
    others it is answered with a reset.
    """

    MAX_CLOSED_STREAMS = 1024

    def __init__(self, config: H2Configuration, guard: FrameGuard) -> None:
        super().__init__(config)
        self._guard = guard

    def receive_data(self, data: Any) -> Any:
        """As the library's; streams end for which the guard has taken out a wrong frame. Raises Refused."""
        events = super().receive_data(data)
        faults = self._guard.faults
        while faults:
            number, code = faults.pop(0)
            if number > self.highest_inbound_stream_id:
                raise Refused(
                    code, "bad_http2"
                )  # of a stream that has not begun nothing can be said
            stream = self.streams.get(number)
            if stream is not None and stream.open:
                self.reset_stream(number, code)
                events.append(_reset_by_us(number, code))
        return events

    def reset_stream(self, stream_id: int, error_code: Any = 0) -> None:
        """As the library's; what the client has sent meanwhile of the body is not its fault."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state_machine.state in _STILL_SENT:
            self._guard.was_reset(stream._inbound_window_manager.current_window_size)
        super().reset_stream(stream_id, error_code)

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        """As the library's of a server that pushes nothing (RFC 9113 §5.1.1)."""
        highest = self.highest_inbound_stream_id
        if stream_id <= highest:
            raise StreamIDTooLowError(stream_id, highest)
        if not stream_id % 2:
            raise ProtocolError("an even number for a stream of a client")
        stream = _Stream(
            stream_id,
            config=self.config,
            inbound_window_size=self.local_settings.initial_window_size,
            outbound_window_size=self.remote_settings.initial_window_size,
        )
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        self.streams[stream_id] = stream
        self.highest_inbound_stream_id = stream_id
        return stream

    def _receive_headers_frame(self, frame: Any) -> Any:
        closed_by = self._stream_closed_by(frame.stream_id)
        if closed_by is not None:
            self._guard.spend(1 + len(frame.data) / 64)
            if closed_by is StreamClosedBy.SEND_RST_STREAM:
                _decode_headers(self.decoder, frame.data)  # both tables go on (RFC 9113 §4.3)
                return [], []
        # Its advice is not taken (RFC 9113 §5.3.2); the library ends the connection for a stream of its own.
        frame.flags.discard("PRIORITY")
        return super()._receive_headers_frame(frame)

    def _handle_data_on_closed_stream(self, events: Any, exc: Any, frame: Any) -> Any:
        self._guard.spend(1)
        frames, events = super()._handle_data_on_closed_stream(events, exc, frame)
        is_ours = self._stream_closed_by(exc.stream_id) is StreamClosedBy.SEND_RST_STREAM
        if is_ours and not exc._events:
            frames.pop()  # the reset: it has been told
        return frames, events

    def _receive_rst_stream_frame(self, frame: Any) -> Any:
        if frame.stream_id > self.highest_inbound_stream_id:
            raise ProtocolError("RST_STREAM of an idle stream")  # RFC 9113 §6.4
        return super()._receive_rst_stream_frame(frame)


def _reset_by_us(number: int, code: int) -> StreamReset:
    """The event of a stream that the client must not go on with."""
    return StreamReset(stream_id=number, error_code=ErrorCodes(code), remote_reset=False)


# Those in which the client has not ended its side.
_STILL_SENT: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)


def new_protocol(guard: FrameGuard) -> H2Connection:
    """The server's side of a new connection, which has said nothing yet; ``guard`` has seen its frames."""
    h2 = _Protocol(
        H2Configuration(
            client_side=False,
            header_encoding=False,
            # A bad request is one stream's affair (app.wire.h2); for the library it ends them all.
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        ),
        guard,
    )
    h2.encoder = _Encoder()
    h2.decoder = _Decoder()
    return h2


def greet(h2: H2Connection, limits: HeadLimits) -> None:
    """Have it say the server's preface: SETTINGS, and the window of the whole connection."""
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
        initial_values={**settings, SettingCodes.MAX_CONCURRENT_STREAMS: HIGHEST_STREAM},
    )
    h2.decoder.max_header_list_size = 2 * head_size
    h2.increment_flow_control_window(CONNECTION_WINDOW - h2.inbound_flow_control_window)


def bound_table(h2: H2Connection) -> None:
    """The client's settings have come: keep the table for compressing answers small all the same."""
    encoder = h2.encoder
    if encoder.header_table_size > MAX_TABLE_BYTES:
        encoder.header_table_size = MAX_TABLE_BYTES
