"""Closed loop: wrk, h2load and curl, which ask again when they have been answered.

Each function drives one proxy for a bounded time from the load cores, reads what the tool says and
returns plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import procs

WRK_DONE = """
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("@@ %d %d %f %f %d %d\\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.timeout, e.status))
end
"""
CURL_BYTES_PER_SECOND = 60e6
"""Below this rate a transfer is given up."""


@dataclass(frozen=True)
class Wrk:
    """What wrk counted."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    refused: int
    """Answers that were not 2xx or 3xx."""


def wrk(
    url: str,
    *,
    connections: int,
    seconds: float,
    cores: Sequence[int],
    folder: Path,
    close: bool = False,
    body: Path | None = None,
) -> Wrk:
    """HTTP/1.1, one request at a time on each connection; ``body`` makes it POST, ``close`` reconnect."""
    script = WRK_DONE
    if close:
        script += 'wrk.headers["Connection"] = "close"\n'
    if body:
        script += f'wrk.method = "POST"\nwrk.body = io.open("{body}"):read("*a")\n'
        script += 'wrk.headers["Content-Type"] = "application/octet-stream"\n'
    path = folder / "load.lua"
    path.write_text(script)
    output = procs.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s",
         "-s", str(path), url],
        cores=cores,
        seconds=seconds + procs.EXTRA_SECONDS,
    )  # fmt: skip
    line = re.search(r"^@@ (.*)$", output, re.MULTILINE)
    if not line:
        raise procs.BenchError(f"wrk said: {output.strip()[-200:]}")
    requests, duration, p50, p99, errors, refused = (float(word) for word in line[1].split())
    if not requests:
        raise procs.BenchError(f"wrk got no answer: {output.strip()[-200:]}")
    return Wrk(int(requests), duration / 1e6, p50 / 1e3, p99 / 1e3, int(errors), int(refused))


@dataclass(frozen=True)
class H2load:
    """What h2load counted; ``requests`` are those that succeeded."""

    requests: int
    seconds: float
    failed: int


def h2load(
    url: str, *, connections: int, streams: int, seconds: float, cores: Sequence[int]
) -> H2load:
    """HTTP/2, that many streams at a time on each connection."""
    output = procs.run(
        ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{max(1, round(seconds))}", url],
        cores=cores,
        seconds=seconds + procs.EXTRA_SECONDS,
    )
    counts = re.search(r"^requests: .* (\d+) done, (\d+) succeeded", output, re.MULTILINE)
    took = re.search(r"^finished in ([\d.]+)s", output, re.MULTILINE)
    if not counts or not took or "Application protocol: h2" not in output:
        raise procs.BenchError(f"h2load said: {output.strip()[-200:]}")
    done, succeeded = int(counts[1]), int(counts[2])
    if not succeeded:
        raise procs.BenchError(f"h2load got no answer: {output.strip()[-200:]}")
    return H2load(succeeded, float(took[1]), done - succeeded)


def download(url: str, size: int, times: int, cores: Sequence[int]) -> None:
    """Fetch one after another on one connection; every byte must arrive."""
    _curl(["-o", "/dev/null", "-w", "%{http_code} %{size_download}\n"], url, times, size, cores)


def upload(url: str, file: Path, times: int, cores: Sequence[int]) -> None:
    """Send one after another on one connection; the backend must have counted every byte."""
    size = file.stat().st_size
    options = ["-T", str(file), "-H", "Expect:", "-w", "%{http_code} %{size_upload}\n", "-o", "-"]
    output = _curl(options, url, times, size, cores)
    if output.split().count(str(size)) < 2 * times:
        raise procs.BenchError(f"the backend counted other bytes: {output[:200]}")


def _curl(options: list[str], url: str, times: int, size: int, cores: Sequence[int]) -> str:
    # Globbing makes one curl repeat the transfer on one connection.
    output = procs.run(
        ["curl", "-sS", *options, f"{url}?[1-{times}]"],
        cores=cores,
        seconds=10 + times * size / CURL_BYTES_PER_SECOND,
    )
    good = len(re.findall(rf"^200 {size}$", output, re.MULTILINE))
    if good != times:
        raise procs.BenchError(f"{good} of {times} transfers were whole: {output.strip()[:200]}")
    return output
