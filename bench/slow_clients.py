"""What slow clients cost the others: connections that drip a byte a second beside honest traffic.

``python -m bench.slow_clients`` takes the latency of requests at a constant rate (load/open_loop.py)
without slow clients, then the same while thousands of connections drip their heads or bodies, and the
memory before and during. The goal is a p99 of at most twice the calm one, no failed request, and memory
that does not grow from the middle to the end. Exits with 1 where ours misses it.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench import procs, session
from bench.load import open_loop
from bench.peers.candidate import Candidate
from bench.peers.haproxy import HAProxy
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours
from bench.proxy import Proxy
from bench.report import aligned
from bench.session import BUILD, ROOT
from bench.speed.lab import Lab, Settings, table

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
POST = b"POST /post HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
KINDS = ("head", "body")
HONEST_CONNECTIONS = 32
MOST_RATIO = 2.0
READY_SECONDS = 30.0
SETTLE_SECONDS = 3.0
CANDIDATES: dict[str, type[Candidate]] = {kind.name: kind for kind in (Ours, Nginx, HAProxy)}


@dataclass(frozen=True)
class Outcome:
    """One row."""

    kind: str
    calm: dict[str, float]
    slow: dict[str, float]
    held: int
    """Slow connections that were still open at the end."""
    before_kib: int
    middle_kib: int
    after_kib: int
    busy: float
    """CPU seconds of the proxy for each second with slow clients."""

    def ratio(self) -> float:
        return self.slow["p99_ms"] / self.calm["p99_ms"]

    def misses(self, count: int) -> list[str]:
        """Which goals are missed, in words."""
        found = []
        if self.ratio() > MOST_RATIO:
            found.append(f"p99 is {self.ratio():.1f} times the calm one")
        if self.slow["failed"]:
            found.append(f"{self.slow['failed']:.0f} honest requests failed")
        if self.after_kib - self.middle_kib > max(1024, (self.middle_kib - self.before_kib) // 4):
            found.append("memory goes on growing")
        if self.held > count:
            found.append("more connections than there are")
        return found


def main() -> int:
    """Measure, print the table, say what was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--candidate", choices=sorted(CANDIDATES), action="append")
    parser.add_argument("--drip", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    session.raise_file_limit()
    if given.drip:
        drip(given.drip, given.connections, given.seconds, (given.kind or KINDS)[0])
        return 0
    rows, missed = [], []
    with table(ROOT, Settings()) as lab:
        for name in given.candidate or ["ours"]:
            for kind in given.kind or KINDS:
                candidate = CANDIDATES[name](ROOT, BUILD)
                outcome = measure(lab, candidate, kind, given)
                rows.append(_row(name, outcome, given.connections))
                if name == "ours":
                    missed += [f"{kind}: {what}" for what in outcome.misses(given.connections)]
    title = ["", "drips its", "calm p50 ms", "p99", "slow p50", "p99", "ratio", "failed", "open at end",
             "MiB before", "middle", "end", "KiB each", "CPU"]  # fmt: skip
    print(
        f"{given.connections} connections, a byte a second each for {given.seconds:.0f} s, beside "
        f"{given.rate:.0f} requests/s:"
    )
    print("\n".join(aligned([title, *rows])))
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


def measure(lab: Lab, candidate: Candidate, kind: str, given: argparse.Namespace) -> Outcome:
    """Calm, then slow, on one run of the candidate."""
    with lab.start(candidate, lab.setup()) as proxy:
        _honest(lab, proxy, given.rate, 2.0)
        calm = _honest(lab, proxy, given.rate, given.seconds)
        before = proxy.process.usage()
        words = ["--drip", str(proxy.port), "--kind", kind, "--connections", str(given.connections)]
        words += ["--seconds", str(given.seconds + 10)]
        dripping = procs.Process(
            [sys.executable, "-m", "bench.slow_clients", *words],
            cores=lab.load_cores,
            log=lab.folder / "drip.log",
            cwd=ROOT,
        )
        with procs.running(dripping):
            if not procs.wait_until(lambda: dripping.log.stat().st_size > 0, READY_SECONDS):
                raise procs.BenchError(f"slow clients did not connect: {dripping.said()}")
            # That so many connect within a second is another question.
            time.sleep(SETTLE_SECONDS)
            with proxy.watch() as cost:
                first = _honest(lab, proxy, given.rate, given.seconds / 2)
                middle = proxy.process.usage()
                second = _honest(lab, proxy, given.rate, given.seconds / 2)
                after = proxy.process.usage()
            procs.wait_until(lambda: not dripping.alive(), given.seconds + READY_SECONDS)
            held = json.loads(dripping.log.read_text().split("\n")[1])["open"]
        dripping.log.unlink()
    return Outcome(
        kind=kind,
        calm=calm,
        # The worse half: what comes late must not hide behind what came before.
        slow={name: max(first[name], second[name]) for name in first},
        held=held,
        before_kib=before.rss_kib,
        middle_kib=middle.rss_kib,
        after_kib=after.rss_kib,
        busy=cost.busy,
    )


def _honest(lab: Lab, proxy: Proxy, rate: float, seconds: float) -> dict[str, float]:
    return open_loop.constant_rate(
        proxy.port,
        rate,
        seconds=seconds,
        connections=HONEST_CONNECTIONS,
        cores=lab.load_cores,
        root=ROOT,
    )


def _row(name: str, outcome: Outcome, count: int) -> list[str]:
    calm, slow = outcome.calm, outcome.slow
    each = (outcome.after_kib - outcome.before_kib) / count
    return [
        name,
        outcome.kind,
        *(f"{value:.2f}" for value in (calm["p50_ms"], calm["p99_ms"])),
        *(f"{value:.2f}" for value in (slow["p50_ms"], slow["p99_ms"], outcome.ratio())),
        f"{slow['failed']:.0f}",
        str(outcome.held),
        *(f"{kib / 1024:.0f}" for kib in (outcome.before_kib, outcome.middle_kib)),
        f"{outcome.after_kib / 1024:.0f}",
        f"{each:.1f}",
        f"{outcome.busy:.2f}",
    ]


def drip(port: int, count: int, seconds: float, kind: str) -> None:
    """Open the connections, say so, send each a byte a second, say how many are left at the end."""
    start = HEAD if kind == "head" else POST
    clients: dict[int, socket.socket] = {}
    poller = select.epoll()
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), 10)
        client.sendall(start)
        client.setblocking(False)
        poller.register(client, select.EPOLLIN | select.EPOLLRDHUP)
        clients[client.fileno()] = client
    print("ready", flush=True)
    turns: list[Any] = list(clients)
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds and clients:
        # Spread over the second: a thousandth of it is the smallest step that sleeps.
        while sent < now * count:
            client_or_none = clients.get(turns[sent % count])
            sent += 1
            if client_or_none is not None:
                try:
                    client_or_none.send(b"x")
                except OSError:
                    clients.pop(client_or_none.fileno()).close()
        for descriptor, _ in poller.poll(0.001):
            clients.pop(descriptor).close()  # answered, or closed: it is slow no more
    print(json.dumps({"open": len(clients)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
