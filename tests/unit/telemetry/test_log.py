"""Events, and the schema that all lines are held against."""

from __future__ import annotations

import jsonschema

from app.telemetry import log
from app.telemetry.access_log import AccessLog
from tests.unit.telemetry.log_lines import (
    ACCESS,
    SCHEMA,
    Lines,
)


def test_the_schema_is_a_schema() -> None:
    """The published file itself is valid draft 2020-12."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_access_lines_wait_for_a_flush_and_events_do_not(lines: Lines) -> None:
    """Requests are many and batched; events are few and leave at once, behind what waits."""
    AccessLog(log.stdout()).write(ACCESS)
    assert lines.take() == []
    log.event("config", "info", "reloaded", servers=3)
    access, event = lines.take()
    assert access["logger"] == "access"
    assert {**event, "timestamp": 0} == {
        "timestamp": 0,
        "level": "info",
        "logger": "config",
        "message": "reloaded",
        "servers": 3,
    }


def test_events_below_the_level_are_left_out(lines: Lines) -> None:
    """The configured level holds for events too."""
    log.set_level("warning")
    log.event("a", "info", "no")
    log.event("a", "warning", "yes")
    log.set_level("debug")
    log.event("a", "debug", "yes")
    assert [line["message"] for line in lines.take()] == ["yes", "yes"]


def test_a_health_change_matches_its_form(lines: Lines) -> None:
    """The line that the checker writes for a change is the schema's health line."""
    log.event(
        "health", "warning", "backend is unhealthy", backend="[::1]:8001", reason="connect_failed"
    )
    (line,) = lines.take()
    assert jsonschema.Draft202012Validator(
        {**SCHEMA, "oneOf": [{"$ref": "#/$defs/health"}]}
    ).is_valid(line)
