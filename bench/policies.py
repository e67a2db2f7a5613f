"""What each policy costs: building it for a snapshot and one pick, from 10 to 10,000 backends.

    python -m bench.policies [--sizes 10,100,1000,10000]

``cold`` is the first build in a process, ``change`` the rebuild after one backend left, which is
what a change of health costs a worker. Every time is the best of several rounds; prints a table
in Markdown. The ticket is the system call that the shared table uses (a seek on an open file);
its own cost is printed first. ``reads`` is how many backends' loads one pick asked for: here each
is a list look-up, in a worker a sum over all workers' cells, and costs that much more.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from time import monotonic, perf_counter
from typing import Any

from app.policies import Guard, Inputs, Policy, make
from app.policies import hash as hashing
from app.policies import round_robin as rotation

ROUNDS = 5
ROUND_SECONDS = 0.03
KEYS = [b"203.0.113.%d" % number for number in range(256)]
CUSTOM = "a user's class"
"""Round robin again, as a user's class: what its guard costs is the difference."""
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("round_robin", {}),
    ("random", {}),
    ("random_two", {}),
    ("peak_ewma", {}),
    ("least_connections", {}),
    ("first", {}),
    ("hash", {}),
    ("hash", {"balance_factor": 1.25}),
    (CUSTOM, {}),
)
WEIGHTS: dict[str, Callable[[int], int]] = {
    "1": lambda _: 1,
    "1, 2": lambda index: 1 + index % 2,
    "1..100": lambda index: 1 + index * 37 % 100,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", default="10,100,1000,10000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    with seek_ticket() as ticket:
        print(f"Python {platform.python_version()}; a ticket alone: {best_us(ticket):.2f} µs\n")
        print("| policy | weights | n | cold ms | change ms | pick µs | reads |")
        print("|---|---|---|---|---|---|---|")
        for name, options in CASES:
            for kind, weight in WEIGHTS.items():
                for size in sizes:
                    print(row(name, options, kind, [weight(at) for at in range(size)], ticket))


def row(
    name: str,
    options: dict[str, Any],
    kind: str,
    weights: list[int],
    ticket: Callable[[], int],
) -> str:
    """One line of the table."""
    reads = 0
    loads = [index % 5 + 1 for index in range(len(weights))]

    def counted(index: int) -> int:
        nonlocal reads
        reads += 1
        return loads[index]

    whole = inputs(weights, ticket, loads.__getitem__)
    less = inputs(weights[:-1], ticket, loads.__getitem__)
    forget()
    cold, _ = build_ms(name, options, whole)
    change, policy = build_ms(name, options, less)
    pick = policy.pick
    next_key = cycle(KEYS).__next__
    cost = best_us(lambda: pick(next_key())) - best_us(next_key)
    counting = built(name, options, inputs(weights, ticket, counted))
    reads = 0
    for key in KEYS:
        counting.pick(key)
    label = name + "".join(f", {option} {value}" for option, value in options.items())
    return (
        f"| {label} | {kind} | {len(weights):,} | {cold:.2f} | {change:.2f} | {cost:.2f} "
        f"| {reads / len(KEYS):.0f} |"
    )


def inputs(weights: list[int], ticket: Callable[[], int], load: Callable[[int], int]) -> Inputs:
    return Inputs(
        weights=tuple(weights),
        names=tuple(f"http://10.0.{at // 250}.{at % 250 + 1}:8001" for at in range(len(weights))),
        ticket=ticket,
        in_flight=load,
        latency=lambda _: 0.01,
        capacity=(0,) * len(weights),
        random=random.random,
    )


def built(name: str, options: dict[str, Any], given: Inputs) -> Policy:
    if name == CUSTOM:
        return Guard(rotation.RoundRobin, options, monotonic, lambda *_: None).build(given)
    return make(name, options, given)


def forget() -> None:
    """Make the next build a cold one."""
    hashing._rings.__init__()  # type: ignore[misc]
    rotation.smooth_cycle.cache_clear()
    rotation.even_stride.cache_clear()
    gc.collect()


def build_ms(name: str, options: dict[str, Any], given: Inputs) -> tuple[float, Policy]:
    began = perf_counter()
    policy = built(name, options, given)
    return (perf_counter() - began) * 1e3, policy


def best_us(call: Callable[[], object]) -> float:
    """The best round's time for one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        calls = 0
        began = now = perf_counter()
        while now - began < ROUND_SECONDS:
            for _ in range(20):
                call()
            calls += 20
            now = perf_counter()
        best = min(best, (now - began) / calls)
    return best * 1e6


@contextmanager
def seek_ticket() -> Iterator[Callable[[], int]]:
    """The shared table's cursor, on a file of its own."""
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        yield lambda: os.lseek(number, 1, os.SEEK_CUR)


if __name__ == "__main__":
    main()
