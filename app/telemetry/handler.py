"""Records of the logging module as our lines: what libraries say, and what gunicorn says.

Runs in every process, wherever a library logs. Must never raise: a record that cannot be formatted becomes a
line that says so.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from pythonjsonlogger.core import BaseJsonFormatter

from app.telemetry.json_line import encode, timestamp
from app.telemetry.log import event, stdout


class JsonFormatter(BaseJsonFormatter):
    """Records of the logging module with our field names; extras follow."""

    def __init__(self) -> None:
        super().__init__(rename_fields={"exc_info": "exception", "stack_info": "stack"})

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        message = record.message or message_dict.pop("message", "")
        first = {
            "timestamp": timestamp(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "pid": record.process,
        }
        log_data.update(first)
        super().add_fields(log_data, record, message_dict)
        # An extra of the same name must not forge one of these.
        log_data.update(first)
        if log_data.get("exception") == _NO_EXCEPTION:
            del log_data["exception"]

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        return encode(log_data).decode("ascii").rstrip("\n")


# What logging makes of exc_info=True where no exception is being handled.
_NO_EXCEPTION = "NoneType: None"


class StdoutHandler(logging.Handler):
    """Log records to the sink, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - arguments that do not fit, a broken __str__: log that
            event(
                "log",
                "error",
                "log record cannot be formatted",
                source=f"{record.pathname}:{record.lineno}",
                template=str(record.msg),
                exception=traceback.format_exc(),
            )
            return
        sink = stdout()
        sink.write(line.encode("ascii") + b"\n")
        sink.flush()
