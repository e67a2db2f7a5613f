"""What becomes a log line: access records, events, and all that Python, gunicorn and gevent report.

Runs in every process. Each line on stdout is one JSON object that begins with ``timestamp``, ``level``,
``logger`` and ``message`` (docs/logs.md, docs/log-schema.json). How a line is written down belongs to
``app.telemetry.json_line``; when and where it is written, without ever blocking, to ``app.telemetry.sink``.

Imported by the unpatched master: no gevent, no requests, no thread at import. ``install_gevent`` is for
processes that have gevent already. Nothing here raises: a log that fails must not fail a request.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from gunicorn import glogging
from gunicorn.http.errors import NoMoreData, ParseException
from pythonjsonlogger.core import BaseJsonFormatter

from app.telemetry.json_line import LINE_MAX_BYTES, encode, encode_slowly, timestamp
from app.telemetry.redact import redactor, without_quotes
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
_redact: Callable[[str], str] | None = None


def stdout() -> Sink:
    """The way to stdout of this process; flushed for up to a second when the process exits."""
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
    """Lines below ``level`` are not written; access lines always are."""
    global _threshold
    _threshold = LEVELS.get(level.lower(), logging.INFO)


def set_redact(names: Iterable[str]) -> None:
    """Values of these query parameters are hidden in what gunicorn says about requests."""
    global _redact
    _redact = redactor(names)


def event(logger: str, level: str, message: str, **fields: object) -> None:
    """One line, flushed at once: for what happens rarely. A field without a value is None."""
    if LEVELS.get(level, logging.INFO) < _threshold:
        return
    now = timestamp(int(time.time() * 1000))
    record = {"timestamp": now, "level": level, "logger": logger, "message": message, **fields}
    sink = stdout()
    sink.write(encode(record))
    sink.flush()


class AccessLog:
    """Access lines into a sink, which flushes at 16 KiB; the caller flushes it every 100 ms.

    ``record`` holds the fields of an access line in their order, none of the first four. The head of
    the line is made once a millisecond and put in front of the encoded record: a second dict with all
    fields would cost more than the whole write. A record of 416 bytes: 0.87 µs on Python 3.11 with its share
    of the flush, 0.30 of them orjson; through logging and python-json-logger 17 µs.
    """

    __slots__ = ("_head", "_since", "_stamp", "_until", "_write")

    def __init__(self, sink: Sink) -> None:
        self._write = sink.write
        self._stamp = ""
        self._head = b""
        self._since = self._until = 0.0

    def write(self, record: Mapping[str, Any]) -> None:
        """Buffer one access line."""
        now = _time()
        if not self._since <= now < self._until:
            self._begin(now)
        try:
            body = _dumps(record, None, _NEWLINE)
        except TypeError:
            body = b""
        # More than the newline and the braces, and in the limit; ASCII: see app.telemetry.json_line.
        if 3 < len(body) <= _ACCESS_BODY_MAX and body.isascii():
            self._write(self._head + body[1:])
        else:
            self._write(encode_slowly({"timestamp": self._stamp, **_ACCESS, **record}))

    def _begin(self, now: float) -> None:
        """The head of all lines of this millisecond; also when the clock was set back."""
        milliseconds = int(now * 1000)
        self._since, self._until = milliseconds / 1000, (milliseconds + 1) / 1000
        self._stamp = timestamp(milliseconds)
        self._head = _access_head(self._stamp)


_ACCESS = {"level": "info", "logger": "access", "message": "request"}


def _access_head(stamp: str) -> bytes:
    return orjson.dumps({"timestamp": stamp, **_ACCESS})[:-1] + b","


# Bound here once: a global costs half of what an attribute of a module does.
_time = time.time
_dumps = orjson.dumps
_NEWLINE = orjson.OPT_APPEND_NEWLINE
_ACCESS_BODY_MAX = LINE_MAX_BYTES - len(_access_head(timestamp(0))) + 1


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


def install(level: str) -> None:
    """Everything that Python reports becomes JSON lines on stdout; safe to call again.

    ``sys.stdout`` and ``sys.stderr`` are replaced too, since gunicorn prints its fatal errors and
    libraries print what they like. File descriptor 2 stays what it is: a crash of the interpreter and
    faulthandler still write there.
    """
    set_level(level)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, StdoutHandler):
            root.removeHandler(handler)
    root.addHandler(StdoutHandler())
    root.setLevel(_threshold)
    # Not logging.captureWarnings: its text carries a newline and the source line of whoever warned.
    warnings.showwarning = _showwarning
    sys.excepthook = _excepthook
    sys.unraisablehook = _unraisablehook
    threading.excepthook = _thread_excepthook
    if not isinstance(sys.stdout, LineWriter):
        _flush(sys.stdout)
        _flush(sys.stderr)
        sys.stdout = LineWriter("stdout", "info", 1)
        sys.stderr = LineWriter("stderr", "error", 2)


def uncaught(logger: str, message: str, error: BaseException) -> None:
    """Log what nobody foresaw, with its traceback, where it is caught so that the rest goes on."""
    _report(logger, "error", message, type(error), error, error.__traceback__)


def install_gevent() -> None:
    """Uncaught exceptions of greenlets become JSON lines too; call it after gevent's patching."""
    from gevent.hub import Hub

    # On the class: threads of gevent's pool have hubs of their own, made later. Hub.handle_error has
    # left out GreenletExit and SystemExit when it calls this.
    Hub.print_exception = _print_exception


