"""The steps of a request's way through the balancer, each a call that can be timed (by bench/micro.py).

Each step is a function that prepares real inputs (heads as wrk, a browser and a backend send them; a real
shared table, pool and policy) and returns the call. Sockets are memory, so the product's compiled form, which
takes none but its own, must not be imported.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace
from typing import Any

Call = Callable[[], object]

WRK = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BROWSER = (
    b"GET /assets/app.js?v=3 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://www.example.com/\r\nCookie: session=0123456789abcdef; theme=dark\r\n"
    b"Sec-Fetch-Dest: script\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-origin\r\n"
    b"Cache-Control: no-cache\r\nPragma: no-cache\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 18:50:16 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 15\r\nConnection: keep-alive\r\n\r\n"
    b"hello, world!!\n"
)


@dataclass(frozen=True)
class Step:
    """``part`` is the part of the way it belongs to; ``prepare`` makes its inputs and gives the call."""

    name: str
    part: str
    prepare: Callable[[], Call]


STEPS: list[Step] = []


def step(part: str, name: str, *arguments: Any) -> Callable[[Callable[..., Call]], Any]:
    """Register a step; ``{}`` in its name stands for the first argument."""

    def register(prepare: Callable[..., Call]) -> Callable[..., Call]:
        title = name.format(*(f"{argument:,}" for argument in arguments if type(argument) is int))
        STEPS.append(Step(title, part, functools.partial(prepare, *arguments)))
        return prepare

    return register


# -- the floor: what the kernel and the parser below us take ---------------------------------------


@step("floor", "send and receive over a socket pair, 155 bytes")
def _floor_socket() -> Call:
    near, far = socket.socketpair()

    def call() -> object:
        near.send(ANSWER)
        return far.recv(65536)

    return call


@step("floor", "parse_request, wrk's head", "parser", "parse_request", WRK)
@step("floor", "parse_request, a browser's head", "parser", "parse_request", BROWSER)
@step("floor", "parse_response", "parser", "parse_response", ANSWER)
@step("floor", "parse_request in Python, wrk's head", "python_parser", "parse_request", WRK)
@step("floor", "parse_request in Python, a browser's", "python_parser", "parse_request", BROWSER)
@step("floor", "parse_response in Python", "python_parser", "parse_response", ANSWER)
def _floor_parser(module: str, name: str, data: bytes) -> Call:
    parse = getattr(importlib.import_module(f"app.wire.{module}"), name)
    return lambda: parse(data)


# -- the client's side -----------------------------------------------------------------------------


@step("request", "read_head, wrk's (1 field)", WRK)
@step("request", "read_head, a browser's (14 fields)", BROWSER)
def _read_request(data: bytes) -> Call:
    from app.wire.request import read_head

    return lambda: read_head(data)


@step("request", "WSGI environ to RequestHead (stock worker only)")
def _environ() -> Call:
    from app.worker.client.wsgi import _head_from

    environ = {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/assets/app.js?v=3",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "www.example.com",
        "HTTP_USER_AGENT": "Mozilla/5.0",
        "HTTP_ACCEPT": "*/*",
    }
    return lambda: _head_from(environ)


# -- the pool --------------------------------------------------------------------------------------


def _configured(servers: int) -> Any:
    from app import config

    urls = [f"http://127.1.{number // 250}.{number % 250 + 1}:8001" for number in range(servers)]
    return config.parse(json.dumps({"servers": urls}))


def _pool(servers: int) -> Any:
    from app.worker.application import standalone_table
    from app.worker.balance.pool import Pool

    configured = _configured(servers)
    # The adapter's type is what the session looks at.
    from app.worker.upstream.adapter import Adapter
    from app.worker.upstream.connections import ConnectionCache

    adapter = Adapter()
    return Pool(
        standalone_table(configured),
        0,
        lambda server: (ConnectionCache(server.scheme, server.host, server.port, 0.0), adapter),
        lambda _: None,
    )


@step("pick", "Pool.pick and release, {} servers", 2)
@step("pick", "Pool.pick and release, {} servers", 100)
@step("pick", "Pool.pick and release, {} servers", 10000)
def _pick(servers: int) -> Call:
    pool = _pool(servers)

    def pick() -> None:
        pool.release(pool.pick())

    return pick


@step("pick", "the cursor's next ticket")
def _ticket() -> Call:
    ticket: Call = _pool(1).table.ticket
    return ticket


@step("pick", "in-flight cell, up and down")
def _in_flight() -> Call:
    pool = _pool(2)
    cells, index = pool.cells, pool.backends[0].in_flight

    def call() -> None:
        cells[index] += 1
        cells[index] -= 1

    return call


@step("pick", "snapshot built anew, {} servers", 2)
@step("pick", "snapshot built anew, {} servers", 10000)
def _refresh(servers: int) -> Call:
    refresh: Call = _pool(servers).refresh
    return refresh


# -- the backend's side ----------------------------------------------------------------------------


def _exchange(data: bytes) -> Any:
    from app.wire.forwarded import connection_lines
    from app.wire.request import read_head

    def nothing(*_: object) -> None:
        pass

    return SimpleNamespace(
        head=read_head(data),
        peer="127.0.0.1",
        scheme="http",
        is_trusted=False,
        forwarded=connection_lines("127.0.0.1", "http"),
        deadline=SimpleNamespace(at=float("inf")),
        body=b"",
        read_body=None,
        bytes_in=0,
        bytes_out=15,
        start=nothing,
        write=nothing,
        finish=nothing,
        interim=nothing,
        answer=nothing,
        abort=nothing,
        request_trailers=list,
    )


def _null_sink() -> Any:
    from app.telemetry.sink import Sink

    return Sink(os.open(os.devnull, os.O_WRONLY))


def _proxy(session: Any, log: bool = True) -> Any:
    from app.telemetry.access_log import AccessLog
    from app.worker.proxy.handler import Proxy

    access = AccessLog(_null_sink()) if log else None
    return Proxy(_configured(2), _pool(2), session, access)


@step("upstream request", "head and UpstreamRequest, wrk's", WRK)
@step("upstream request", "head and UpstreamRequest, a browser's", BROWSER)
def _upstream_request(data: bytes) -> Call:
    proxy, exchange = _proxy(SimpleNamespace(send=None)), _exchange(data)
    backend = proxy.pool.backends[0]
    return lambda: proxy.to_backend.request(
        exchange, backend, b"0123456789abcdef0123456789abcdef", 1e18
    )


class _Memory:
    """In the place of a socket: takes everything, and says the same thing each time it is read."""

    on_event: Any = None
    raw: Any = None
    has_events = True

    def __init__(self, says: bytes) -> None:
        self._says = says

    def write(self, data: bytes) -> None:
        pass

    def post(self, data: bytes) -> None:
        pass

    def read(self, size: int = 0) -> bytes:
        return self._says

    def watch(self) -> None:
        pass

    def is_silent(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _in_memory(session: Any = None) -> Any:
    """A proxy whose backends answer from memory: all of our path but the sockets."""
    from app.worker.upstream.connections import Connection
    from app.worker.upstream.session import Session

    proxy = _proxy(session or Session())
    stream: Any = _Memory(ANSWER)
    for backend in proxy.pool.backends:
        backend.connections.idle.append(Connection(stream, backend.connections))
    return proxy


@step("session", "Session.send, adapter and response, backend in memory")
def _session() -> Call:
    from app.worker.upstream.session import Session

    session = Session()
    proxy, exchange = _in_memory(session), _exchange(WRK)
    request = proxy.to_backend.request(exchange, proxy.pool.backends[0], b"0" * 32, 1e18)
    return lambda: session.send(request)


@step("session", "the same without the session")
def _adapter() -> Call:
    proxy, exchange = _in_memory(), _exchange(WRK)
    request = proxy.to_backend.request(exchange, proxy.pool.backends[0], b"0" * 32, 1e18)
    return lambda: request.adapter.send(request)


@step("response", "read_head")
def _read_response() -> Call:
    from app.wire.response import read_head

    return lambda: read_head(ANSWER, b"GET")


def _client(data: bytes) -> Any:
    """A client's connection whose request has been read, and whose socket is memory."""
    from app.config import parse
    from app.wire.request import STANDARD, read_head
    from app.worker.admission import Admission
    from app.worker.client.contract import ConnectionContext, DrainState
    from app.worker.client.http1 import Http1Connection
    from app.worker.parking import Parking

    config = parse("{}")
    context = ConnectionContext(
        _in_memory(),
        config.limits,
        STANDARD,
        client_timeout=config.timeouts.client,
        head_timeout=config.timeouts.client,
        idle_timeout=config.timeouts.keepalive,
        half_close=config.timeouts.half_close,
        drain=DrainState(),
        parking=Parking(config.timeouts.keepalive),
    )
    stream: Any = _Memory(data)
    place = Admission().enter()
    client = Http1Connection(context, place, stream, "127.0.0.1", "http", monotonic(), None)
    client.deadline = SimpleNamespace(at=float("inf"))  # type: ignore[assignment]
    client._buffer = data
    head = read_head(data)
    assert head is not None
    client._begin(head)
    return client


