"""One non-blocking connection and the greenlet that waits on it.

gevent's own socket starts and stops a watcher for every wait and tries a read that fails first: two system
calls and an exception for each response. A Stream keeps one read watcher running for its whole life, so a
wait is one switch to the hub; and because the watcher runs while nobody waits, the end of an idle
connection is noticed when it happens (``on_event``). app.worker.net.tls_stream has the same face with TLS on
it. Runs in workers. Knows bytes, nothing of HTTP.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import monkey
from greenlet import getcurrent

from app.telemetry import log
from app.worker.net.hang_up import hang_ups, has_hung_up
from app.worker.net.progress import acknowledged

# The interpreter's own class: the patched one adds a Python call to every recv and send.
RawSocket: type[socket.socket] = monkey.get_original("socket", "socket")
RawPoll: Callable[[], Any] = monkey.get_original("select", "poll")
READ_SIZE: Final = 65536
# Of a body. A reused buffer of this size moves large ones at 0.43 CPU s/GB, 64 KiB at 0.6–0.8 (measured).
BODY_READ_SIZE: Final = 262144
# What surely fits a socket's send buffer: it can be posted.
POST_SIZE: Final = 16384
# At 32 the batch is as good as one without a bound; a message waits for 31 others' work, under 1 ms.
POSTED_MAX: Final = 32
_READ, _WRITE = 1, 2  # libev's event masks
# struct linger of SO_LINGER, on and with no time for it: closing sends RST.
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Outbox:
    """What is to be sent at the end of this turn of the loop, all of it together.

    Send after send, the kernel's path stays in the cache and the peer is woken once, not for each: a small
    GET takes 31 µs of CPU against 40 (32 connections). It leaves early when POSTED_MAX have gathered, so
    that a message waits for at most that many others.
    """

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        self._streams: list[Stream] = []

    def add(self, stream: Stream, loop: Any) -> None:
        """Have ``stream`` send what was posted on it."""
        streams = self._streams
        if not streams:
            loop.run_callback(self.flush)
        streams.append(stream)
        if len(streams) >= POSTED_MAX:
            self.flush()

    def flush(self) -> None:
        """Send everything now."""
        streams = self._streams
        self._streams = []
        for stream in streams:
            try:
                stream.send_posted()
            except Exception as error:  # noqa: BLE001 - the others' messages leave all the same
                log.uncaught("stream", "message not sent", error)


outbox: Final = Outbox()


class Stream:
    """A plaintext connection. Owns ``raw``: closing the stream closes it.

    ``posted``: what was posted and has not left yet.
    """

    __slots__ = (
        "_hub_switch",
        "_io",
        "_is_end_watched",
        "_is_watched",
        "_is_writing",
        "_loop",
        "_out",
        "_poll",
        "_ready",
        "_recv",
        "_send",
        "_waiter",
        "on_event",
        "posted",
        "raw",
    )
    has_events = True  # whether ``on_event`` is ever called

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        hub = gevent.get_hub()
        self.raw = raw
        self._hub_switch: Callable[[], Any] = hub.switch
        self._loop: Any = hub.loop
        self._recv = raw.recv
        self._send = raw.send
        self._io: Any = None
        self._is_watched = self._is_end_watched = False
        self._is_writing = False
        self._out: Any = None
        self._poll: Callable[[int], list[Any]] | None = None
        self.posted: bytes | memoryview = b""
        self._ready = True  # try first: data may have come with the connection
        self._waiter: Any = None
        self.on_event: Callable[[], None] | None = None

    def read(self, size: int = READ_SIZE) -> bytes:
        """Wait for bytes and give at most ``size`` of them; b"" at the end. Raises OSError."""
        while True:
            if not self._ready:
                self._wait_readable()
            self._ready = False
            try:
                return self._recv(size)
            except BlockingIOError:
                pass

    def read_now(self) -> bytes | None:
        """Bytes that are already here, b"" at the end, None if there are none. Raises OSError."""
        try:
            return self._recv(READ_SIZE)
        except BlockingIOError:
            return None

    def post(self, data: bytes) -> None:
        """Send ``data`` at the end of this turn of the loop; for a message after which one only reads.

        Never waits and never raises. A failure shows when that read ends. What the peer does not take at once
        is sent when it does: who posts again looks at ``posted`` before, or it grows without a bound.
        """
        if self.posted:  # it is on its way out already, by the outbox or by the watcher
            self.posted = b"".join((self.posted, data))
            return
        self.posted = data
        if not self._is_writing:  # else behind what another greenlet waits to write
            outbox.add(self, self._loop)

    def flush(self) -> None:
        """Wait until what was posted has left. Raises OSError."""
        if self.posted:
            self.write(b"")

    def send_posted(self) -> None:
        """Send what was posted, as far as the peer takes it now."""
        data = self.posted
        if not data:
            return  # written or given up meanwhile
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.posted = b""  # the reader finds out
            return
        if sent == len(data):
            self.posted = b""
            return
        self.posted = memoryview(data)[sent:]
        if self._out is None:
            self._out = self._loop.io(self.raw.fileno(), _WRITE)
        self._out.start(self._continue_posted)

    def _continue_posted(self) -> None:
        self._out.stop()
        self.send_posted()

    def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``, waiting while the peer does not take it. Raises OSError."""
        if self.posted:
            data = b"".join((self.posted, data))
            self.posted = b""
            if self._out is not None:
                self._out.stop()
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return
        self._is_writing = True
        try:
            self._write_rest(memoryview(data)[sent:])
        except BaseException:
            self.posted = b""  # it would follow on a part of something else
            raise
        finally:
            self._is_writing = False
        if self.posted:
            outbox.add(self, self._loop)

    def _write_rest(self, view: memoryview) -> None:
        sent = 0
        while sent < len(view):
            self._wait_writable()
            try:
                sent += self._send(view[sent : sent + 262144])
            except BlockingIOError:
                pass

    def wait_readable(self) -> None:
        """Wait until there is something to read, for whoever reads past this class."""
        if self._ready:
            self._ready = False  # look first: it may have been read already
            if self.peek() is not None:
                return
        self._wait_readable()
        self._ready = False

    def wait_writable(self) -> None:
        """Wait until the peer takes something, for whoever sends past this class."""
        self._wait_writable()

    def watch(self) -> None:
        """Have ``on_event`` called when the peer sends or closes while nobody reads."""
        if not self._is_watched:
            self._start_watching()

    def watch_end(self) -> None:
        """Have ``on_event`` called when the peer ends, whatever it has sent before and nobody has read."""
        if not self._is_end_watched:
            self._is_end_watched = True
            hang_ups.watch(self.raw.fileno(), self._on_end)

    def has_ended(self) -> bool:
        """Whether the peer has closed its side or broken the connection, whatever is unread before that."""
        has_ended = has_hung_up(self.raw.fileno())
        return self.peek() == b"" if has_ended is None else has_ended

    def peek(self) -> bytes | None:
        """A byte that is already here, b"" if the peer has closed, None if neither."""
        try:
            return self._recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def is_silent(self) -> bool:
        """Whether the peer has neither sent nor closed. 0.3 µs; ``peek`` fails with an exception: 0.8."""
        if self._poll is None:
            poll = RawPoll()
            poll.register(self.raw.fileno(), select.POLLIN)
            self._poll = poll.poll
        return not self._poll(0)

    def unacknowledged(self, total: int) -> bool:
        """Whether the peer's kernel provably never took a byte beyond the first ``total`` sent."""
        return 0 <= acknowledged(self.raw) <= total + 1  # the SYN counts as one byte

    def shutdown_write(self) -> None:
        """Tell the peer that nothing more comes."""
        self.send_posted()
        try:
            self.raw.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def shutdown(self) -> None:
        """Make every read and write on it end, also those that other greenlets wait for."""
        try:
            self.raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def reset(self) -> None:
        """Close so that the peer sees an error, never an orderly end (RFC 9112 §8: an incomplete message)."""
        self.posted = b""
        reset_at_close(self.raw)
        self.close()

    def close(self) -> None:
        """Close it without waiting; again is harmless. What was posted leaves as far as the peer takes it."""
        try:
            if self.posted and not self._is_writing:
                self.send_posted()
        finally:
            self.posted = b""
            self._stop_watching()
            self.raw.close()

    def detach(self) -> int:
        """Give up the connection without closing it; its file descriptor is the caller's."""
        self._stop_watching()
        return self.raw.detach()

    def _stop_watching(self) -> None:
        self.on_event = None
        if self._is_end_watched:
            self._is_end_watched = False
            hang_ups.forget(self.raw.fileno())
        for watcher in (self._io, self._out):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._io = self._out = None

    def _start_watching(self) -> None:
        if self._io is None:
            self._io = self._loop.io(self.raw.fileno(), _READ)
        self._io.start(self._on_readable)
        self._is_watched = True

    def _wait_readable(self) -> None:
        if not self._is_watched:
            self._start_watching()
        self._waiter = getcurrent()
        try:
            self._hub_switch()
        except BaseException:
            self._waiter = None
            raise

    def _on_readable(self) -> None:
        waiter = self._waiter
        self._ready = True
        if waiter is not None:
            self._waiter = None
            waiter.switch()
            return
        # Nobody reads now: stop, or the loop would spin on bytes that wait for later.
        self._io.stop()
        self._is_watched = False
        if self.on_event is not None:
            self.on_event()

    def _on_end(self) -> None:
        self._is_end_watched = False
        if (
            self._waiter is None and self.on_event is not None
        ):  # who reads comes to the end by itself
            self.on_event()

    def _wait_writable(self) -> None:
        if self._out is None:
            self._out = self._loop.io(self.raw.fileno(), _WRITE)
        current = getcurrent()
        self._out.start(current.switch)
        try:
            self._hub_switch()
        finally:
            if self._out is not None:
                self._out.stop()


def reset_at_close(raw: Any) -> None:
    """Have closing the socket send RST, which no peer takes for the orderly end of a message."""
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass  # the connection has broken already


def connect(family: int, address: Any) -> Stream:
    """Open a connection to a numeric address or a Unix socket's path, waiting as a greenlet does.

    Raises OSError. Names are resolved by the caller: gevent's own connect looks even numbers up.
    """
    raw = RawSocket(family, socket.SOCK_STREAM)
    stream = Stream(raw)
    try:
        if family != socket.AF_UNIX:
            # A head is one small segment that must not wait for an acknowledgement (Nagle).
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        status = raw.connect_ex(address)
        if status == errno.EINPROGRESS:
            stream._wait_writable()
            status = raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            raise OSError(status, os.strerror(status))
    except BaseException:
        stream.close()
        raise
    stream._ready = False  # the peer has nothing to say before it is asked
    return stream
