"""When a second attempt begins: the percentile, and for which requests. The races are integration tests."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from app.worker.proxy.hedging import SAMPLES_KEPT, SAMPLES_LEAST, Hedger, percentile
from app.worker.upstream.adapter import Adapter


def hedger(after: float | str, has_other: bool = True) -> Hedger:
    pool: Any = SimpleNamespace(has_other=lambda _tried: has_other)
    nothing: Any = None
    return Hedger(after, pool, nothing, nothing)


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 51.0), (0.95, 96.0), (0.99, 100.0), (1.0, 100.0)]
)
def test_nearest_rank(share: float, value: float) -> None:
    """That share of the samples is below it."""
    assert percentile(deque(float(each) for each in range(100, 0, -1)), share) == value


def test_a_time_is_known_at_once() -> None:
    """And what answers take does not change it."""
    one = hedger(0.2)
    for _ in range(SAMPLES_LEAST):
        one.observe(9.0)
    one.tick()
    assert one.seconds == 0.2


def test_a_percentile_is_known_after_some_answers() -> None:
    """Until then nothing is hedged; later it follows the latest answers."""
    one = hedger("p95")
    for _ in range(SAMPLES_LEAST - 1):
        one.observe(1.0)
    one.tick()
    assert one.seconds < 0
    one.observe(1.0)
    one.tick()
    assert one.seconds == 1.0
    for _ in range(SAMPLES_KEPT):
        one.observe(2.0)
    one.tick()
    assert one.seconds == 2.0


def applies(
    method: bytes = b"GET",
    length: int = 0,
    is_last: bool = False,
    upgrade: bytes = b"",
    adapter: object = None,
    has_other: bool = True,
) -> bool:
    exchange: Any = SimpleNamespace(head=SimpleNamespace(method=method, length=length))
    request: Any = SimpleNamespace(
        is_last_attempt=is_last, upgrade=upgrade, adapter=adapter or Adapter()
    )
    course: Any = SimpleNamespace(tried=())
    return hedger(0.1, has_other).applies(exchange, course, request)


def test_for_which_requests() -> None:
    """Idempotent, without a body, no handshake, through our own adapter, with somebody else to ask."""
    assert applies()
    assert applies(method=b"DELETE")
    assert not applies(method=b"POST")
    assert not applies(method=b"PUT", length=1)
    assert not applies(method=b"PUT", length=-1)
    assert not applies(is_last=True)
    assert not applies(upgrade=b"websocket")
    assert not applies(adapter=object())
    assert not applies(has_other=False)