@step("response", "head and body to the client in one piece")
def _respond() -> Call:
    from app.wire.response import read_head

    client, head, body = _client(WRK), read_head(ANSWER, b"GET"), ANSWER[-15:]
    return lambda: client.start(head, body, True, [])


@step("log", "access line: record, encoding, its share of the write")
def _access_line() -> Call:
    from app.worker.proxy.attempt import Attempt

    proxy, exchange = _proxy(SimpleNamespace(send=None)), _exchange(BROWSER)
    attempt = Attempt(proxy.pool, proxy.pool.pick(), exchange)
    attempt.response = SimpleNamespace(first_byte_at=0.000213, head=SimpleNamespace(status=200))
    attempts = [attempt]
    return lambda: proxy.access.write(exchange, "0" * 32, 0.0, 200, None, attempts, attempt)


# -- all of it -------------------------------------------------------------------------------------


@step("whole", "Proxy.handle, from the head to the access line, both sides in memory")
def _whole() -> Call:
    proxy, exchange = _in_memory(), _exchange(WRK)
    return lambda: proxy.handle(exchange)


@step("whole", "the worker's turn for one keep-alive request, both sockets in memory", WRK)
@step("whole", "the same for a browser's request", BROWSER)
def _turn(data: bytes) -> Call:
    client = _client(data)

    def call() -> None:
        client._begin(client._read_head())
        client._serve()

    return call
