"""Whatever happens in an interpreter becomes valid lines on stdout, and nothing else does. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.unit.telemetry.log_lines import ACCESS, ROOT, parse

PRELUDE = """\
import os, sys
from app.telemetry import interpreter, log
from app.telemetry.access_log import AccessLog
interpreter.install('info')
"""


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
            "interpreter.install_gevent(); import gevent; gevent.spawn(lambda: 1 / 0).join()",
            "gevent",
            "ZeroDivision",
        ),
        (
            "import gevent; interpreter.install_gevent()\n"
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
            "interpreter.install_gevent(); import gevent\n"
            "g = gevent.spawn(gevent.sleep, 9); gevent.sleep(0); g.kill()",
            0,
        ),
        (
            "interpreter.install_gevent(); import gevent\n"
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
    records, _, _ = run(f"AccessLog(log.stdout()).write({ACCESS!r})")
    assert [record["logger"] for record in records] == ["access"]


def test_a_fork_writes_each_line_once() -> None:
    """A child of os.fork forgets what its parent has buffered, without being told."""
    records, _, _ = run(
        f"""
        AccessLog(log.stdout()).write({ACCESS!r})
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
        from app.telemetry import interpreter
        interpreter.install("info")
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
        import app.master.hooks, app.telemetry.gunicorn
        bad = {"gevent", "requests", "urllib3"} & set(sys.modules)
        log.event("seen", "info", "modules", bad=sorted(bad), threads=threading.active_count())
        """
    )
    assert (records[0]["bad"], records[0]["threads"]) == ([], 1)
