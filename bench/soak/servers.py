"""Servers on free ports that answer by the path asked for, and whose health can be changed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib

MEGABYTE = bytes(1024) * 1024
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Server:
    """One server. ``is_well`` is what its health check says."""

    def __init__(self) -> None:
        self.is_well = True
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen: on a port of the kernel's choice, and after a stop on the same one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()

    def listens(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            while await self._answer(reader, writer):
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another one may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head[:-4].split(b"\r\n")
        target = first.split(b" ")[1]
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in rest)
        }
        await _read_body(reader, fields)
        if target == b"/health":
            writer.write(_whole(b"200 OK" if self.is_well else b"503 Ill", b""))
            return True
        if b"upgrade" in fields:
            await _tunnel(reader, writer, fields)
            return False
        return await _by_path(target, writer)


async def _by_path(target: bytes, writer: asyncio.StreamWriter) -> bool:
    if target == b"/large":
        writer.write(_whole(b"200 OK", MEGABYTE))
    elif target == b"/slow":
        await asyncio.sleep(0.3)
        writer.write(_whole(b"200 OK", b"slow"))
    elif target == b"/chunked":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            writer.write(b"400\r\n" + bytes(1024) + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    elif target == b"/fails":
        writer.write(_whole(b"500 Internal Server Error", b"failed"))
    elif target == b"/cut":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
        await writer.drain()
        return False
    elif target == b"/reset":
        writer.transport.abort()
        return False
    else:
        writer.write(_whole(b"200 OK", b"hello"))
    return True


def _whole(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def _read_body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> None:
    if b"content-length" in fields:
        left = int(fields[b"content-length"])
        while left > 0:
            data = await reader.read(min(left, 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
    elif b"transfer-encoding" in fields:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")


async def _tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: dict[bytes, bytes]
) -> None:
    """Switch to WebSocket and echo bytes, whatever they are."""
    key = hashlib.sha1(fields.get(b"sec-websocket-key", b"") + WEBSOCKET, usedforsecurity=False)
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(key.digest()) + b"\r\n\r\n"
    )
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