class LineWriter(io.TextIOBase):
    """A text stream that turns each line printed to it into an event."""

    def __init__(self, logger: str, level: str, fd: int) -> None:
        super().__init__()
        self._logger = logger
        self._level = level
        self._fd = fd
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        """The real descriptor: gunicorn and faulthandler want to dup it or write to it."""
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > _TEXT_MAX_CHARS:
            self.flush()
        return len(text)

    def flush(self) -> None:
        rest, self._rest = self._rest, ""
        self._emit(rest)

    def _emit(self, line: str) -> None:
        if line.strip():
            event(self._logger, self._level, line)


# print() that never ends its line: it becomes a line of the log at this length.
_TEXT_MAX_CHARS = 4096


def _flush(stream: TextIO | None) -> None:
    """Text left in the old stream would be inherited, and written once more by each child."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        pass


def _showwarning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the warnings module's signature
    line: str | None = None,  # noqa: ARG001
) -> None:
    event(
        "py.warnings",
        "warning",
        str(message),
        category=category.__name__,
        source=f"{filename}:{lineno}",
    )


def _excepthook(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _report("python", "critical", "uncaught exception", kind, value, trace)


def _unraisablehook(args: sys.UnraisableHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):  # gunicorn ends a worker by it, wherever that is
        return
    message = args.err_msg or "exception ignored in"
    where = "" if args.object is None else f": {_repr(args.object)}"
    _report("python", "error", message + where, args.exc_type, args.exc_value, args.exc_traceback)


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "?"
        message = f"uncaught exception in thread {name}"
        _report("python", "error", message, args.exc_type, args.exc_value, args.exc_traceback)


def _print_exception(
    hub: Any, context: object, kind: Any, value: Any, trace: TracebackType | None
) -> None:
    """Takes the place of gevent's Hub.print_exception, same signature."""
    kind, value, trace = hub._normalize_exception(kind, value, trace)
    if issubclass(kind, KeyboardInterrupt):
        return
    where = "the event loop" if context is None else _repr(context)
    _report("gevent", "error", f"uncaught exception in {where}", kind, value, trace)


def _report(
    logger: str,
    level: str,
    message: str,
    kind: type[BaseException],
    value: BaseException | None,
    trace: TracebackType | None,
) -> None:
    try:
        text = "".join(traceback.format_exception(kind, value, trace)).rstrip()
    except Exception:  # noqa: BLE001 - a broken __str__ or __cause__ must not lose the report
        text = kind.__name__
    event(logger, level, message, exception=text)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __repr__ raises
        return f"<{type(value).__name__}>"
