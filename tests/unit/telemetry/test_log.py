"""Whatever happens in a process becomes valid lines on stdout, and nothing else does."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry import log
from app.telemetry.json_line import LINE_MAX_BYTES
from app.telemetry.log import AccessLog, JsonFormatter, LineWriter, Logger, StdoutHandler
from app.telemetry.sink import Sink

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "log-schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

ACCESS: dict[str, Any] = {
    "request_id": "01JD7ZK3V9Q4N8M2X5T6W7Y8A1",
    "client_ip": "203.0.113.7",
    "method": "GET",
    "host": "shop.example.com",
    "target": "/api/v1/items?page=2",
    "protocol": "HTTP/1.1",
    "status": 200,
    "backend": "127.0.0.1:8001",
    "attempts": [
        {
            "server": "127.0.0.1:8001",
            "connect_ms": 0.2,
            "first_byte_ms": 1.5,
            "status": 200,
            "reason": None,
        }
    ],
    "bytes_in": 0,
    "bytes_out": 1534,
    "duration_ms": 3.412,
    "connect_ms": None,
    "first_byte_ms": 3.1,
    "reason": None,
    "user_agent": "curl/8.9.1",
}
TEXT_FIELDS = ["client_ip", "method", "host", "target", "protocol", "backend", "user_agent"]


def parse(data: bytes) -> list[dict[str, Any]]:
    """All lines, each checked against the published schema."""
    assert data == b"" or data.endswith(b"\n")
    records = [json.loads(line) for line in data.split(b"\n")[:-1]]
    for record in records:
        VALIDATOR.validate(record)
        assert list(record)[:4] == ["timestamp", "level", "logger", "message"]
    return records


class Lines:
    """A file as this process's stdout."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.sink = Sink(self._fd)

    def take(self) -> list[dict[str, Any]]:
        """What was written since the last time, without flushing first."""
        return parse(os.read(self._fd, 1 << 24) if self._rewind() else b"")

    def close(self) -> None:
        os.close(self._fd)

    def _rewind(self) -> bool:
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        start, self._seen = getattr(self, "_seen", 0), end
        os.lseek(self._fd, start, os.SEEK_SET)
        return end > start


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What this process writes to its log, for one test."""
    captured = Lines(tmp_path / "stdout")
    monkeypatch.setattr(log, "_sink", captured.sink)
    monkeypatch.setattr(log, "_threshold", logging.INFO)
    yield captured
    captured.close()


def access_line(record: dict[str, Any]) -> dict[str, Any]:
    """One access record through an AccessLog, read back."""
    written: list[bytes] = []

    class Catch:
        def write(self, line: bytes) -> None:
            written.append(line)

    AccessLog(Catch()).write(record)  # type: ignore[arg-type]
    (line,) = written
    assert len(line) <= LINE_MAX_BYTES
    assert line.isascii()
    (parsed,) = parse(line)
    return parsed


def test_the_schema_is_a_schema() -> None:
    """The published file itself is valid draft 2020-12."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


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
        monkeypatch.setattr(log, "_time", lambda now=now: now)
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
    assert "test_log.py:" in line["source"]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def restored() -> Iterator[None]:
    """Leaves the process-wide hooks as they were."""
    import threading
    import warnings

    root = logging.getLogger()
    before = (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        warnings.showwarning,
        sys.stdout,
        sys.stderr,
        root.level,
        list(root.handlers),
    )
    yield
    (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        warnings.showwarning,
        sys.stdout,
        sys.stderr,
        root.level,
        root.handlers,
    ) = before
    for name in ("gunicorn.error", "gunicorn.access"):
        logging.getLogger(name).handlers.clear()


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


