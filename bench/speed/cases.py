"""The cases: what is done to a candidate, and which numbers come of it.

A case is a function of the lab and one candidate that returns one sample, a flat dict of
metrics. It is called once a round for each candidate. A new case is a function and its line in ``ALL``.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.backends.fast import LARGE_BYTES, PAGE_BYTES
from bench.load import closed_loop, open_loop, single
from bench.peers import OURS
from bench.peers.candidate import Candidate, Setup
from bench.procs import BenchError
from bench.proxy import Cost, Proxy
from bench.speed.lab import Lab, settle_time_wait
from bench.speed.metrics import Sample

Measure = Callable[[Lab, Candidate], Sample]

CONNECTIONS = 32
H2_CONNECTIONS = 4
CLOSE_SECONDS = 3.0
POOL_WARM_UP_RATE = 2500
"""Servers a second that the slowest candidate reaches for the first time, about."""
IDLE_CONNECTIONS = 3000
IDLE_SECONDS = 3.0
OPEN_LOOP_CONNECTIONS = 64
OPEN_LOOP = "Open loop, Poisson arrivals, each request timed from when it was due."
PEAK_SECONDS = 2
TRANSFERS = 8
"""Of 256 MiB each: 2 GiB, so that the 10 ms ticks of /proc are below 2 % of the CPU time."""
STARTS = 3
ERROR_SHARE = 0.001
GB = 1e9


@dataclass(frozen=True)
class Case:
    """A row of ``ALL``."""

    name: str
    title: str
    measure: Measure
    note: str = ""
    tls: bool = False
    only_ours: bool = False
    variants: Callable[[], Iterable[str]] | None = None
    """For a case that compares our algorithms: their names."""
    before: Callable[[], None] | None = None


def small_get(lab: Lab, candidate: Candidate) -> Sample:
    return _wrk(lab, candidate, lab.setup())


def thousand_connections(lab: Lab, candidate: Candidate) -> Sample:
    return _wrk(lab, candidate, lab.setup(), connections=1000)


def new_connections(lab: Lab, candidate: Candidate) -> Sample:
    """For 3 s at most: each request leaves a socket in TIME_WAIT."""
    return _wrk(lab, candidate, lab.setup(), close=True, seconds=CLOSE_SECONDS)


def post_16k(lab: Lab, candidate: Candidate) -> Sample:
    body = lab.folder / "body"
    body.write_bytes(b"x" * PAGE_BYTES)
    return _wrk(lab, candidate, lab.setup(), path="/post", body=body)


def get_16k(lab: Lab, candidate: Candidate) -> Sample:
    return _wrk(lab, candidate, lab.setup(), path="/files/page")


def two_workers(lab: Lab, candidate: Candidate) -> Sample:
    """Nothing is pinned apart: the load shares both cores with the proxy."""
    cores = (lab.load_cores[-1], *lab.proxy_cores)
    sample = _wrk(lab, candidate, replace(lab.setup(), workers=2), cores=cores)
    del sample["foreign"]  # the load is on these cores by intent
    return sample


def over_tls(lab: Lab, candidate: Candidate) -> Sample:
    return _wrk(lab, candidate, lab.tls(lab.setup()))


def over_http2(lab: Lab, candidate: Candidate) -> Sample:
    """The streams of a connection are side by side."""
    setup = replace(lab.tls(lab.setup()), http2=True)
    with lab.start(candidate, setup) as proxy:

        def drive(seconds: float) -> closed_loop.H2load:
            return closed_loop.h2load(
                proxy.url(),
                connections=H2_CONNECTIONS,
                streams=CONNECTIONS // H2_CONNECTIONS,
                seconds=seconds,
                cores=lab.load_cores,
            )

        drive(lab.settings.warm_up)
        with proxy.watch() as cost:
            result = drive(lab.settings.seconds)
    if result.failed > result.requests * ERROR_SHARE:
        raise BenchError(f"{result.failed} of {result.requests} requests failed")
    return {
        "rps": result.requests / result.seconds,
        "cpu_us": cost.cpu / result.requests * 1e6,
    } | _common(cost)


def pool_of(size: int) -> Measure:
    def measure(lab: Lab, candidate: Candidate) -> Sample:
        setup = replace(lab.setup(), backends=lab.backends.crowd(size), health=False)
        # Each server must have been used once, or connecting is what is measured.
        return _wrk(lab, candidate, setup, warm_up=size / POOL_WARM_UP_RATE)

    return measure


def download(lab: Lab, candidate: Candidate) -> Sample:
    with lab.start(candidate, lab.setup()) as proxy:
        url = proxy.url("/files/large")
        closed_loop.download(url, LARGE_BYTES, 1, lab.load_cores)
        with proxy.watch() as cost:
            began = time.perf_counter()
            closed_loop.download(url, LARGE_BYTES, TRANSFERS, lab.load_cores)
            took = time.perf_counter() - began
    return _bulk(took, cost.cpu) | _common(cost)


def upload(lab: Lab, candidate: Candidate) -> Sample:
    with lab.start(candidate, replace(lab.setup(), backends=(lab.backends.sink,))) as proxy:
        file = lab.backends.large_file
        closed_loop.upload(proxy.url("/upload"), file, 1, lab.load_cores)
        with proxy.watch() as cost:
            began = time.perf_counter()
            closed_loop.upload(proxy.url("/upload"), file, TRANSFERS, lab.load_cores)
            took = time.perf_counter() - began
    return _bulk(took, cost.cpu) | _common(cost)


def idle_connections(lab: Lab, candidate: Candidate) -> Sample:
    """Growth from a warm proxy without clients to one with 3,000 that say nothing."""
    with lab.start(candidate, lab.setup()) as proxy:
        _drive(lab, proxy, 1)
        time.sleep(IDLE_SECONDS)
        process = proxy.process
        rss, pss = process.usage().rss_kib, process.pss_kib()
        with single.idle_clients(proxy.port, IDLE_CONNECTIONS):
            time.sleep(IDLE_SECONDS)
            usage = process.usage()
            return {
                "idle_rss_kib": (usage.rss_kib - rss) / IDLE_CONNECTIONS,
                "idle_pss_kib": (process.pss_kib() - pss) / IDLE_CONNECTIONS,
                "peak_mib": usage.peak_kib / 1024,
            }


def half_load(lab: Lab, candidate: Candidate) -> Sample:
    """Latency at one constant rate for all: half of what the reference did at most."""
    rate = lab.reference_peak(_peak) / 2
    with lab.start(candidate, lab.setup()) as proxy:
        _drive(lab, proxy, 1)
        return _at_rate(lab, proxy, rate)


def half_own_peak(lab: Lab, candidate: Candidate) -> Sample:
    """Latency at half of what this candidate itself did at most a moment before."""
    with lab.start(candidate, lab.setup()) as proxy:
        return _at_rate(lab, proxy, _peak(lab, proxy) / 2)


def _peak(lab: Lab, proxy: Proxy) -> float:
    _drive(lab, proxy, 1)
    peak = _drive(lab, proxy, PEAK_SECONDS)
    return peak.requests / peak.seconds


def _at_rate(lab: Lab, proxy: Proxy, rate: float) -> Sample:
    with proxy.watch() as cost:
        found = open_loop.constant_rate(
            proxy.port,
            rate,
            seconds=lab.settings.seconds,
            connections=OPEN_LOOP_CONNECTIONS,
            cores=lab.load_cores,
            root=lab.root,
        )
    if found["failed"] > found["due"] * ERROR_SHARE:
        raise BenchError(f"{found['failed']:.0f} of {found['due']:.0f} requests failed")
    sample = {"rate": rate, **{key: found[key] for key in ("p50_ms", "p99_ms", "late_p99_ms")}}
    return sample | {"cpu_us": cost.cpu / found["answered"] * 1e6} | _common(cost)


def start(lab: Lab, candidate: Candidate) -> Sample:
    """From exec to the first answer that came from a backend; the best of three."""
    took = []
    for _ in range(STARTS):
        with lab.start(candidate, lab.setup()) as proxy:
            took.append(proxy.start_seconds)
    return {"start_s": min(took)}


def memory(lab: Lab, candidate: Candidate) -> Sample:
    """The whole tree after some traffic, at rest."""
    with lab.start(candidate, lab.setup()) as proxy:
        _drive(lab, proxy, 1)
        time.sleep(1)
        usage = proxy.process.usage()
        return {
            "pss_mib": proxy.process.pss_kib() / 1024,
            "rss_mib": usage.rss_kib / 1024,
            "peak_mib": usage.peak_kib / 1024,
            "processes": usage.processes,
        }


def algorithm(name: str) -> Measure:
    def measure(lab: Lab, candidate: Candidate) -> Sample:
        setup = replace(lab.setup(), backends=lab.backends.crowd(10), algorithm=name)
        return _wrk(lab, candidate, setup)

    return measure


def algorithms() -> list[str]:
    """Round robin first, then every other algorithm that config.json may name."""
    from app import config
    from app.policies import POLICIES

    names = ["round_robin"]
    for name in POLICIES:
        text = json.dumps({"servers": ["http://127.0.0.1:1"], "algorithm": name})
        with contextlib.suppress(config.ConfigError):
            config.parse(text)
            names.append(name)
    return list(dict.fromkeys(names))


ALL = (
    Case("small", "Small GET, keep-alive, 32 connections", small_get),
    Case("connections_1000", "Small GET, 1,000 connections", thousand_connections),
    Case(
        "close",
        "Small GET, a new connection for each request, 32 at a time",
        new_connections,
        before=settle_time_wait,
    ),
    Case("post_16k", "POST of 16 KiB, 32 connections", post_16k),
    Case("get_16k", "Response of 16 KiB, 32 connections", get_16k),
    Case("download", "Download of 256 MiB, one stream", download),
    Case("upload", "Upload of 256 MiB, one stream", upload),
    Case(
        "idle",
        "Memory of an idle keep-alive client connection, 3,000 of them",
        idle_connections,
    ),
    Case(
        "half_load",
        "Latency at half of Envoy's peak rate, the same rate for all",
        half_load,
        note=OPEN_LOOP,
    ),
    Case(
        "half_own_peak",
        "Latency at half of the candidate's own peak rate",
        half_own_peak,
        note=f"{OPEN_LOOP} The generator takes about 40 µs a request: a fast proxy's rate fills its core.",
    ),
    Case(
        "two_workers",
        "Small GET, two workers on two cores",
        two_workers,
        note="The load and the backends share the two cores, so CPU per request says more here.",
    ),
    Case("tls", "Small GET, keep-alive, TLS towards the client", over_tls, tls=True),
    Case(
        "http2",
        "Small GET over HTTP/2 and TLS, 4 connections with 8 streams each",
        over_http2,
        tls=True,
    ),
    *(
        Case(
            f"pool_{size}",
            f"Small GET, {size:,} servers in the pool",
            pool_of(size),
            note="Health checks off in all.",
        )
        for size in (10, 100, 1000, 10000)
    ),
    Case(
        "algorithms",
        "Small GET, each of our algorithms, 10 servers",
        algorithm("round_robin"),
        only_ours=True,
        variants=algorithms,
    ),
    Case("start", "Start to first served request", start),
    Case("memory", "Memory after some traffic, at rest", memory),
)


def expand(case: Case, candidate: Candidate) -> list[tuple[str, Measure]]:
    """Rows that a candidate has in a case: one, or one for each of our algorithms."""
    if case.variants is None:
        return [(candidate.name, case.measure)]
    return [
        (OURS if number == 0 else name, algorithm(name))
        for number, name in enumerate(case.variants())
    ]


def lacks(case: Case, candidate: Candidate) -> str | None:
    """Why the candidate is not in the case."""
    if case.tls and not candidate.tls:
        return candidate.lacks_tls
    return None


def _drive(lab: Lab, proxy: Proxy, seconds: float) -> closed_loop.Wrk:
    return closed_loop.wrk(
        proxy.url(),
        connections=CONNECTIONS,
        seconds=seconds,
        cores=lab.load_cores,
        folder=lab.folder,
    )


def _wrk(
    lab: Lab,
    candidate: Candidate,
    setup: Setup,
    *,
    path: str = "/",
    connections: int = CONNECTIONS,
    close: bool = False,
    body: Path | None = None,
    cores: tuple[int, ...] | None = None,
    seconds: float = 60.0,
    warm_up: float = 0.0,
) -> Sample:
    with lab.start(candidate, setup, cores) as proxy:

        def drive(seconds: float) -> closed_loop.Wrk:
            return closed_loop.wrk(
                proxy.url(path),
                connections=connections,
                seconds=seconds,
                cores=cores or lab.load_cores,
                folder=lab.folder,
                close=close,
                body=body,
            )

        drive(max(warm_up, lab.settings.warm_up))
        with proxy.watch() as cost:
            result = drive(min(seconds, lab.settings.seconds))
    bad = result.errors + result.refused
    if bad > result.requests * ERROR_SHARE:
        raise BenchError(
            f"of {result.requests} requests {result.refused} were refused, "
            f"{result.errors} failed on the connection"
        )
    return {
        "rps": result.requests / result.seconds,
        "cpu_us": cost.cpu / result.requests * 1e6,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "errors": float(bad),
    } | _common(cost)


def _bulk(seconds: float, cpu: float) -> Sample:
    moved = LARGE_BYTES * TRANSFERS / GB
    return {"gb_s": moved / seconds, "cpu_s_gb": cpu / moved}


def _common(cost: Cost) -> Sample:
    return {"peak_mib": cost.peak_mib, "busy": cost.busy, "foreign": cost.foreign}
