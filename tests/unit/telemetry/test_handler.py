"""Records of the logging module as lines."""

from __future__ import annotations

import logging
import os

import pytest

from app.telemetry.handler import JsonFormatter, StdoutHandler
from tests.unit.telemetry.log_lines import (
    Lines,
    parse,
)


@pytest.fixture
def logger(lines: Lines) -> logging.Logger:
    """A logger outside of the tree, where pytest's own handlers do not see its records."""
    logger = logging.Logger("some.library")  # noqa: LOG001
    logger.addHandler(StdoutHandler())
    return logger


def test_a_log_record_has_our_field_names(logger: logging.Logger, lines: Lines) -> None:
    """Level in small letters, pid, extras at the end; none of logging's own attributes."""
    logger.warning("hello %s", "world", extra={"answer": 42})
    (line,) = lines.take()
    assert line.pop("timestamp")
    assert line == {
        "level": "warning",
        "logger": "some.library",
        "message": "hello world",
        "pid": os.getpid(),
        "answer": 42,
    }


def test_an_extra_cannot_forge_a_field(logger: logging.Logger, lines: Lines) -> None:
    """The first fields are the record's own, whatever the extras are called."""
    logger.warning(
        "m", extra={"level": "debug", "logger": "access", "timestamp": "never", "pid": 1}
    )
    (line,) = lines.take()
    assert (line["level"], line["logger"], line["pid"]) == ("warning", "some.library", os.getpid())


def test_an_exception_is_one_field(logger: logging.Logger, lines: Lines) -> None:
    """A traceback of many lines stays in one line of the log."""
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        logger.exception("failed", stack_info=True)
    (line,) = lines.take()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: bad\nvalue")
    assert line["stack"].startswith("Stack")
    assert "exc_info" not in line


def test_no_exception_no_field(logger: logging.Logger, lines: Lines) -> None:
    """exc_info=True outside of a handler does not log logging's placeholder."""
    logger.error("failed", exc_info=True)  # noqa: LOG014 - that is the case
    assert "exception" not in lines.take()[0]


def test_a_dict_as_message_becomes_fields(logger: logging.Logger, lines: Lines) -> None:
    """python-json-logger's habit: a dict is fields, its message the message."""
    logger.info({"message": "m", "a": 1})
    (line,) = lines.take()
    assert (line["message"], line["a"]) == ("m", 1)


def test_a_record_that_cannot_be_formatted_is_reported(
    logger: logging.Logger, lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wrong arguments give a line, not logging's text on stderr."""
    logger.warning("%d apples", "no")
    (line,) = lines.take()
    assert line["logger"] == "log"
    assert line["template"] == "%d apples"
    assert "test_handler.py:" in line["source"]
    assert capfd.readouterr() == ("", "")


def test_the_formatter_is_python_json_loggers() -> None:
    """Users' logging configurations can name our formatter and get the same lines."""
    record = logging.LogRecord("n", logging.INFO, __file__, 1, "m", None, None)
    (line,) = parse(JsonFormatter().format(record).encode() + b"\n")
    assert line["message"] == "m"
