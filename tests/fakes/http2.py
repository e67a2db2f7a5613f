"""A client of HTTP/2 without a socket: frames in, frames out, and the connection of ours that it talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame, WindowUpdateFrame

from app.worker.client.http2.connection import Http2Connection
from app.worker.client.http2.stream import FIRST_WINDOW, Http2Stream

from .front import Front
from .stream import END, ScriptedStream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WIDE = 2**31 - 1


class Http2Client:
    """One client whose windows are as wide as they get; ``handle`` is played for each of its requests.

    ``line`` is its end of the connection: it takes nothing while ``line.takes`` is clear.
    """

    def __init__(
        self,
        handle: Callable[[Http2Stream], None],
        *,
        opened_at: float | None = None,
        **limits: Any,
    ) -> None:
        self.line = ScriptedStream(live=True)
        self.front = Front(handle, **limits)
        self.proxy = self.front.proxy
        line: Any = self.line
        self.connection = Http2Connection(
            self.front.context,
            self.front.admission.enter(),
            line,
            "192.0.2.1",
            "https",
            monotonic() if opened_at is None else opened_at,
            None,
        )
        self.encoder = Encoder()
        self.greenlet = gevent.spawn(self.connection.run)
        self.say(PREFACE, SettingsFrame(0, settings={4: WIDE}))
        self.say(WindowUpdateFrame(0, window_increment=WIDE - FIRST_WINDOW))

    def say(self, *frames: Frame | bytes) -> None:
        """Send this, in one piece, and let everything happen that can."""
        self.line.say(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))
        settle()

    def ask(
        self, number: int, path: str = "/", has_body: bool = False, length: int | None = None
    ) -> HeadersFrame:
        """A request's frame."""
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", path)]
        if length is not None:
            fields.append(("content-length", str(length)))
        block = self.encoder.encode(fields)
        flags = ["END_HEADERS"] if has_body else ["END_HEADERS", "END_STREAM"]
        return HeadersFrame(number, block, flags=flags)

    def frames(self) -> Iterator[Frame]:
        """All that was sent to it; a piece of a frame fails here."""
        data = memoryview(self.line.output)
        while data:
            frame, length = Frame.parse_frame_header(data[:9])
            assert len(data) >= 9 + length
            frame.parse_body(data[9 : 9 + length])
            data = data[9 + length :]
            yield frame

    def of(self, number: int) -> list[Frame]:
        """What was sent on a stream."""
        return [frame for frame in self.frames() if frame.stream_id == number]

    def leave(self) -> None:
        """End the connection, which gives everything back."""
        self.line.takes.set()
        self.line.say(END)
        self.greenlet.join(2)
        assert self.greenlet.successful(), "the connection ends"
        assert self.line.is_closed
        assert not self.front.admission.count


def settle() -> None:
    """Let everything happen that can, turn by turn of the loop."""
    for _ in range(30):
        gevent.sleep(1e-9)
