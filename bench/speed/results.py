"""What the rounds of a case came to: samples, medians, ratios to ours; and the form of the JSON. Pure.

A ratio is taken within a round, where both sides had the same neighbours on the machine, and
its median is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.speed.metrics import METRICS, Sample


@dataclass
class Result:
    """Of one case."""

    title: str
    note: str = ""
    rows: dict[str, list[Sample | None]] = field(default_factory=dict)
    """By candidate, one entry a round; None where that round failed."""
    skipped: dict[str, str] = field(default_factory=dict)

    def samples(self, name: str) -> list[Sample]:
        return [sample for sample in self.rows.get(name, []) if sample is not None]

    def value(self, name: str, metric: str) -> float | None:
        values = [sample[metric] for sample in self.samples(name) if metric in sample]
        return median(values) if values else None

    def ratio(self, name: str, base: str, metric: str) -> float | None:
        """Median over rounds of ``name`` divided by ``base``."""
        ratios = [
            one[metric] / other[metric]
            for one, other in zip(self.rows.get(name, []), self.rows.get(base, []), strict=False)
            if one and other and one.get(metric) is not None and other.get(metric)
        ]
        return median(ratios) if ratios else None


def as_json(results: Mapping[str, Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "cases": {
            case: {
                "title": result.title,
                "rounds": result.rows,
                "skipped": result.skipped,
                "median": {
                    name: {
                        key: result.value(name, key)
                        for key in METRICS
                        if result.value(name, key) is not None
                    }
                    for name in result.rows
                },
            }
            for case, result in results.items()
        },
    }
