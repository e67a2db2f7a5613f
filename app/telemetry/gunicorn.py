"""What gunicorn says, as our lines and without what clients sent.

Owns gunicorn's ``logger_class``, made in the master at start and set up again at every reload, and the
redaction of its messages: at debug level it quotes whole request heads. Runs in the master and in workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import glogging
from gunicorn.http.errors import NoMoreData, ParseException

from app.telemetry.handler import JsonFormatter, StdoutHandler
from app.telemetry.interpreter import install
from app.telemetry.log import stdout
from app.telemetry.redact import redactor, without_quotes

_redact: Callable[[str], str] | None = None


def set_redact(names: Iterable[str]) -> None:
    """Values of these query parameters are hidden in what gunicorn says about requests."""
    global _redact
    _redact = redactor(names)


class RedactFilter(logging.Filter):
    """Takes out of gunicorn's messages what clients sent: at debug level they quote whole heads."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and record.msg.startswith("Invalid request"):
            record.msg = without_quotes(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_discreet, record.args))
        return True


def _discreet(argument: object) -> object:
    if isinstance(argument, (ParseException, NoMoreData)):
        return without_quotes(str(argument))
    if _redact is not None and isinstance(argument, str) and "?" in argument:
        return _redact(argument)
    return argument


_DISCRETION = RedactFilter()


class Logger(glogging.Logger):
    """gunicorn's ``logger_class``: what gunicorn says, as JSON lines on stdout.

    ``setup`` runs at start and at every reload in the master. gunicorn removes its former handlers by
    the ``_gunicorn`` mark, so they never pile up. Its access log stays off: it has one line format and
    runs where it can block.
    """

    def setup(self, cfg: Any) -> None:
        install(cfg.loglevel)
        super().setup(cfg)
        self.error_log.addFilter(_DISCRETION)
        stdout().refresh()

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Off: ``AccessLog`` writes the access lines."""

    def reopen_files(self) -> None:
        super().reopen_files()
        stdout().refresh()

    def _compute_access_log_enabled(self) -> bool:
        return False

    def _set_handler(self, log: logging.Logger, output: Any, fmt: Any, stream: Any = None) -> None:
        """As gunicorn's, but ``-`` is our sink and a file gets the same JSON lines."""
        super()._set_handler(log, None if output == "-" else output, JsonFormatter(), stream)
        if output == "-":
            handler = StdoutHandler()
            handler._gunicorn = True  # type: ignore[attr-defined]
            log.addHandler(handler)
