"""A table for each test, and children that live as long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from app.shared.table import Table


@pytest.fixture
def table() -> Table:
    return Table.create(rows=8, slots=4, blob_bytes=100)


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Runs a function in a forked child, which lives until the test ends."""
    children: list[tuple[int, int]] = []

    def fork(function: Callable[[], None]) -> int:
        done_r, done_w = os.pipe()
        end_r, end_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(end_w)
            function()
            os.write(done_w, b"1")
            os.read(end_r, 1)
            os._exit(0)
        os.close(end_r)
        os.close(done_w)
        assert os.read(done_r, 1) == b"1"
        os.close(done_r)
        children.append((pid, end_w))
        return pid

    yield fork
    for pid, end in children:
        os.close(end)
        os.waitpid(pid, 0)
