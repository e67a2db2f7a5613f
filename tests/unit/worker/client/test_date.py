"""app.worker.client.date: the Date of answers that have none."""

from __future__ import annotations

import pytest

from app.worker.client import date


def test_it_is_written_as_rfc_9110_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """§5.6.7; as a line and as a value, and anew when a second is over."""
    now = [784111777.9]
    monkeypatch.setattr(date, "time", lambda: now[0])
    assert date.date_value() == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert date.date_line() == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now[0] += 0.2
    assert date.date_line() == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
