"""Events as log lines, and this process's one way to stdout.

Runs in every process. Each line on stdout is one JSON object that begins with ``timestamp``, ``level``,
``logger`` and ``message`` (docs/logs.md, docs/log-schema.json). Access lines are app.telemetry.access_log's;
what Python, gevent and gunicorn report comes through app.telemetry.interpreter, .handler and .gunicorn. How a
line is written down belongs to ``app.telemetry.json_line``; when and where, without ever blocking, to
``app.telemetry.sink``.

Imported by the unpatched master: no gevent, no gunicorn, no thread at import. Nothing here raises: a log that
fails must not fail a request.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import traceback
from typing import TYPE_CHECKING

from app.telemetry.json_line import encode, timestamp
from app.telemetry.sink import Sink

if TYPE_CHECKING:
    from types import TracebackType

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
STDOUT_FD = 1

_threshold = logging.INFO
_sink: Sink | None = None


def stdout() -> Sink:
    """The sink for stdout of this process; flushed for up to a second when the process exits."""
    global _sink
    if _sink is None:
        _sink = Sink(STDOUT_FD)
        atexit.register(_sink.drain)
    return _sink


def after_fork() -> None:
    """In a child: leave to the parent what it had not written yet. Runs by itself after os.fork."""
    if _sink is not None:
        _sink.after_fork()


os.register_at_fork(after_in_child=after_fork)


def set_level(level: str) -> None:
    """From now on, events below ``level`` are not written; access lines always are."""
    global _threshold
    _threshold = LEVELS.get(level.lower(), logging.INFO)


def threshold() -> int:
    """The level below which lines are not written, as a number of the logging module."""
    return _threshold


def event(logger: str, level: str, message: str, **fields: object) -> None:
    """Write one line and flush: for what happens rarely. A field that has no value is given as None."""
    if LEVELS.get(level, logging.INFO) < _threshold:
        return
    now = timestamp(int(time.time() * 1000))
    record = {"timestamp": now, "level": level, "logger": logger, "message": message, **fields}
    sink = stdout()
    sink.write(encode(record))
    sink.flush()


def uncaught(logger: str, message: str, error: BaseException) -> None:
    """Log what nobody foresaw, with its traceback, where it is caught so that the rest goes on."""
    report(logger, "error", message, type(error), error, error.__traceback__)


def report(
    logger: str,
    level: str,
    message: str,
    kind: type[BaseException],
    value: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """One event with an exception and its traceback, as ``sys.excepthook`` gets them."""
    try:
        text = "".join(traceback.format_exception(kind, value, trace)).rstrip()
    except Exception:  # noqa: BLE001 - a broken __str__ or __cause__ must not lose the report
        text = kind.__name__
    event(logger, level, message, exception=text)
