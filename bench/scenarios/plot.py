"""Latency and errors over time, the faults marked: ``plot.py DATA OUTPUT-WITHOUT-SUFFIX``, by path.

Runs under the bench's own Python, which has matplotlib; DATA is what ``__main__`` wrote for it.
"""

from __future__ import annotations

import json
import sys

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

FAILED_GET, FAILED_POST, ANSWERED = "#c1121f", "#f77f00", "#1d3557"


def main(data: str, output: str) -> None:
    with open(data) as file:
        given = json.load(file)
    rows, phases, seconds = given["rows"], given["phases"], given["seconds"]
    figure, axes = plt.subplots(
        len(rows), 1, sharex=True, sharey=True, squeeze=False,
        figsize=(11, 1.1 + 1.75 * len(rows)), layout="constrained",
    )  # fmt: skip
    for axis, row in zip(axes[:, 0], rows, strict=True):
        columns = row["columns"]
        groups: dict[str, list[tuple[float, float]]] = {
            ANSWERED: [],
            FAILED_GET: [],
            FAILED_POST: [],
        }
        points = zip(*(columns[key] for key in ("due", "done", "post", "outcome")), strict=True)
        for due, done, post, outcome in points:
            colour = ANSWERED if not outcome else FAILED_POST if post else FAILED_GET
            groups[colour].append((due, max(0.3, (done - due) * 1e3)))
        axis.scatter(*_split(groups[ANSWERED]), s=2, c=ANSWERED, alpha=0.35, lw=0, rasterized=True)
        for colour, marker in ((FAILED_GET, "x"), (FAILED_POST, "^")):
            axis.scatter(*_split(groups[colour]), s=22, c=colour, marker=marker, lw=1.1, zorder=3)
        for number, (start, name) in enumerate(phases):
            if number % 2:
                end = phases[number + 1][0] if number + 1 < len(phases) else seconds
                axis.axvspan(start, end, color="#000000", alpha=0.05, lw=0)
            axis.annotate(
                name, (start, 0.04), (3, 0), fontsize=7, color="#555555",
                xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_ylim(1, 15000)
        axis.set_ylabel("ms")
        axis.grid(axis="y", alpha=0.25)
        failed = f"{len(groups[FAILED_GET])} GET + {len(groups[FAILED_POST])} POST failed"
        axis.set_title(
            f"{row['name']}: {failed}, p99 {row['p99_ms']:,.0f} ms",
            loc="left", fontsize=9, fontweight="bold", pad=3,
        )  # fmt: skip
    axes[-1, 0].set_xlabel(
        "seconds; each dot a request at the moment it was due; red crosses: failed GETs,"
        " orange triangles: failed POSTs"
    )
    axes[-1, 0].set_xlim(0, seconds)
    figure.suptitle(given["title"], fontsize=10)
    figure.savefig(output + ".png", dpi=110)
    figure.savefig(output + ".svg", dpi=110)


def _split(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


if __name__ == "__main__":
    main(*sys.argv[1:])
