"""app.worker.client.linger: the end of a connection whose client may still be sending."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest
from fakes.stream import END, RESET, SILENCE, ScriptedStream, Turn

from app.worker.client.linger import LINGER_BYTES, LINGER_SECONDS, linger
from app.worker.net.deadlines import NEVER, Deadline


def lingered(*script: Turn) -> tuple[ScriptedStream, Deadline]:
    stream, deadline = ScriptedStream(script), Deadline()
    anything: Any = stream
    linger(anything, deadline)
    assert stream.did == ["shutdown_write"], "closing it is the caller's"
    assert deadline.at == NEVER
    return stream, deadline


@pytest.mark.parametrize("last", [END, RESET, SILENCE])
def test_what_still_comes_is_read_until_the_client_ends(last: Turn) -> None:
    """However it does, or until the time is over."""
    stream, _ = lingered(b"more", b"and more", last)
    assert not stream.has_more


def test_there_is_a_bound_to_what_is_read() -> None:
    """A client that sends on and on is not read for ever."""
    pieces = [b"x" * (1 << 20)] * 10
    stream, _ = lingered(*pieces)
    assert sum(map(len, stream._script)) == sum(map(len, pieces)) - LINGER_BYTES


def test_there_is_one_deadline_for_all_of_it() -> None:
    """A byte now and then puts nothing off."""
    seen: list[float] = []
    deadline = Deadline()
    script: list[Any] = [lambda: seen.append(deadline.at), b"x"] * 3
    stream: Any = ScriptedStream([*script, END])
    linger(stream, deadline)
    assert len(set(seen)) == 1
    assert seen[0] == pytest.approx(monotonic() + LINGER_SECONDS, abs=0.5)
