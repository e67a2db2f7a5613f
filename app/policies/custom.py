"""A user's own policy: loading its class, testing it before it is trusted, guarding it after.

The class has the protocol of the built-in ones: it is called with ``Inputs`` (and the options of
the configuration as keywords) and has ``pick(key)``. It is foreign code in the path of every
request, so whatever it does wrong costs a round robin pick and a count, never a request. What
cannot be helped from inside one thread: a pick that never returns. Pure: the clock and the
callback that reports are injected.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from app.policies.protocol import Inputs, KeyMissing, Policy
from app.policies.round_robin import round_robin

CHECK_SIZES = (1, 2, 7, 100)
CHECK_PICKS = 1_000
# Seconds for one pick; a built-in one takes 0.001 ms, a whole proxied request some 0.03 ms.
PICK_LIMIT = 0.001
# One slow pick can be a collection of garbage or a busy machine; three running are the policy.
SLOW_IN_A_ROW = 3


class PolicyError(ValueError):
    """A user's policy cannot be used; the message says why, for the operator."""


def load_custom(path: str) -> Callable[..., Policy]:
    """The class that ``path`` names, as package.module.Class or package.module:Class."""
    module_name, _, class_name = path.replace(":", ".").rpartition(".")
    if not module_name or not class_name:
        raise PolicyError(f"{path!r} is not of the form package.module.Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PolicyError(f"cannot import {module_name!r}: {_words(error)}") from error
    factory = getattr(module, class_name, None)
    if not isinstance(factory, type):
        raise PolicyError(f"{module_name!r} has no class {class_name!r}")
    if not callable(getattr(factory, "pick", None)):
        raise PolicyError(f"{path} has no method pick(key)")
    return factory


def check_custom(
    factory: Callable[..., Policy], options: Mapping[str, Any], clock: Callable[[], float]
) -> None:
    """Build and try ``factory`` on sample inputs; raises PolicyError at the first broken promise.

    For pools of ``CHECK_SIZES`` backends, ``CHECK_PICKS`` picks together, with and without a key:
    each an index in range or KeyMissing, all within ``PICK_LIMIT`` seconds on average.
    """
    each = CHECK_PICKS // len(CHECK_SIZES)
    began = clock()
    for size in CHECK_SIZES:
        try:
            policy = factory(_sample(size), **options)
        except Exception as error:
            raise PolicyError(f"cannot be built for {size} backends: {_words(error)}") from error
        for number in range(each):
            _check_pick(policy, b"key %d" % number if number % 2 else None, size)
            if clock() - began > PICK_LIMIT * CHECK_PICKS:
                raise PolicyError(f"takes more than {PICK_LIMIT * 1000:g} ms a pick")


class Guard:
    """Watches a user's policy over all its snapshots; made once in each process.

    ``report`` is called once, with the reason and a detail, at the first failure; ``failures``
    counts them all by reason: build_failed, raised, not_an_index, too_slow. ``off`` is set after
    ``SLOW_IN_A_ROW`` slow picks in a row: from then on every pick is round robin's.
    """

    __slots__ = ("_clock", "_factory", "_limit", "_options", "_report", "failures", "off", "slow")

    def __init__(
        self,
        factory: Callable[..., Policy],
        options: Mapping[str, Any],
        clock: Callable[[], float],
        report: Callable[[str, str], None],
        limit: float = PICK_LIMIT,
    ) -> None:
        self._factory = factory
        self._options = dict(options)
        self._clock = clock
        self._report = report
        self._limit = limit
        self.failures: Counter[str] = Counter()
        self.off = False
        self.slow = 0

    def __repr__(self) -> str:
        return f"<Guard {'off' if self.off else 'on'}: {dict(self.failures)}>"

    def build(self, inputs: Inputs) -> Policy:
        """The user's policy for one snapshot, guarded; round robin if it cannot be built."""
        fallback = round_robin(inputs)
        if self.off:
            return fallback
        try:
            policy = self._factory(inputs, **self._options)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            self.failed("build_failed", _words(error))
            return fallback
        return Guarded(policy, fallback, len(inputs.weights), self, self._clock, self._limit)

    def failed(self, reason: str, detail: str) -> None:
        """Count one failure; the first of all is reported."""
        if not self.failures:
            self._report(reason, detail)
        self.failures[reason] += 1


class Guarded:
    """A user's policy for one snapshot; each pick it spoils is made by round robin."""

    __slots__ = ("_clock", "_count", "_fallback", "_guard", "_limit", "_policy")

    def __init__(
        self,
        policy: Policy,
        fallback: Policy,
        count: int,
        guard: Guard,
        clock: Callable[[], float],
        limit: float,
    ) -> None:
        self._policy = policy
        self._fallback = fallback
        self._count = count
        self._guard = guard
        self._clock = clock
        self._limit = limit

    def pick(self, key: bytes | None = None) -> int:
        if self._guard.off:
            return self._fallback.pick()
        began = self._clock()
        try:
            index = self._policy.pick(key)
        except KeyMissing:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            return self._spoiled("raised", _words(error))
        took = self._clock() - began
        if took > self._limit:
            return self._slow(took)
        self._guard.slow = 0
        # bool is an int to isinstance, and True is no index.
        if type(index) is not int or not 0 <= index < self._count:
            return self._spoiled("not_an_index", f"{index!r} of {self._count} backends")
        return index

    def _slow(self, took: float) -> int:
        self._guard.slow += 1
        self._guard.off = self._guard.slow >= SLOW_IN_A_ROW
        return self._spoiled("too_slow", f"{took * 1000:.1f} ms")

    def _spoiled(self, reason: str, detail: str) -> int:
        self._guard.failed(reason, detail)
        return self._fallback.pick()


def _check_pick(policy: Policy, key: bytes | None, size: int) -> None:
    try:
        index = policy.pick(key)
    except KeyMissing:
        return
    except Exception as error:
        raise PolicyError(f"pick({key!r}) of {size} backends raised {_words(error)}") from error
    if type(index) is not int or not 0 <= index < size:
        raise PolicyError(f"pick({key!r}) of {size} backends gave {index!r}")


def _sample(size: int) -> Inputs:
    """Plausible inputs: mixed weights, some load, some backends without samples or limit."""
    tickets, draws = count(), count()
    return Inputs(
        weights=tuple(index % 3 + 1 for index in range(size)),
        names=tuple(f"http://backend-{index}:8000" for index in range(size)),
        ticket=tickets.__next__,
        in_flight=lambda index: index * 7 % 5,
        latency=lambda index: index % 4 * 0.01,
        capacity=tuple(index % 2 * 10 for index in range(size)),
        random=lambda: next(draws) * 0.6180339887498949 % 1.0,
    )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
