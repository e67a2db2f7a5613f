"""What a process has of its master."""

from __future__ import annotations

from app.shared import inherited


def test_there_is_nothing_to_inherit_without_gunicorn() -> None:
    assert inherited.inheritance() is None
