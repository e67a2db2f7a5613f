"""The table of built-in policies and their options, from which everything else about them is
derived.

One row a policy: how it is built, what it reads of the live system (so that nobody measures
latency for a policy that never looks at it) and its options with type, range, default and one
line for the documentation. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.policies.first import First
from app.policies.hash import hash_policy
from app.policies.least_connections import LeastConnections
from app.policies.peak_ewma import PeakEwma
from app.policies.protocol import Inputs, Policy
from app.policies.random import Random
from app.policies.random_two import RandomTwo
from app.policies.round_robin import round_robin


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a policy. ``choices`` for words, ``minimum`` and ``maximum`` (both
    included) for numbers."""

    name: str
    type: type[int | float | str]
    default: int | float | str
    summary: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    off: float | None = None

    def problem(self, value: object) -> str:
        """Why ``value`` is refused, or an empty string; ``off`` is allowed though it is outside
        the range."""
        wanted = (int, float) if self.type is float else self.type
        if isinstance(value, bool) or not isinstance(value, wanted):
            return f"must be {_TYPE_WORDS[self.type]}, got {value!r}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, got {value!r}"
        if isinstance(value, str) or value == self.off:
            return ""
        if not _between(value, self.minimum, self.maximum):
            return f"must be {self._range()}, got {value!r}"
        return ""

    def _range(self) -> str:
        text = f"from {self.minimum:g} to {self.maximum:g}"
        return text if self.off is None else f"{self.off:g} (off) or {text}"


@dataclass(frozen=True, slots=True)
class Definition:
    """One built-in policy. ``reads`` names what it asks for: key, in_flight, latency,
    capacity. ``ramps``: a slow start may change its weights for a while."""

    name: str
    build: Callable[..., Policy]
    summary: str
    reads: frozenset[str] = frozenset()
    ramps: bool = True
    options: tuple[Option, ...] = ()

    def problems(self, options: Mapping[str, object]) -> list[tuple[str, str]]:
        """Everything wrong with ``options``, as (option's name, message); unknown names
        included."""
        known = {option.name: option for option in self.options}
        found = []
        for name, value in options.items():
            message = (
                known[name].problem(value) if name in known else "is not an option of " + self.name
            )
            if message:
                found.append((name, message))
        return found


_LOAD = frozenset({"in_flight"})

_DEFINITIONS = (
    Definition(
        "round_robin",
        round_robin,
        "each backend in turn, in proportion to its weight",
    ),
    Definition(
        "least_connections",
        LeastConnections,
        "the fewest requests in flight for its weight, of all backends",
        reads=_LOAD,
    ),
    Definition(
        "random_two",
        RandomTwo,
        "the less loaded of two backends drawn by weight",
        reads=_LOAD,
    ),
    Definition(
        "peak_ewma",
        PeakEwma,
        "the lower latency × (in flight + 1) of two backends drawn by weight",
        reads=_LOAD | {"latency"},
    ),
    Definition(
        "random",
        Random,
        "a draw by weight",
    ),
    Definition(
        "first",
        First,
        "the first backend in order that is below its max_connections",
        reads=_LOAD | {"capacity"},
    ),
    Definition(
        "hash",
        hash_policy,
        "the same key to the same backend, consistently",
        reads=_LOAD | {"key"},
        ramps=False,  # each step would move keys, of servers that do not ramp too
        options=(
            Option(
                "missing_key",
                str,
                "round_robin",
                "who picks when a request has no key; none refuses it",
                choices=("round_robin", "random", "none"),
            ),
            Option(
                "balance_factor",
                float,
                0.0,
                "most requests in flight at one backend, as a multiple of its fair part",
                minimum=1.0,
                maximum=10.0,
                off=0.0,
            ),
        ),
    ),
)

POLICIES: dict[str, Definition] = {definition.name: definition for definition in _DEFINITIONS}


def make(name: str, options: Mapping[str, Any], inputs: Inputs) -> Policy:
    """The policy ``name`` for one snapshot; ``options`` have been validated, those left out
    have their default.

    Raises KeyError for a name that is not in ``POLICIES``.
    """
    definition = POLICIES[name]
    defaults = {option.name: option.default for option in definition.options}
    return definition.build(inputs, **{**defaults, **options})


_TYPE_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a string"}


def _between(value: object, minimum: float | None, maximum: float | None) -> bool:
    assert isinstance(value, (int, float))
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
