"""How each number of a sample is named in tables, and which way is better: data, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

Sample = dict[str, float]
"""What one measurement came to, by the names of ``METRICS``."""


@dataclass(frozen=True)
class Metric:
    """A column."""

    title: str
    digits: int = 0
    higher_is_better: bool = False
    ratio: bool = True
    """Whether the report compares it with ours."""


METRICS = {
    "rps": Metric("requests/s", 0, higher_is_better=True),
    "cpu_us": Metric("CPU µs/request", 1),
    "gb_s": Metric("GB/s", 2, higher_is_better=True),
    "cpu_s_gb": Metric("CPU s/GB", 3),
    "p50_ms": Metric("p50 ms", 2),
    "p99_ms": Metric("p99 ms", 2),
    "idle_rss_kib": Metric("RSS KiB/connection", 1),
    "idle_pss_kib": Metric("PSS KiB/connection", 1),
    "start_s": Metric("start s", 3),
    "pss_mib": Metric("PSS MiB", 1),
    "rss_mib": Metric("RSS MiB", 1),
    "processes": Metric("processes", 0, ratio=False),
    "peak_mib": Metric("peak MiB", 1),
    "rate": Metric("rate/s", 0, ratio=False),
    "late_p99_ms": Metric("generator late p99 ms", 2, ratio=False),
    "busy": Metric("cores busy", 2, ratio=False),
    "foreign": Metric("others on its core", 2, ratio=False),
}
