"""An HTTP/2 client of frames: nothing is sent, acknowledged or repaired that a test did not ask for.

Headers go through hpack and frames through hyperframe; there is no state machine, so that a test can do
what no client may.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from .timing import PATIENT, NotReached

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_SIZE = 16384
FIRST_WINDOW = 65535
LARGEST_WINDOW = 2**31 - 1
HAS_ENDED = "END_STREAM"

Fields = list[tuple[str, str]]


@dataclass
class Reply:
    """What has come on one stream."""

    status: int = 0
    headers: Fields = field(default_factory=list)
    interim: list[tuple[int, Fields]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    frames: int = 0
    trailers: Fields | None = None
    has_ended: bool = False
    reset: int | None = None
    window: int = FIRST_WINDOW
    """How much more we may send."""

    @property
    def is_over(self) -> bool:
        """Whether it ended, well or not."""
        return self.has_ended or self.reset is not None

    def get(self, name: str) -> str | None:
        """The only value of a header; None without one."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


class Http2Client:
    """A connection. ``settings`` are the client's own; ``is_greedy`` gives all windows back at once."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        settings: dict[int, int] | None = None,
        is_greedy: bool = True,
    ) -> None:
        context.set_alpn_protocols(["h2", "http/1.1"])
        plain = socket.create_connection(address, PATIENT)
        try:
            self.socket = context.wrap_socket(
                plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise
        self.authority = f"127.0.0.1:{address[1]}"
        self._encoder, self._decoder = Encoder(), Decoder()
        self._buffer = b""
        self._block: tuple[HeadersFrame, bytes] | None = None
        self._next = 1
        self._is_greedy = is_greedy
        self.replies: dict[int, Reply] = {}
        self.window = FIRST_WINDOW
        self.settings: dict[int, int] = {}
        self.went_away: list[GoAwayFrame] = []
        self.pongs = 0
        self.is_closed = False
        self.send(PREFACE)
        self.send(SettingsFrame(0, settings=settings or {}))
        if is_greedy:
            self.send(WindowUpdateFrame(0, window_increment=LARGEST_WINDOW - FIRST_WINDOW))

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    # sending

    def send(self, data: bytes | Frame) -> None:
        """Send bytes or a frame as they are."""
        self.socket.sendall(data.serialize() if isinstance(data, Frame) else data)

    def block(self, *fields: tuple[str, str], **pseudo: str | None) -> bytes:
        """The header block of a request: GET / unless said otherwise."""
        start = {
            "method": "GET",
            "scheme": "https",
            "authority": self.authority,
            "path": "/",
            **pseudo,
        }
        named = [(f":{name}", value) for name, value in start.items() if value is not None]
        return bytes(self._encoder.encode([*named, *fields]))

    def request(
        self, path: str, *fields: tuple[str, str], body: bytes | None = b"", **pseudo: str | None
    ) -> int:
        """Send a request and its body, as far as windows allow; None: the body is sent later."""
        number, self._next = self._next, self._next + 2
        self.replies[number] = Reply(window=self.settings.get(4, FIRST_WINDOW))
        block = self.block(*fields, path=path, **pseudo)
        flags = ["END_HEADERS", *([HAS_ENDED] if body == b"" else [])]
        self.send(HeadersFrame(number, block, flags=flags))
        if body:
            self.send_body(number, body)
        return number

    def send_body(self, number: int, body: bytes, is_end: bool = True) -> None:
        """Send a body, waiting for windows as a client has to."""
        reply, at = self.replies[number], 0
        while at < len(body):
            room = min(self.window, reply.window, FRAME_SIZE)
            if room <= 0:
                self.pump(lambda: self.window > 0 and reply.window > 0)
                continue
            piece = body[at : at + room]
            at += len(piece)
            self.window -= len(piece)
            reply.window -= len(piece)
            is_last = is_end and at == len(body)
            self.send(DataFrame(number, piece, flags=[HAS_ENDED] if is_last else []))

    def end(self, number: int, trailers: Fields | None = None) -> None:
        """End a request's body."""
        if trailers is None:
            self.send(DataFrame(number, flags=[HAS_ENDED]))
        else:
            block = self._encoder.encode(trailers)
            self.send(HeadersFrame(number, block, flags=["END_HEADERS", HAS_ENDED]))

    # receiving

    def get(self, path: str, *fields: tuple[str, str], **more: str | None) -> Reply:
        """A request and its whole answer."""
        return self.answer(self.request(path, *fields, **more))

    def answer(self, number: int, timeout: float = PATIENT) -> Reply:
        """Wait for the end of a stream."""
        reply = self.replies[number]
        self.pump(lambda: reply.is_over, timeout)
        return reply

    def pump(self, is_reached: Callable[[], object], timeout: float = PATIENT) -> None:
        """Read until a condition holds. NotReached when time or connection end before."""
        until = time.monotonic() + timeout
        while not is_reached():
            left = until - time.monotonic()
            if self.is_closed or left <= 0 or not self.read(left):
                raise NotReached(f"closed={self.is_closed}, {self.went_away}, {self.replies}")

    def pump_for(self, duration: float) -> None:
        """Read whatever comes for that long."""
        until = time.monotonic() + duration
        while not self.is_closed and (left := until - time.monotonic()) > 0:
            self.read(left)

    def until_closed(self, timeout: float = PATIENT) -> int | None:
        """Read until the connection ends; the code of the last GOAWAY."""
        self.pump(lambda: self.is_closed, timeout)
        return self.went_away[-1].error_code if self.went_away else None

    def read(self, timeout: float) -> bool:
        """Take in what comes next; False after that long without anything."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        finally:
            self.socket.settimeout(PATIENT)
        if not data:
            self.is_closed = True
            return True
        self._buffer += data
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + length:
                break
            frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
            self._buffer = self._buffer[9 + length :]
            self._take(frame)
        return True

    def _take(self, frame: Frame) -> None:
        reply = self.replies.get(frame.stream_id, Reply())
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings = dict(frame.settings)
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id:
                reply.window += frame.window_increment
            else:
                self.window += frame.window_increment
        elif isinstance(frame, PingFrame):
            self.pongs += 1
        elif isinstance(frame, GoAwayFrame):
            self.went_away.append(frame)
        elif isinstance(frame, RstStreamFrame):
            reply.reset = frame.error_code
        elif isinstance(frame, DataFrame):
            reply.frames += 1
            reply.body += frame.data
            reply.has_ended = HAS_ENDED in frame.flags
            if self._is_greedy and frame.flow_controlled_length and not reply.has_ended:
                self.open_window(frame.stream_id, frame.flow_controlled_length)
        elif isinstance(frame, HeadersFrame | ContinuationFrame):
            self._take_head(reply, frame)

    def open_window(self, number: int, size: int) -> None:
        """Let the balancer send more on a stream; 0 is the connection."""
        self.send(WindowUpdateFrame(number, window_increment=size))

    def _take_head(self, reply: Reply, frame: HeadersFrame | ContinuationFrame) -> None:
        first, block = self._block or (frame, b"")
        block += frame.data
        self._block = (first, block)
        if "END_HEADERS" not in frame.flags:
            return
        self._block = None
        fields = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        status = int(dict(fields).get(":status", 0))
        if not status:
            reply.trailers = fields
        elif status < 200:
            reply.interim.append((status, fields[1:]))
        else:
            reply.status, reply.headers = status, fields[1:]
        reply.has_ended = HAS_ENDED in first.flags
