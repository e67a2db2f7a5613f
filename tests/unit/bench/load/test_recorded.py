"""The load of the scenarios, as far as it is data."""

from __future__ import annotations

from pathlib import Path

from bench.load import recorded


def test_one_request_in_ten_is_a_post() -> None:
    """Each has its moment; moments and methods are the same for every candidate."""
    dues, posts = recorded.requests(400, 40)
    assert (dues, posts) == recorded.requests(400, 40)
    assert len(dues) == len(posts) == 16000
    assert abs(sum(posts) - 1600) < 100


def test_the_command_keeps_the_moment_to_the_last_digit() -> None:
    """It is on the monotonic clock, of which a rounded second would be another."""
    start = 12345.678901234567
    words = recorded.command(8080, 400.0, 40.0, start, Path("out.json"))
    assert float(words[-2]) == start
    assert words[1:4] == ("-m", "bench.load.recorded", "8080")
