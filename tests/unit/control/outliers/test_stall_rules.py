"""The rule of stall detection: when silence is a stall."""

from __future__ import annotations

from app.control.outliers.stall_rules import (
    TIMES_UNCONFIRMED,
    Silence,
    check_limit_ms,
    limit_ms,
    together,
)


def test_an_answer_to_any_worker_ends_the_silence() -> None:
    """Whoever waits for however long."""
    one = Silence(waiting=5, oldest_ms=1_000, heard_ms=900, usual_ms=20)
    two = Silence(waiting=0, oldest_ms=0, heard_ms=4_990, usual_ms=70)
    assert together([one]).lasts_ms(5_000) == 4_000
    assert together([one, two]) == Silence(5, 1_000, 4_990, 70)
    assert together([one, two]).lasts_ms(5_000) == 10


def test_where_nobody_waits_there_is_no_silence() -> None:
    """A server that is asked nothing says nothing."""
    assert Silence(heard_ms=1).lasts_ms(10**9) == 0
    assert together([]) == Silence()


def test_the_limit_goes_by_what_is_usual() -> None:
    """At least what is configured, well beyond the slowest answer, nothing while that is unknown."""
    assert limit_ms(5, 0, 0.3, can_ask=True) == 300
    assert limit_ms(1_000, 0, 0.3, can_ask=True) == 4_000
    assert limit_ms(5, 0, 0.3, can_ask=False) == 300 * TIMES_UNCONFIRMED
    assert limit_ms(0, 500, 0.3, can_ask=True) == 0


def test_a_known_pause_is_waited_out() -> None:
    """Where nothing confirms a stall the limit is that long in any case."""
    assert limit_ms(5, 500, 0.3, can_ask=True) == 1_000
    assert limit_ms(5, 400, 0.3, can_ask=False) == 900


def test_checks_go_by_what_is_usual_for_them() -> None:
    """Half of the limit at least."""
    assert check_limit_ms(300, 2.0) == 150
    assert check_limit_ms(300, 200.0) == 800
