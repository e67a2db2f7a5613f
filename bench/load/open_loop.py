"""Open loop: requests at a given rate, whatever the answers do, each timed from the moment it was DUE.

wrk and hey send the next request when the last is answered, so that a slow proxy is asked less
often and its worst moments are left out (coordinated omission). ``h2load --h1 --rps`` keeps a
rate, but was seen here to send in bursts of 64–165 requests with 10 ms of silence between (its
per-connection timers fire together), and it times from the send. This generator draws Poisson
arrivals from a fixed seed, the same for every candidate, and sends each on an idle connection
out of a fixed set; when none is idle the request waits, and the wait counts. It reports how
late it was itself, so that a run in which the generator was the bottleneck can be told.
``constant_rate`` runs it in a process of its own,
``python -m bench.load.open_loop PORT RATE SECONDS CONNECTIONS``, which prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from bench import procs
from bench.backends.fast import BODY
from bench.load import schedule

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
GRACE_SECONDS = 2.0


def constant_rate(
    port: int, rate: float, *, seconds: float, connections: int, cores: Sequence[int], root: Path
) -> dict[str, float]:
    """What ``drive`` found, in a process pinned to ``cores``."""
    words = [str(port), f"{rate:.1f}", f"{seconds:.1f}", str(connections)]
    output = procs.run(
        [sys.executable, "-m", "bench.load.open_loop", *words],
        cores=cores,
        seconds=seconds + procs.EXTRA_SECONDS,
        cwd=root,
    )
    found: dict[str, float] = json.loads(output)
    return found


def drive(port: int, rate: float, seconds: float, connections: int) -> dict[str, float]:
    """Counts of requests (due, answered, failed), their latencies, and how late they were sent."""
    schedule.sleep_precisely()
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
    times = schedule.arrivals(schedule.source(), rate, seconds)
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
        for fd, _ in schedule.wait(poller, min(due, end) - perf_counter()):
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
        "p50_ms": schedule.percentile(latencies, 0.5) * 1e3,
        "p99_ms": schedule.percentile(latencies, 0.99) * 1e3,
        "p999_ms": schedule.percentile(latencies, 0.999) * 1e3,
        "late_p99_ms": schedule.percentile(lateness, 0.99) * 1e3,
    }


if __name__ == "__main__":
    _port, _rate, _seconds, _connections = sys.argv[1:]
    print(json.dumps(drive(int(_port), float(_rate), float(_seconds), int(_connections))))
