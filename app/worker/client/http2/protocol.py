"""The HTTP/2 protocol library (``h2``) as a server of ours uses it.

Owns what we tell a client at first (SETTINGS, the connection's window), what of the library is changed and
why, and the numbers of both. Runs in workers. Makes bytes, knows no socket and none of our streams.
"""

from __future__ import annotations

from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hpack import Encoder

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


def new_protocol() -> H2Connection:
    """The server's side of a new connection, which has said nothing yet."""
    h2 = _Protocol(
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
    h2.encoder = _Encoder()
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
