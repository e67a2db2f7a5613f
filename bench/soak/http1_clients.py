"""Clients of HTTP/1.1, plain or over TLS: those that finish, and those that hang up in every place."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.soak.ledger import Ledger

PATIENCE_S = 30.0
TARGETS = ("/", "/", "/", "/chunked", "/slow", "/large", "/fails", "/cut", "/reset")
RUBBISH = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


@dataclass(frozen=True)
class Door:
    """Where a client knocks: the balancer's port, and its TLS if it has some."""

    port: int
    context: ssl.SSLContext | None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, limit=2**21),
            PATIENCE_S,
        )


class Http1Client:
    """Does one thing after another until told to stop."""

    def __init__(self, door: Door, ledger: Ledger, dice: random.Random) -> None:
        self._door = door
        self._ledger = ledger
        self._dice = dice
        self._doings: tuple[Callable[[], Awaitable[None]], ...] = (
            self._keep_alive, self._keep_alive, self._keep_alive, self._upload, self._chunked_upload,
            self._cut_upload, self._cut_download, self._gone, self._reset, self._tunnel, self._rubbish,
        )  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            doing = self._dice.choice(self._doings)
            try:
                await asyncio.wait_for(doing(), 2 * PATIENCE_S)
            except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError) as error:
                self._ledger.ended(doing.__name__[1:], type(error).__name__)
            await asyncio.sleep(self._dice.random() * 0.02)

    def _head(self, kind: str, target: str, method: str = "GET", *fields: str) -> tuple[str, bytes]:
        request_id = self._ledger.new(kind)
        lines = (
            f"{method} {target} HTTP/1.1",
            "Host: soak",
            f"X-Request-Id: {request_id}",
            *fields,
        )
        return request_id, "\r\n".join((*lines, "", "")).encode()

    async def _keep_alive(self) -> None:
        reader, writer = await self._door.open()
        try:
            for _ in range(self._dice.randint(1, 20)):
                target = self._dice.choice(TARGETS)
                request_id, head = self._head(f"get {target}", target)
                writer.write(head)
                if not await self._answered(request_id, f"get {target}", reader):
                    return
                await asyncio.sleep(self._dice.random() * 0.01)
        finally:
            _close(writer)

    async def _answered(self, request_id: str, kind: str, reader: asyncio.StreamReader) -> bool:
        """Read one answer; whether another request may follow."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        self._ledger.sent(request_id)
        status = head.split(b" ", 2)[1].decode()
        try:
            await _skip_body(reader, head.lower())
        except asyncio.IncompleteReadError:
            self._ledger.ended(kind, f"{status} cut")
            return False
        self._ledger.ended(kind, status)
        return b"\r\nconnection: close" not in head.lower()

    async def _upload(self) -> None:
        size = self._dice.choice((0, 1, 1000, 300_000))
        request_id, head = self._head("upload", "/", "POST", f"Content-Length: {size}")
        await self._ask(request_id, "upload", head + bytes(size))

    async def _chunked_upload(self) -> None:
        request_id, head = self._head("chunked upload", "/", "POST", "Transfer-Encoding: chunked")
        body = b"".join(b"100\r\n" + bytes(256) + b"\r\n" for _ in range(self._dice.randint(1, 50)))
        await self._ask(request_id, "chunked upload", head + body + b"0\r\n\r\n")

    async def _ask(self, request_id: str, kind: str, message: bytes) -> None:
        reader, writer = await self._door.open()
        try:
            writer.write(message)
            await self._answered(request_id, kind, reader)
        finally:
            _close(writer)

    async def _cut_upload(self) -> None:
        """Ends in an orderly way in the middle of a body."""
        request_id, head = self._head("cut upload", "/", "POST", "Content-Length: 100000")
        _, writer = await self._door.open()
        writer.write(head + bytes(self._dice.randint(0, 50_000)))
        await self._leave(request_id, writer)

    async def _gone(self) -> None:
        """Ends in an orderly way before there is an answer, or right after one more request."""
        request_id, head = self._head("gone", self._dice.choice(("/", "/slow", "/large")))
        _, writer = await self._door.open()
        writer.write(head)
        await self._leave(request_id, writer)

    async def _leave(self, request_id: str, writer: asyncio.StreamWriter) -> None:
        kind = self._ledger.possible[request_id]
        await writer.drain()
        _close(writer)
        await writer.wait_closed()
        self._ledger.sent(request_id)
        self._ledger.ended(kind, "left")

    async def _cut_download(self) -> None:
        request_id, head = self._head("cut download", "/large")
        reader, writer = await self._door.open()
        writer.write(head)
        try:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            self._ledger.sent(request_id)
            await reader.read(self._dice.randint(1, 60_000))
            self._ledger.ended("cut download", "left")
        finally:
            _tear(writer)

    async def _reset(self) -> None:
        """Is torn off at any moment."""
        _, head = self._head("reset", self._dice.choice(TARGETS))
        _, writer = await self._door.open()
        writer.write(head[: self._dice.randint(1, len(head))])
        await asyncio.sleep(self._dice.random() * 0.3)
        _tear(writer)
        self._ledger.ended("reset", "left")

    async def _tunnel(self) -> None:
        request_id, head = self._head(
            "tunnel", "/ws", "GET", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        )  # fmt: skip
        reader, writer = await self._door.open()
        try:
            writer.write(head)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            self._ledger.sent(request_id)
            if b" 101 " in answer[:16]:
                for _ in range(self._dice.randint(1, 20)):
                    writer.write(b"echo")
                    await asyncio.wait_for(reader.readexactly(4), PATIENCE_S)
            self._ledger.ended("tunnel", answer.split(b" ", 2)[1].decode())
        finally:
            _close(writer)

    async def _rubbish(self) -> None:
        reader, writer = await self._door.open()
        try:
            writer.write(self._dice.choice(RUBBISH))
            await asyncio.wait_for(reader.read(65536), PATIENCE_S)
            self._ledger.ended("rubbish", "answered")
        finally:
            _close(writer)


async def _skip_body(reader: asyncio.StreamReader, head: bytes) -> None:
    if b"\r\ntransfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif b"\r\ncontent-length: " in head:
        await reader.readexactly(
            int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        )


def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _tear(writer: asyncio.StreamWriter) -> None:
    """A reset instead of an orderly end."""
    opened = writer.get_extra_info("socket")  # None where it has ended meanwhile
    with contextlib.suppress(OSError):
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
