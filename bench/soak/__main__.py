"""Run the soak; the report says what became of the requests, and exits with 1 where something was missed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench import procs
from bench.soak.http1_clients import Door, Http1Client
from bench.soak.http2_clients import Http2Client
from bench.soak.ledger import Ledger, judge
from bench.soak.servers import Server

ROOT = Path(__file__).resolve().parents[2]
SERVERS = 4
GROWTH = 1.1
"""By what factor the memory of the last third may exceed that of the second, as the balancer's caches and the
allocator's holes still fill up."""
SETTLE_S = 2.0


class Balancer:
    """One that runs, with its log in a file."""

    def __init__(
        self, folder: Path, name: str, settings: dict[str, object], flags: list[str]
    ) -> None:
        self.port = procs.free_port()
        self.config = folder / f"{name}.json"
        self.settings = {**settings, "host": "127.0.0.1", "port": self.port}
        self.write(0)
        log = folder / f"{name}.log"
        log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "gunicorn.conf.py",
            *flags,
            "app:application",
        ]
        self.process = procs.Process(
            command,
            cores=sorted(os.sched_getaffinity(0)),
            log=log,
            cwd=ROOT,
            env={"LB_CONFIG": str(self.config)},
        )
        self.memory: list[int] = []

    def write(self, turn: int) -> None:
        """The configuration, a little different at each turn."""
        self.config.write_text(json.dumps({**self.settings, "slow_start": turn % 2}))

    def reload(self, turn: int) -> None:
        self.write(turn)
        os.kill(self.process.pid, signal.SIGHUP)

    def grew(self) -> str | None:
        """In words, if memory goes on growing."""
        third = len(self.memory) // 3
        if third < 2:
            return None
        middle, last = median(self.memory[third:-third]), median(self.memory[-third:])
        if last > middle * GROWTH:
            return f"memory of {self.config.stem} grew from {middle / 1024:.0f} to {last / 1024:.0f} MiB"
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=12, help="of each protocol")
    parser.add_argument("--reload-every", type=float, default=40.0, help="seconds; 0: never")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the logs")
    parser.add_argument("flags", nargs="*", help="for gunicorn, after --")
    given = parser.parse_args()
    with _folder(given.keep) as folder:
        return asyncio.run(_soak(given, folder))


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="soak-") as name:
            yield Path(name)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept


async def _soak(given: argparse.Namespace, folder: Path) -> int:
    servers = [Server() for _ in range(SERVERS)]
    for server in servers:
        await server.start()
    settings: dict[str, object] = {
        "workers": 2,
        "servers": [f"http://127.0.0.1:{server.port}" for server in servers],
        "health_check": {"path": "/health", "interval": 1, "fast_interval": 0.2},
        "trusted_proxies": ["127.0.0.1"],
    }
    plain = Balancer(folder, "plain", settings, given.flags)
    secure = Balancer(folder, "tls", {**settings, "tls": _certificate(folder)}, given.flags)
    context = ssl.create_default_context(cafile=str(folder / "crt.pem"))
    context.check_hostname = False
    both = ssl.create_default_context(cafile=str(folder / "crt.pem"))
    both.check_hostname = False
    both.set_alpn_protocols(["h2"])
    ledger, dice, stop = Ledger(), random.Random(given.seed), asyncio.Event()
    try:
        for balancer in (plain, secure):
            if not await asyncio.to_thread(
                procs.wait_until, functools.partial(procs.listens, balancer.port), 30.0
            ):
                raise procs.BenchError(f"did not start: {balancer.process.said()}")
        clients: list[Http1Client | Http2Client] = []
        for number in range(given.clients):
            seed = f"{given.seed} {number}"
            clients.append(
                Http1Client(Door(plain.port, None), ledger, random.Random(seed + " plain"))
            )
            clients.append(
                Http1Client(Door(secure.port, context), ledger, random.Random(seed + " tls"))
            )
            if not given.flags:  # HTTP/2 is spoken by our own worker only
                clients.append(
                    Http2Client(Door(secure.port, both), ledger, random.Random(seed + " h2"))
                )
        running = [asyncio.create_task(client.run(stop)) for client in clients]
        await _trouble(given, servers, (plain, secure), dice)
        stop.set()
        await asyncio.gather(*running)
        await asyncio.sleep(SETTLE_S)
    finally:
        await asyncio.gather(*(asyncio.to_thread(one.process.stop) for one in (plain, secure)))
    return _report(ledger, (plain, secure))


async def _trouble(
    given: argparse.Namespace,
    servers: list[Server],
    balancers: tuple[Balancer, ...],
    dice: random.Random,
) -> None:
    """Until the time is over: a server falls ill or refuses, and is well again; reloads; memory is read."""
    started = reloaded = time.monotonic()
    turn = 0
    while (now := time.monotonic()) - started < given.seconds:
        await asyncio.sleep(2)
        for balancer in balancers:
            balancer.memory.append(await asyncio.to_thread(balancer.process.pss_kib))
        turn += 1
        server = dice.choice(servers)
        if turn % 4 == 1:
            server.is_well = False
        elif turn % 4 == 2:
            server.stop()
        for other in servers:
            if other is not server:
                other.is_well = True
                if not other.listens():
                    await other.start()
        if given.reload_every and now - reloaded > given.reload_every:
            reloaded = now
            for balancer in balancers:
                balancer.reload(turn)


def _certificate(folder: Path) -> dict[str, str]:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=soak", "-days", "2",
         "-addext", "subjectAltName=DNS:soak", "-keyout", folder / "key.pem", "-out", folder / "crt.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {"certificate": str(folder / "crt.pem"), "key": str(folder / "key.pem")}


def _report(ledger: Ledger, balancers: tuple[Balancer, ...]) -> int:
    text: list[str] = []
    for balancer in balancers:
        text += balancer.process.log.read_text(errors="replace").splitlines()
    findings = judge(ledger, text)
    for outcome, count in sorted(ledger.outcomes.items()):
        print(f"{count:8,}  {outcome}")
    print(
        f"{len(ledger.certain):,} requests certainly sent, {len(ledger.possible):,} torn off, "
        f"{findings.lines:,} access lines"
    )
    for balancer in balancers:
        memory = [kib // 1024 for kib in balancer.memory]
        print(f"{balancer.config.stem}: PSS in MiB, every tenth reading: {memory[::10]}")
    grown = [words for balancer in balancers if (words := balancer.grew())]
    missed = [*findings.misses(), *grown]
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
