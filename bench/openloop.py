"""Requests at a given rate, whatever the answers do, each timed from the moment it was DUE.

wrk and hey send the next request when the last is answered, so that a slow proxy is asked less
often and its worst moments are left out (coordinated omission). ``h2load --h1 --rps`` keeps a
rate, but was seen here to send in bursts of 64–165 requests with 10 ms of silence between (its
per-connection timers fire together), and it times from the send. This generator draws Poisson
arrivals from a fixed seed, the same for every candidate, and sends each on an idle connection
out of a fixed set; when none is idle the request waits, and the wait counts. It reports how
late it was itself, so that a run in which the generator was the bottleneck can be told.
Run as ``python -m bench.openloop PORT RATE SECONDS CONNECTIONS``; prints one JSON object.
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
import select
import socket
import sys
from collections import deque
from time import perf_counter

from bench.backends import BODY

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PR_SET_TIMERSLACK = 29
GRACE_SECONDS = 2.0
SEED = 20


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def arrivals(rate: float, seconds: float) -> list[float]:
    """Due times from 0 on: a Poisson process, the same one for the same rate."""
    source, due, times = random.Random(SEED), 0.0, []
    while due < seconds:
        due += source.expovariate(rate)
        times.append(due)
    return times


def drive(port: int, rate: float, seconds: float, connections: int) -> dict[str, float]:
    # The default slack of 50 µs would be added to every sleep.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000)
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        poller.register(client, select.EPOLLIN)
        sockets[client.fileno()] = client
    idle = list(sockets)
    due_of: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    waiting: deque[float] = deque()
    latencies: list[float] = []
    lateness: list[float] = []
    failed = 0
    times = arrivals(rate, seconds)
    count, sent = len(times), 0
    gc.disable()
    start = perf_counter() + 0.01
    end = start + seconds + GRACE_SECONDS
    due = start + times[0]
    while len(latencies) < count:
        now = perf_counter()
        if now > end:
            break
        while due <= now:
            if idle:
                fd = idle.pop()
                due_of[fd] = due
                sockets[fd].send(REQUEST)
                lateness.append(perf_counter() - due)
            else:
                waiting.append(due)
            sent += 1
            due = start + times[sent] if sent < count else float("inf")
        # select keeps microseconds where epoll rounds up to a millisecond.
        select.select([poller.fileno()], [], [], max(0.0, min(due, end) - perf_counter()))
        for fd, _ in poller.poll(0):
            data = sockets[fd].recv(65536)
            if parts.get(fd):
                data = parts.pop(fd) + data
            if not data.endswith(BODY):
                if not data or fd not in due_of:
                    raise SystemExit("the proxy closed a keep-alive connection")
                parts[fd] = data
                continue
            now = perf_counter()
            latencies.append(now - due_of.pop(fd))
            if not data.startswith(b"HTTP/1.1 200"):
                failed += 1
            if waiting:
                due_of[fd] = waiting.popleft()
                sockets[fd].send(REQUEST)
            else:
                idle.append(fd)
    latencies.sort()
    lateness.sort()
    return {
        "due": count,
        "answered": len(latencies),
        "failed": failed + count - len(latencies),
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "p999_ms": percentile(latencies, 0.999) * 1e3,
        "late_p99_ms": percentile(lateness, 0.99) * 1e3,
    }


if __name__ == "__main__":
    _port, _rate, _seconds, _connections = sys.argv[1:]
    print(json.dumps(drive(int(_port), float(_rate), float(_seconds), int(_connections))))
