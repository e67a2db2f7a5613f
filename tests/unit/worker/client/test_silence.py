"""app.worker.client.silence: a client that is slow is waited for, one that is silent is not."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from app.worker.client.silence import Silence
from app.worker.net.deadlines import NEVER, Deadline, deadlines


@pytest.fixture(name="deadline")
def _deadline() -> Iterator[Deadline]:
    made = gevent.spawn(Deadline).get()
    deadlines.now = 100.0
    yield made
    assert made.at == NEVER


def end_of(silence: Silence, deadline: Deadline, until: float = 200.0) -> float:
    """When the wait is over, looked at as the timer does."""
    while deadline.at < until:
        assert deadline.outlast is not None
        later = deadline.outlast(deadline.at)
        if later <= deadline.at:
            return deadline.at
        deadline.at = later
    return until


@pytest.mark.parametrize("seconds", [0.4, 1.0, 10.0, 60.0])
def test_who_takes_nothing_has_so_long(deadline: Deadline, seconds: float) -> None:
    """From the beginning of the wait, not from the first look."""
    silence = Silence(lambda: 7, seconds)
    was = silence.begin(deadline)
    assert end_of(silence, deadline) == pytest.approx(100.0 + seconds)
    silence.end(deadline, was)


def test_a_byte_now_and_then_is_progress(deadline: Deadline) -> None:
    """Whatever the size of what is to be sent; from the last one on the time counts."""
    silence = Silence(lambda: int(min(deadline.at, 150.0) / 8), 10.0)
    was = silence.begin(deadline)
    assert 154.0 <= end_of(silence, deadline) <= 161.0
    silence.end(deadline, was)


def test_one_wait_s_end_is_not_the_next_one_s(deadline: Deadline) -> None:
    """What moves in between begins anew; what was to be asked before is asked again after."""
    deadline.outlast = before = lambda now: 0.0
    silence = Silence(lambda: 7, 10.0)
    was = silence.begin(deadline)
    deadlines.now = 109.0
    silence.moved(deadline)
    assert end_of(silence, deadline) == 119.0
    silence.end(deadline, was)
    assert deadline.outlast is before
