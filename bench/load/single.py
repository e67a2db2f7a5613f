"""One request at a time, on plain sockets: does it answer, and connections that then stay idle."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator

from bench import procs


@contextlib.contextmanager
def idle_clients(port: int, count: int) -> Iterator[None]:
    """``count`` connections that have had one answer each and stay open without a word."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            status = exchange(client)
            if status != 200:
                raise procs.BenchError(f"an idle connection was answered {status}")
        yield


def status_of(port: int, tls: bool = False) -> int:
    """Status of one GET on a fresh connection; 0 when there is no answer."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 1) as plain,
    ):
        plain.settimeout(2)
        if not tls:
            return exchange(plain)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            return exchange(client)
    return 0


def exchange(client: socket.socket) -> int:
    """Status of one GET, whose answer is read to its end; 0 when it is cut off."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return 0
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        more = client.recv(65536)
        if not more:
            return 0
        body += more
    return int(head[9:12])
