"""How a cause becomes a line of the log. What a reload does as a whole: test_master, and with processes."""

from __future__ import annotations

import pytest

from app.master.reload import cause_of


def raised(source: str) -> BaseException:
    """What a file of settings with this text raises, as gunicorn hands it on."""
    try:
        try:
            exec(compile(source, "/etc/gunicorn.conf.py", "exec"), {})
        except Exception:
            raise SystemExit(1)  # noqa: B904 - as gunicorn does
    except BaseException as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a = 1\nspam", "NameError: name 'spam' is not defined (line 2)"),
        ("def f():\n  1 / 0\nf()\n", "ZeroDivisionError: division by zero (line 2)"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 1)"),
        ("raise ValueError", "ValueError (line 1)"),
        ("raise OSError('many\\n\\nlines\\n\\n[the last]')", "OSError: many … [the last (line 1)"),
    ],
)
def test_a_cause_is_one_line(source: str, words: str) -> None:
    """With the place in the file, though gunicorn makes a SystemExit of it."""
    assert cause_of(raised(source), "./gunicorn.conf.py") == words


def test_a_syntax_error_knows_its_line_itself() -> None:
    message = cause_of(raised("a = 1\ndef (\n"), "gunicorn.conf.py")
    assert message.startswith("SyntaxError: ")
    assert message.endswith("(line 2)")
    assert "\n" not in message
