"""How soon a server is checked when it is checked soon."""

from __future__ import annotations

import pytest

from app.shared.check_pace import FAST_CHECKS_PER_SECOND, fast_pause


@pytest.mark.parametrize(
    ("fast", "crowd", "expected"),
    [
        (0.5, 1, 0.5),
        (0.5, 4 * FAST_CHECKS_PER_SECOND, 4.0),  # all together no more often than that
        (0.5, 10**6, 5.0),
        (60.0, 1, 5.0),
    ],
)
def test_never_later_than_an_interval(fast: float, crowd: int, expected: float) -> None:
    """Of 5 s."""
    assert fast_pause(5.0, fast, crowd) == expected
