"""The moving average of a backend's latency."""

from __future__ import annotations

import pytest

from app.worker.balance.latency import FORGET_SECONDS, Latency


def test_without_samples_it_is_nothing() -> None:
    """Whatever time it is."""
    assert Latency().read(1e6) == 0.0


def test_a_slow_answer_counts_at_once() -> None:
    """One peak replaces any history."""
    latency = Latency()
    for second in range(100):
        latency.observe(0.01, second)
    latency.observe(2.0, 100.0)
    assert latency.read(100.0) == 2.0


def test_fast_answers_bring_it_down_with_time() -> None:
    """Not with their number: a burst after a peak moves it no more than its time allows."""
    latency = Latency()
    latency.observe(1.0, 0.0)
    for _ in range(1000):
        latency.observe(0.01, 0.1)
    assert latency.read(0.1) > 0.9
    for tick in range(1, 100):
        latency.observe(0.01, tick / 10)
    assert latency.read(9.9) == pytest.approx(0.01, rel=0.5)


def test_it_is_forgotten_while_nothing_comes() -> None:
    """To a third in its time: a backend that was 50 times slower is tried again after some seven seconds."""
    latency = Latency()
    latency.observe(1.0, 5.0)
    assert latency.read(5.0 + FORGET_SECONDS) == pytest.approx(0.3679, rel=1e-3)
    assert latency.read(5.0 + 6.0) > 1 / 50 > latency.read(5.0 + 8.0)


def test_after_a_long_rest_the_first_answer_is_the_average() -> None:
    """What was before has no weight any more."""
    latency = Latency()
    latency.observe(1.0, 0.0)
    latency.observe(0.002, 1000.0)
    assert latency.read(1000.0) == pytest.approx(0.002)


def test_what_comes_back_is_unknown() -> None:
    """As a backend without samples."""
    latency = Latency()
    latency.observe(1.0, 0.0)
    latency.forget()
    assert latency.read(0.0) == 0.0
    latency.observe(0.002, 0.1)
    assert latency.read(0.1) == 0.002
