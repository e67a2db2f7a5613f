"""WebSocket by an independent client and server: every conversation goes the same through and without us.

Each conversation of ``websockets`` with its own server is held twice, directly and through the balancer,
and both must give the same record: messages, frames' fragments, pongs, close codes and reasons.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from harness import GUNICORN, PATIENT, STOCK_WORKER, Balancer, wait_until
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

TUNNELS = 200
MANY = "/many"


async def answer(connection: ServerConnection) -> None:
    """Echo; a message "close CODE REASON" closes, "pieces N" answers in N fragments, "ping" pings."""
    async for message in connection:
        match message.split(" ", 2) if isinstance(message, str) else ["echo"]:
            case ["close", code, reason]:
                await connection.close(int(code), reason)
            case ["pieces", count]:
                await connection.send(f"piece {number}" for number in range(int(count)))
            case ["ping"]:
                await (await connection.ping())
                await connection.send("ponged")
            case _:
                await connection.send(message)


@pytest.fixture(name="origin", scope="module")
def _origin() -> Iterator[int]:
    """The port of a WebSocket server in a thread of its own."""
    loop = asyncio.new_event_loop()
    started: list[Server] = []

    async def start() -> None:
        started.append(await serve(answer, "127.0.0.1", 0, max_size=None, ping_interval=None))

    async def stop() -> None:
        started[0].close()
        await started[0].wait_closed()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENT)
    yield next(iter(started[0].sockets)).getsockname()[1]
    asyncio.run_coroutine_threadsafe(stop(), loop).result(PATIENT)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENT)
    loop.close()


@pytest.fixture(
    name="relay", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module"
)
def _relay(request: pytest.FixtureRequest, origin: int) -> Iterator[Balancer]:
    url = f"http://127.0.0.1:{origin}"
    with Balancer([url], command=request.param, workers=2) as balancer:
        yield balancer


def opened(port: int, target: str = "/chat?room=1", **options: Any) -> connect:
    """A client's connection that neither pings by itself nor bounds a message."""
    return connect(
        f"ws://127.0.0.1:{port}{target}", max_size=None, ping_interval=None, proxy=None, **options
    )


async def sizes(port: int, **options: Any) -> list[Any]:
    """Text and binary messages at the edges of every length encoding, and a MiB."""
    random_bytes = random.Random(3).randbytes
    record: list[Any] = []
    async with opened(port, **options) as connection:
        for size in (0, 1, 125, 126, 127, 128, 4095, 65535, 65536, 65537, 1 << 20):
            for message in (random_bytes(size), "é" * (size // 2)):
                await connection.send(message)
                data = await connection.recv()
                assert data == message
                raw = data.encode() if isinstance(data, str) else data
                record.append((type(data).__name__, hashlib.sha256(raw).hexdigest()))
    return [*record, connection.close_code, connection.close_reason]


async def plain_sizes(port: int) -> list[Any]:
    """The same without compression."""
    return await sizes(port, compression=None)


async def fragments(port: int) -> list[Any]:
    """Messages in fragments, both ways, a ping between them."""
    async with opened(port) as connection:
        await connection.send(f"part {number} " * number for number in range(60))
        record: list[Any] = [await connection.recv()]
        await connection.send("pieces 25")
        record.append([piece async for piece in connection.recv_streaming()])
    return record


async def pings(port: int) -> list[Any]:
    """Pings of the client and of the server are answered by the other end, with their payload."""
    async with opened(port) as connection:
        for payload in (b"", b"x", b"y" * 125):
            await asyncio.wait_for(await connection.ping(payload), PATIENT)
        await connection.send("ping")
        return [await connection.recv()]


async def closes(port: int) -> list[Any]:
    """Close codes and reasons, from either side."""
    record: list[Any] = []
    for code in (1000, 1001, 1008, 1011, 3000, 4999):
        async with opened(port) as connection:
            await connection.send(f"close {code} because")
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            record.append((connection.close_code, connection.close_reason))
        async with opened(port) as connection:
            await connection.close(code, "enough")
            record.append((connection.close_code, connection.close_reason))
    return record


async def refused(port: int) -> list[Any]:
    """A handshake that the server refuses is its own answer."""
    with pytest.raises(InvalidStatus) as caught:
        async with opened(port, additional_headers={"Sec-WebSocket-Version": "12"}):
            pass
    return [caught.value.response.status_code]


@pytest.mark.parametrize("talk", [sizes, plain_sizes, fragments, pings, closes, refused])
def test_a_conversation_goes_as_without_us(
    origin: int, relay: Balancer, talk: Callable[[int], Awaitable[list[Any]]]
) -> None:
    """What a client sees through the balancer is what it sees directly."""

    async def both() -> tuple[list[Any], list[Any]]:
        return await talk(origin), await talk(relay.port)

    direct, through = asyncio.run(both())
    assert through == direct


def test_many_tunnels_at_once(relay: Balancer) -> None:
    """Hundreds of tunnels talk side by side, none sees another's bytes, and each is logged at its end."""
    lines = partial(relay.access_lines, target=MANY, status=101)
    before = len(lines())

    async def one(number: int) -> ClientConnection:
        connection = await opened(relay.port, MANY, open_timeout=PATIENT)
        message = random.Random(number).randbytes(1000 + number)
        await connection.send(message)
        assert await connection.recv() == message
        return connection

    async def all_of_them() -> None:
        connections = await asyncio.gather(*map(one, range(TUNNELS)))
        assert len(lines()) == before, "all of them live at the same time"
        for number, connection in enumerate(connections):
            await connection.send(str(number))
        for number, connection in enumerate(connections):
            assert await connection.recv() == str(number)
        await asyncio.gather(*(connection.close() for connection in connections))

    asyncio.run(all_of_them())
    wait_until(lambda: len(lines()) == before + TUNNELS, PATIENT, "a line for each tunnel")
