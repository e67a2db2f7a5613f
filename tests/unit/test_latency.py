"""The moving average of a backend's latency."""

from __future__ import annotations

import pytest

from app.latency import DECAY_SECONDS, Latency


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
    for second in range(1, 60):
        latency.observe(0.01, second)
    assert latency.read(59.0) == pytest.approx(0.01, rel=0.5)


def test_it_decays_while_nothing_comes() -> None:
    """To a third in one decay time: a backend that was slow once is tried again."""
    latency = Latency()
    latency.observe(1.0, 5.0)
    assert latency.read(5.0 + DECAY_SECONDS) == pytest.approx(0.3679, rel=1e-3)
    assert latency.read(5.0 + 10 * DECAY_SECONDS) < 1e-4


def test_after_a_long_rest_the_first_answer_is_the_average() -> None:
    """What was before has no weight any more."""
    latency = Latency()
    latency.observe(1.0, 0.0)
    latency.observe(0.002, 1000.0)
    assert latency.read(1000.0) == pytest.approx(0.002)
