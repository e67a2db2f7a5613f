"""What Python and gevent report by themselves, as our lines: exceptions nobody caught, warnings, printed
text.

Owns the hooks of the interpreter that this takes, and the streams in the place of ``sys.stdout`` and
``sys.stderr``. Runs in every process; ``install_gevent`` is for processes that have gevent already.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from app.telemetry.handler import StdoutHandler
from app.telemetry.log import event, report, set_level, threshold

if TYPE_CHECKING:
    from types import TracebackType


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
    root.setLevel(threshold())
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
        report("python", "critical", "uncaught exception", kind, value, trace)


def _unraisablehook(args: sys.UnraisableHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):  # gunicorn ends a worker by it, wherever that is
        return
    message = args.err_msg or "exception ignored in"
    where = "" if args.object is None else f": {_repr(args.object)}"
    report("python", "error", message + where, args.exc_type, args.exc_value, args.exc_traceback)


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "?"
        message = f"uncaught exception in thread {name}"
        report("python", "error", message, args.exc_type, args.exc_value, args.exc_traceback)


def _print_exception(
    hub: Any, context: object, kind: Any, value: Any, trace: TracebackType | None
) -> None:
    """Takes the place of gevent's Hub.print_exception, same signature."""
    kind, value, trace = hub._normalize_exception(kind, value, trace)
    if issubclass(kind, KeyboardInterrupt):
        return
    where = "the event loop" if context is None else _repr(context)
    report("gevent", "error", f"uncaught exception in {where}", kind, value, trace)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __repr__ raises
        return f"<{type(value).__name__}>"
