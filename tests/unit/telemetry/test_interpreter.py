"""Printed text as lines. What interpreters report as they end: tests/integration/test_interpreter.py."""

from __future__ import annotations

from app.telemetry.interpreter import LineWriter
from tests.unit.telemetry.log_lines import (
    Lines,
)


def test_printed_text_becomes_lines(lines: Lines) -> None:
    """Each printed line is one event, whatever pieces it is printed in; empty ones are left out."""
    writer = LineWriter("stderr", "error", 2)
    print("Error:", 'a "quoted"', "\n\n second", file=writer)
    print("no end", end="", file=writer)
    assert [line["message"] for line in lines.take()] == ['Error: a "quoted" ', " second"]
    writer.flush()
    assert [line["message"] for line in lines.take()] == ["no end"]
    assert writer.fileno() == 2
    assert not writer.isatty()


def test_text_without_an_end_is_not_kept_for_ever(lines: Lines) -> None:
    """A progress bar that never prints a newline cannot grow the process."""
    writer = LineWriter("stdout", "info", 1)
    for _ in range(100):
        writer.write("." * 100)
    assert len(lines.take()) == 2
