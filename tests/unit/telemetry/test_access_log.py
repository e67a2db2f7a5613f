"""Access lines: whatever a client sent, one valid line for each request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry import access_log
from app.telemetry.access_log import AccessLog
from app.telemetry.json_line import LINE_MAX_BYTES
from tests.unit.telemetry.log_lines import (
    ACCESS,
    VALIDATOR,
    access_line,
)

TEXT_FIELDS = ["client_ip", "method", "host", "target", "protocol", "backend", "user_agent"]


@pytest.mark.parametrize("key", ["timestamp", *ACCESS])
def test_the_schema_misses_each_field(key: str) -> None:
    """An access line without one of its fields is refused."""
    line = access_line(ACCESS)
    del line[key]
    assert not VALIDATOR.is_valid(line)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "200"},
        {"backend": 1},
        {"reason": "Not a slug"},
        {"duration_ms": None},
        {"bytes_out": -1},
        {"extra": 1},
        {"level": "INFO"},
        {"timestamp": "2026-01-02T03:04:05Z"},
        {"logger": "health", "reason": None},
    ],
)
def test_the_schema_refuses_wrong_values(change: dict[str, Any]) -> None:
    """Types, ranges, slugs and unknown fields of an access line are held by the schema."""
    assert not VALIDATOR.is_valid({**access_line(ACCESS), **change})


def test_an_access_line_has_the_record_behind_its_head() -> None:
    """The fields arrive typed, in their order, behind the four that every line begins with."""
    line = access_line(ACCESS)
    assert list(line) == ["timestamp", "level", "logger", "message", *ACCESS]
    assert {key: line[key] for key in ACCESS} == ACCESS
    assert (line["level"], line["logger"], line["message"]) == ("info", "access", "request")


@given(
    st.dictionaries(
        st.sampled_from(TEXT_FIELDS), st.text(st.characters(codec="utf-8"), max_size=60)
    )
)
def test_no_text_of_a_client_breaks_a_line(fields: dict[str, str]) -> None:
    """Any text in any field is read back as it was, and no other field changes."""
    line = access_line({**ACCESS, **fields})
    assert {key: line[key] for key in ACCESS} == {**ACCESS, **fields}


@given(st.binary(max_size=400))
def test_any_bytes_of_a_header_are_kept(raw: bytes) -> None:
    """A header's bytes, read as latin-1, survive every control character among them."""
    assert (
        access_line({**ACCESS, "user_agent": raw.decode("latin-1")})["user_agent"].encode("latin-1")
        == raw
    )


@pytest.mark.parametrize("size", [*range(3590, 3720), 5000, 70_000])
def test_a_long_access_line_is_cut_but_complete(size: int) -> None:
    """Around and past the limit every field is still there; only the long one is cut."""
    line = access_line({**ACCESS, "target": "/" + "t" * size})
    assert {**line, "timestamp": 0, "target": 0} == {
        "timestamp": 0,
        "level": "info",
        "logger": "access",
        "message": "request",
        **ACCESS,
        "target": 0,
    }
    assert line["target"] == "/" + "t" * size or line["target"].endswith("…")


def test_an_access_line_that_just_fits_is_not_cut() -> None:
    """The fast path uses the line up to its last byte."""
    room = LINE_MAX_BYTES - len(json.dumps(access_line(ACCESS), separators=(",", ":"))) - 1
    agent = ACCESS["user_agent"] + "x" * room
    assert access_line({**ACCESS, "user_agent": agent})["user_agent"] == agent
    assert access_line({**ACCESS, "user_agent": agent + "x"})["user_agent"].endswith("…")


def test_a_surrogate_in_a_record_does_not_raise() -> None:
    """orjson refuses a lone surrogate; the line is written all the same."""
    assert access_line({**ACCESS, "user_agent": "a\udcffb"})["user_agent"] == "a\ufffdb"


def test_an_empty_record_is_still_json() -> None:
    """The spliced head never leaves a comma before the brace."""
    written: list[bytes] = []
    sink = type("Catch", (), {"write": lambda self, line: written.append(line)})()
    AccessLog(sink).write({})
    assert json.loads(written[0])["logger"] == "access"


def test_the_timestamp_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new head for each millisecond, and when the clock is set back."""
    written: list[bytes] = []
    sink = type("Catch", (), {"write": lambda self, line: written.append(line)})()
    access = AccessLog(sink)
    stamps = []
    for now in [1000.0, 1000.0004, 1000.0021, 1000.9999, 1001.0, 12.5]:
        monkeypatch.setattr(access_log, "_time", lambda now=now: now)
        access.write(ACCESS)
        stamps.append(json.loads(written[-1])["timestamp"][14:])
    assert stamps == [
        "16:40.000Z",
        "16:40.000Z",
        "16:40.002Z",
        "16:40.999Z",
        "16:41.000Z",
        "00:12.500Z",
    ]