def run(code: str, *arguments: str) -> tuple[list[dict[str, Any]], str, int]:
    """A fresh process with everything installed: its log, its stderr, its status."""
    done = subprocess.run(
        [sys.executable, *arguments, "-c", f"{PRELUDE}{textwrap.dedent(code)}"],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return parse(done.stdout), done.stderr.decode(), done.returncode


PRELUDE = "import os, sys\nfrom app.telemetry import log\nlog.install('info')\n"


@pytest.mark.parametrize(
    ("code", "logger", "text"),
    [
        ("raise ValueError('x\\ny')", "python", "ValueError: x\ny"),
        (
            "import threading; threading.Thread(target=lambda: 1 / 0).start()",
            "python",
            "ZeroDivision",
        ),
        ("class A:\n def __del__(self): 1 / 0\nA()", "python", "ZeroDivision"),
        ("import warnings; warnings.warn('old')", "py.warnings", "old"),
        ("import logging; logging.getLogger('lib').error('from lib')", "lib", "from lib"),
        ("print('a\\nb')", "stdout", "a"),
        (
            "import traceback\ntry: 1/0\nexcept Exception: traceback.print_exc()",
            "stderr",
            "ZeroDivision",
        ),
        ("sys.exit('fatal')", "stderr", "fatal"),
        (
            "log.install_gevent(); import gevent; gevent.spawn(lambda: 1 / 0).join()",
            "gevent",
            "ZeroDivision",
        ),
        (
            "import gevent; log.install_gevent()\n"
            "gevent.get_hub().loop.run_callback(lambda: 1 / 0); gevent.sleep(0.01)",
            "gevent",
            "ZeroDivision",
        ),
    ],
)
def test_what_python_reports_becomes_a_line(code: str, logger: str, text: str) -> None:
    """Each way Python, gevent or a library has of speaking ends in JSON, and stderr stays empty."""
    records, stderr, _ = run(code)
    assert stderr == ""
    assert {record["logger"] for record in records} == {logger}
    assert text in json.dumps(records, ensure_ascii=False).replace("\\n", "\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise KeyboardInterrupt", -2),
        ("raise SystemExit(3)", 3),
        ("import threading\ndef f(): raise SystemExit\nthreading.Thread(target=f).start()", 0),
        (
            "log.install_gevent(); import gevent\n"
            "g = gevent.spawn(gevent.sleep, 9); gevent.sleep(0); g.kill()",
            0,
        ),
        (
            "log.install_gevent(); import gevent\n"
            "def f(): raise KeyboardInterrupt\n"
            "gevent.spawn(f); gevent.sleep(1)",
            -2,
        ),
    ],
)
def test_asked_for_ends_are_not_errors(code: str, status: int) -> None:
    """KeyboardInterrupt, SystemExit and GreenletExit are ways to stop, and leave no line."""
    assert run(code) == ([], "", status)


def test_the_last_lines_leave_at_exit() -> None:
    """What is buffered when the interpreter ends is flushed by it."""
    records, _, _ = run(f"log.AccessLog(log.stdout()).write({ACCESS!r})")
    assert [record["logger"] for record in records] == ["access"]


def test_a_fork_writes_each_line_once() -> None:
    """A child of os.fork forgets what its parent has buffered, without being told."""
    records, _, _ = run(
        f"""
        log.AccessLog(log.stdout()).write({ACCESS!r})
        pid = os.fork()
        if pid == 0:
            log.event("child", "info", "here")
            sys.exit(0)
        os.waitpid(pid, 0)
        """
    )
    assert sorted(record["logger"] for record in records) == ["access", "child"]


def test_text_printed_before_is_not_printed_again_by_children() -> None:
    """The old stream's buffer is emptied before it could be inherited."""
    code = """
        import os, sys
        sys.stdout.write('{"timestamp":"2026-01-02T03:04:05.678Z","level":"info",')
        sys.stdout.write('"logger":"before","message":"m"}\\n')
        from app.telemetry import log
        log.install("info")
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        """
    # Buffered as it is by default, also where the environment of the tests says otherwise.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert len(parse(done.stdout)) == 1


def test_stdout_closed_from_the_start_is_survived() -> None:
    """A process started without stdout runs as any other."""
    code = PRELUDE + "print('x'); log.event('a', 'info', 'b'); sys.exit(7)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 7)


def test_the_master_gets_neither_gevent_nor_requests_nor_a_thread() -> None:
    """What gunicorn.conf.py imports stays harmless to fork."""
    records, _, _ = run(
        """
        import threading
        bad = {"gevent", "requests", "urllib3"} & set(sys.modules)
        log.event("seen", "info", "modules", bad=sorted(bad), threads=threading.active_count())
        """
    )
    assert (records[0]["bad"], records[0]["threads"]) == ([], 1)


def test_the_formatter_is_python_json_loggers() -> None:
    """Users' logging configurations can name our formatter and get the same lines."""
    record = logging.LogRecord("n", logging.INFO, __file__, 1, "m", None, None)
    (line,) = parse(JsonFormatter().format(record).encode() + b"\n")
    assert line["message"] == "m"
