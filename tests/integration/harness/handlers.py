"""Ready-made behaviours for a ``Backend``; the ones with parameters are made by a function."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from . import streams
from .backend import Exchange, Handler, answer_name
from .timing import PATIENT

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"

ok = answer_name


def echo(exchange: Exchange) -> None:
    """200 with the checksum of the request's body."""
    exchange.read_body()
    exchange.reply(body=exchange.request.checksum.encode())


def hang(exchange: Exchange) -> None:
    """Take the request and say nothing, until the balancer gives up."""
    exchange.wait_for_peer()


def reset(exchange: Exchange) -> None:
    """Read the request, then reset the connection."""
    exchange.reset()


def close(exchange: Exchange) -> None:
    """Read the request, then close the connection in order, unanswered."""
    exchange.close()


def answer(
    status: int, body: bytes = b"", *headers: tuple[str, str], phrase: str = "OK"
) -> Handler:
    """A fixed response."""

    def handler(exchange: Exchange) -> None:
        exchange.reply(status, body, headers, phrase)

    return handler


def raw(data: bytes, keep: bool = False) -> Handler:
    """These bytes, whatever they are; then an orderly close unless ``keep``."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(data)
        exchange.keep = keep

    return handler


def drip(data: bytes, interval: float) -> Handler:
    """One byte each ``interval`` seconds."""

    def handler(exchange: Exchange) -> None:
        for position in range(len(data)):
            exchange.send(data[position : position + 1])
            time.sleep(interval)

    return handler


def by_steps(*pieces: bytes) -> tuple[Handler, list[threading.Event]]:
    """Send each piece when its event is set; the last one ends the connection."""
    steps = [threading.Event() for _ in pieces]

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        for step, piece in zip(steps, pieces, strict=True):
            step.wait(PATIENT)
            exchange.send(piece)
        exchange.close()

    return handler, steps


def gated(gate: threading.Event, then: Handler = answer_name) -> Handler:
    """Hold every request until the gate opens."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        gate.wait(PATIENT)
        then(exchange)

    return handler


def closing_when_idle(after: float, by_reset: bool = False) -> Handler:
    """Answer, keep the connection, and end it after that long without a request."""

    def handler(exchange: Exchange) -> None:
        exchange.connection.idle_limit = after
        exchange.connection.idle_reset = by_reset
        answer_name(exchange)

    return handler


def answering_once(exchange: Exchange) -> None:
    """Answer the first request of a connection; close unanswered at the second."""
    if exchange.connection.requests > 1:
        exchange.close()
    else:
        answer_name(exchange)


def stream(size: int) -> Handler:
    """``size`` deterministic bytes with a Content-Length."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        for block in streams.blocks(size):
            exchange.send(block)

    return handler


def stream_chunked(size: int) -> Handler:
    """``size`` deterministic bytes in chunks."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for block in streams.blocks(size):
            exchange.send(b"%x\r\n%b\r\n" % (len(block), block))
        exchange.send(b"0\r\n\r\n")

    return handler


def stream_until_close(size: int) -> Handler:
    """``size`` deterministic bytes ended by the end of the connection."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(HEAD + b"Connection: close\r\n\r\n")
        for block in streams.blocks(size):
            exchange.send(block)
        exchange.close()

    return handler


def chunked(pieces: Iterable[bytes]) -> Handler:
    """The pieces as chunks."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data + b"0\r\n\r\n", True)


def refuse_early(exchange: Exchange) -> None:
    """413 as soon as the head is there; what still comes is read and thrown away."""
    exchange.send(
        b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large"
    )
    exchange.wait_for_peer()
