"""What leaves an HTTP/2 connection: frames in order, streams in turn, windows respected.

Owns the protocol library's sending side, the bytes it has made, and the one greenlet that writes them: a
stream's greenlet may be interrupted at any wait, and must not leave half a frame behind. A stream waits
while the client has no window for it, and while others' bytes are still to be sent; of those that wait
the one that was served longest ago goes first. Runs in workers. Knows nothing of what an answer says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Protocol

import gevent
from greenlet import getcurrent
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from hpack import NeverIndexedHeaderTuple
from hyperframe.frame import GoAwayFrame

from app.errors import ClientGone, ProxyError
from app.wire.h2 import Fields
from app.worker.client.silence import Silence
from app.worker.net.deadlines import Deadline, Expired, deadlines
from app.worker.net.progress import pending, taken
from app.worker.net.tls_stream import AnyStream

# What is made but not sent yet. Beyond it streams wait for their turn, and at four times that reading.
OUT_BYTES = 65536
MAX_FRAME_BYTES = 65536


class Signal:
    """Wakes the one greenlet that waits for it. Given before it is waited for, it is not lost."""

    __slots__ = ("_is_given", "_loop", "_switch", "_waiter")

    def __init__(self) -> None:
        hub = gevent.get_hub()
        self._loop = hub.loop
        self._switch = hub.switch
        self._is_given = False
        self._waiter: Any = None

    def wait(self) -> None:
        """Wait until it is given. May also return early: ask again for what was waited for."""
        if not self._is_given:
            self._waiter = getcurrent()
            try:
                self._switch()
            finally:
                self._waiter = None
        self._is_given = False

    def give(self) -> None:
        """Let the waiter go on, after this turn of the loop."""
        if not self._is_given:
            self._is_given = True
            if self._waiter is not None:
                self._loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self._waiter is not None:  # it may have been thrown out of its wait meanwhile
            self._waiter.switch()


class SendingStream(Protocol):
    """What the sender reads of the stream that sends.

    ``gone``: why nothing more can be sent on it; ``has_ended``: its last byte was taken over; ``turn``
    orders those that wait.
    """

    id: int
    deadline: Deadline
    gone: ProxyError | None
    has_ended: bool
    room: Signal
    turn: int


class Sender:
    """The sending side of one connection.

    ``moved`` is told of every piece of a body, and whether it is as large as it would be without windows;
    ``lost`` once when nothing can be sent any more.
    ``is_over``: nothing more is taken.
    """

    def __init__(
        self,
        h2: H2Connection,
        stream: AnyStream,
        timeout: float,
        moved: Callable[[int, bool], None],
        lost: Callable[[], None],
    ) -> None:
        self._h2 = h2
        self._stream = stream
        self._timeout = timeout
        self._moved = moved
        self._lost = lost
        self._turns = count(1)
        self._made: list[bytes] = []
        self._size = self._writing = 0
        self._starved: set[SendingStream] = set()  # wait until something was sent
        self._stalled: set[SendingStream] = set()  # wait until the client opens a window
        self._to_write, self._written = Signal(), Signal()
        self._has_stopped = False
        self.is_over = False
        self.is_lost = False

    def __repr__(self) -> str:
        waiting = len(self._starved), len(self._stalled)
        return f"<Sender {self._size} bytes, waiting {waiting}, over={self.is_over}>"

    # -- streams -----------------------------------------------------------------------------------

    def send_head(self, stream: SendingStream, fields: Fields, is_end: bool) -> None:
        """Send a field section, waiting for room. Raises ClientGone."""
        while self._size >= OUT_BYTES:
            self._wait(stream, self._starved)
        self.send_head_now(stream, fields, is_end)

    def send_head_now(self, stream: SendingStream, fields: Fields, is_end: bool) -> None:
        """The same without waiting."""
        if stream.gone is not None:
            raise stream.gone
        self._h2.send_headers(stream.id, _unindexed(fields), end_stream=is_end)
        stream.has_ended = is_end
        self.collect()

    def send_body(self, stream: SendingStream, data: bytes, is_end: bool) -> None:
        """Send a piece of the body, waiting for room and windows. Raises ClientGone."""
        h2 = self._h2
        sent, size = 0, len(data)
        while True:
            if stream.gone is not None:
                raise stream.gone
            room = min(
                h2.local_flow_control_window(stream.id),
                h2.max_outbound_frame_size,
                MAX_FRAME_BYTES,
            )
            if self._size >= OUT_BYTES:
                self._wait(stream, self._starved)
            elif room <= 0 and size:
                self._wait(stream, self._stalled)
            else:
                piece = data if size <= room and not sent else data[sent : sent + room]
                sent += len(piece)
                is_last = sent == size
                h2.send_data(stream.id, piece, end_stream=is_end and is_last)
                stream.turn = next(self._turns)
                self._moved(len(piece), is_last)
                self.collect()
                if is_last:
                    stream.has_ended = is_end
                    return

    def open_window(self, stream: SendingStream, size: int) -> None:
        """Let the client send that much more of the body."""
        if stream.gone is None and not self.is_over:
            self._h2.increment_flow_control_window(size, stream.id)
            self.collect()

    def reset(self, stream: SendingStream, code: ErrorCodes) -> None:
        """End a stream at once, if it has not ended both ways."""
        if stream.gone is not None or self.is_over:
            return
        stream.gone = ClientGone("stream was reset")
        try:
            self._h2.reset_stream(stream.id, code)
        except H2Error:
            return
        self.collect()

    def opened(self) -> None:
        """The client has opened the window that all streams share, or those of all streams."""
        _wake(self._stalled)

    def _wait(self, stream: SendingStream, waiting: set[SendingStream]) -> None:
        """Wait until there is room for a stream, or a window. Raises ClientGone."""
        if stream.gone is not None:
            raise stream.gone
        # What of it may still be on its way: behind that only the client's window updates for it count.
        mark = taken(self._stream.raw) + pending(self._stream.raw) + self._writing + self._size
        silence = Silence(partial(self._taken_of, stream, mark), self._timeout)
        was = silence.begin(stream.deadline)
        waiting.add(stream)
        try:
            while self._must_wait(stream, waiting):
                stream.room.wait()
                if stream.gone is not None:
                    raise stream.gone
        except Expired:
            raise ClientGone("client does not take its response", reason="client_timeout") from None
        finally:
            waiting.discard(stream)
            silence.end(stream.deadline, was)

    def _must_wait(self, stream: SendingStream, waiting: set[SendingStream]) -> bool:
        """Whether what is waited for has not come: many are woken for what is enough for one."""
        if waiting is self._starved:
            return self._size >= OUT_BYTES
        return self._h2.local_flow_control_window(stream.id) <= 0

    def _taken_of(self, stream: SendingStream, mark: int) -> int:
        """What the client has taken, as far as it matters to a stream that waits."""
        now = taken(self._stream.raw)
        return now if stream in self._starved else min(now, mark)

    # -- the connection ----------------------------------------------------------------------------

    def collect(self) -> None:
        """Take over what the library has made."""
        data = self._h2.data_to_send()
        if data:
            self._emit(data)

    def go_away(self, last: int, code: int) -> None:
        """Say that streams above ``last`` are not served, and why."""
        # Made here: the library would hold the connection to be closed by it.
        self._emit(GoAwayFrame(0, last_stream_id=last, error_code=code).serialize())

    def wait_for_room(self) -> bool:
        """Wait where the client makes us say more than it reads; whether that was so."""
        if self._size <= 4 * OUT_BYTES:
            return False
        self._written.wait()
        return True

    def run(self) -> None:
        """The greenlet that writes, interrupted by nothing but its own deadline."""
        deadline = deadlines.enter()
        silence = Silence(partial(taken, self._stream.raw), self._timeout)
        try:
            while self._made or not self.is_over:
                if not self._made:
                    self._to_write.wait()
                    continue
                data = b"".join(self._made)
                self._made.clear()
                self._size = 0
                self._writing = len(data)
                _wake(self._starved)
                silence.begin(deadline)
                self._stream.write(data)
                silence.end(deadline, None)
                self._writing = 0
                self._written.give()
            self._has_stopped = True
        except (Expired, OSError):
            pass
        finally:
            deadlines.leave(deadline)
            if not self._has_stopped:
                self._has_stopped = self.is_lost = True
                self._made.clear()
                self._size = 0
                self._lost()
            self._written.give()

    def finish(self) -> None:
        """Take nothing more, and wait until what was made is sent or lost."""
        self.is_over = True
        self._to_write.give()
        while not self._has_stopped:
            self._written.wait()

    def _emit(self, data: bytes) -> None:
        if not self.is_lost:
            self._made.append(data)
            self._size += len(data)
            self._to_write.give()


def _wake(waiting: set[SendingStream]) -> None:
    """Let them go on, first who was served longest ago: the others find no room and wait again."""
    for stream in sorted(waiting, key=_turn_of):
        stream.room.give()


def _turn_of(stream: SendingStream) -> int:
    return stream.turn


def _unindexed(fields: Fields) -> Fields:
    """One user's secrets stay out of the table that all of a connection's answers share (RFC 7541 §7.1)."""
    return [
        NeverIndexedHeaderTuple(*field) if field[0] == b"set-cookie" else field for field in fields
    ]
