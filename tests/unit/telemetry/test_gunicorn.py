"""What gunicorn logs, where, and how often."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gunicorn.config import Config

from app.telemetry import log
from app.telemetry.gunicorn import Logger
from app.telemetry.handler import StdoutHandler
from tests.unit.telemetry.log_lines import (
    Lines,
    parse,
)


def gunicorn_config(**settings: Any) -> Config:
    config = Config()
    for key, value in settings.items():
        config.set(key, value)
    return config


def test_gunicorn_logs_through_our_handler_once(lines: Lines, restored: None) -> None:
    """Start and two reloads leave one handler, with the last level."""
    logger = Logger(gunicorn_config(loglevel="info"))
    logger.setup(gunicorn_config(loglevel="info"))
    logger.setup(gunicorn_config(loglevel="debug"))
    logger.debug("Booting worker with pid: %s", 7)
    logger.reopen_files()
    logger.close_on_exec()
    (line,) = lines.take()
    assert (line["logger"], line["level"]) == ("gunicorn.error", "debug")
    assert line["message"] == "Booting worker with pid: 7"
    assert sum(isinstance(handler, StdoutHandler) for handler in logging.getLogger().handlers) == 1
    log.event("x", "debug", "the level holds for events too")
    logging.getLogger("some.library").debug("and for the root logger")
    assert len(lines.take()) == 2


def test_gunicorns_own_access_log_stays_off(lines: Lines, restored: None) -> None:
    """Even when it is configured: its lines are no JSON and its writes may block."""
    logger = Logger(gunicorn_config(accesslog="-"))
    assert not logger.access_log_enabled
    logger.access(None, None, None, None)
    assert lines.take() == []


def test_gunicorns_log_file_gets_json_too(lines: Lines, restored: None, tmp_path: Path) -> None:
    """With errorlog set to a file the same lines go there, and USR1 reopens it."""
    path = tmp_path / "error.log"
    logger = Logger(gunicorn_config(errorlog=str(path)))
    logger.error("one")
    path.rename(tmp_path / "error.log.1")
    logger.reopen_files()
    logger.error("two")
    for handler in list(logger.error_log.handlers):
        handler.close()
    assert [line["message"] for line in parse((tmp_path / "error.log.1").read_bytes())] == ["one"]
    assert [line["message"] for line in parse(path.read_bytes())] == ["two"]
    assert lines.take() == []
