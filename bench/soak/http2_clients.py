"""Clients of HTTP/2: many streams on a connection, some of them reset, some connections torn off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl

import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from bench.soak.http1_clients import PATIENCE_S, TARGETS, Door
from bench.soak.ledger import Ledger

STREAMS = 20


class Http2Client:
    """Opens a connection, asks for some things on it, leaves; again and again."""

    def __init__(self, door: Door, ledger: Ledger, dice: random.Random) -> None:
        self._door = door
        self._ledger = ledger
        self._dice = dice

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await asyncio.wait_for(self._connection(), 2 * PATIENCE_S)
            except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError) as error:
                self._ledger.ended("h2 connection", type(error).__name__)
            except h2.exceptions.ProtocolError as error:
                self._ledger.ended("h2 connection", f"ended by the balancer: {error}")
            await asyncio.sleep(self._dice.random() * 0.02)

    async def _connection(self) -> None:
        reader, writer = await self._door.open()
        try:
            await _Connection(reader, writer, self._ledger, self._dice).converse()
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                if self._dice.random() < 0.2:
                    writer.transport.abort()
                else:
                    writer.close()


class _Connection:
    """One connection from preface to end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ledger: Ledger,
        dice: random.Random,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._ledger = ledger
        self._dice = dice
        self._state = h2.connection.H2Connection()
        self._open: dict[int, tuple[str, str]] = {}
        """Streams whose end is awaited, each with its request's id and kind."""

    async def converse(self) -> None:
        self._state.initiate_connection()
        left = self._dice.randint(1, 60)
        while True:
            while left and len(self._open) < STREAMS:
                self._request()
                left -= 1
            self._writer.write(self._state.data_to_send())
            await self._writer.drain()
            if not self._open and not left:
                return
            if self._dice.random() < 0.002:
                self._ledger.ended("h2 connection", "left in the middle")
                return
            data = await asyncio.wait_for(self._reader.read(65536), PATIENCE_S)
            if not data:
                for _, kind in self._open.values():
                    self._ledger.ended(kind, "connection ended")
                return
            events = self._state.receive_data(data)
            for event in events:
                self._take(event)
            if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                # This library reads nothing after a GOAWAY, though streams may go on.
                self._ledger.ended("h2 connection", "told to go")
                return

    def _request(self) -> None:
        stream = self._state.get_next_available_stream_id()
        doing = self._dice.choice(("get", "get", "get", "post", "reset"))
        target = self._dice.choice(TARGETS)
        kind = f"h2 {doing} {target}"
        request_id = self._ledger.new(kind)
        fields = [
            (":method", "POST" if doing == "post" else "GET"), (":path", target), (":scheme", "https"),
            (":authority", "soak"), ("x-request-id", request_id),
        ]  # fmt: skip
        self._state.send_headers(stream, fields, end_stream=doing != "post")
        if doing == "post":
            self._state.send_data(stream, bytes(self._dice.randint(0, 1000)), end_stream=True)
        if doing == "reset":
            if self._dice.random() < 0.5:
                self._writer.write(self._state.data_to_send())
            self._state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            self._ledger.ended(kind, "left")
        else:
            self._open[stream] = (request_id, kind)

    def _take(self, event: h2.events.Event) -> None:
        stream = getattr(event, "stream_id", None)
        if stream not in self._open:
            return
        request_id, kind = self._open[stream]
        if isinstance(event, h2.events.ResponseReceived):
            self._ledger.sent(request_id)
            self._ledger.ended(kind, _status(event))
        elif isinstance(event, h2.events.DataReceived):
            self._state.acknowledge_received_data(event.flow_controlled_length, stream)
            if self._dice.random() < 0.002:
                del self._open[stream]
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    self._state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        elif isinstance(event, h2.events.StreamEnded):
            del self._open[stream]
        elif isinstance(event, h2.events.StreamReset):
            del self._open[stream]
            if event.error_code != h2.errors.ErrorCodes.REFUSED_STREAM:
                self._ledger.sent(request_id)
            self._ledger.ended(kind, f"reset by the balancer ({event.error_code})")


def _status(response: h2.events.ResponseReceived) -> str:
    return next(value for name, value in response.headers or () if name == b":status").decode()
