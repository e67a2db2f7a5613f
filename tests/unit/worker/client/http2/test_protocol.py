"""app.worker.client.http2.protocol: what the library says for us, and what of it is changed."""

from __future__ import annotations

from time import process_time
from typing import Any

from h2.settings import SettingCodes
from hpack import Decoder
from hyperframe.frame import Frame

from app.wire.request import STANDARD
from app.worker.client.http2.protocol import (
    CONNECTION_WINDOW,
    MAX_STREAMS,
    MAX_TABLE_BYTES,
    bound_table,
    greet,
    new_protocol,
)


def frames(data: bytes) -> list[Any]:
    found = []
    view = memoryview(data)
    while view:
        frame, length = Frame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


def test_a_client_is_told_our_limits_first() -> None:
    """How many streams, how large a head, and how much it may send ahead on all of them."""
    h2 = new_protocol()
    greet(h2, STANDARD)
    settings, window = frames(h2.data_to_send())
    assert settings.settings[SettingCodes.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert (
        settings.settings[SettingCodes.MAX_HEADER_LIST_SIZE] == STANDARD.all_fields + STANDARD.line
    )
    assert (window.stream_id, 65535 + window.window_increment) == (0, CONNECTION_WINDOW)


def test_fields_are_written_without_huffman_s_code() -> None:
    """Which the library writes in quadratic time; any client reads them."""
    fields = [(b"x-fill", b"y" * 30_000)]
    started = process_time()
    block = new_protocol().encoder.encode(fields)
    assert process_time() - started < 0.1
    assert Decoder().decode(block, raw=True) == fields


def test_a_client_does_not_choose_how_large_our_table_is() -> None:
    """It is searched from end to end for each field; a smaller one is the client's to ask for."""
    for asked, size in ((1 << 20, MAX_TABLE_BYTES), (100, 100)):
        h2 = new_protocol()
        h2.encoder.header_table_size = asked
        bound_table(h2)
        assert h2.encoder.header_table_size == size
