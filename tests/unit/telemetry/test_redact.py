"""app.telemetry.redact: secrets in query strings, and what gunicorn quotes of requests."""

from __future__ import annotations

import pytest

from app.telemetry.redact import redactor, without_quotes


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/token=abc", "/token=abc"),
        ("/?a=1&b=2", "/?a=1&b=2"),
        ("/?token=abc", "/?token=***"),
        ("/?a=1&token=abc&b=2", "/?a=1&token=***&b=2"),
        ("/?TOKEN=abc;Api_Key=x", "/?TOKEN=***;Api_Key=***"),
        ("/?token=", "/?token=***"),
        ("/?token", "/?token"),
        ("/?token=a=b?c=d", "/?token=***"),
        ("/?token=1&token=2", "/?token=***&token=***"),
        ("/?tokens=1&atoken=2", "/?tokens=1&atoken=2"),
        ("/?%74oken=abc", "/?%74oken=***"),
        ("/?api%5fkey=abc", "/?api%5fkey=***"),
        ("/?user[token]=abc&token[]=x", "/?user[token]=***&token[]=***"),
        ("/?a[token][b]=1", "/?a[token][b]=1"),
        ("/?user%5Btoken%5D=abc", "/?user%5Btoken%5D=***"),
        ("/?&&=&token=x&", "/?&&=&token=***&"),
        ("*", "*"),
    ],
)
def test_targets(target: str, shown: str) -> None:
    """Values go, everything else stays as it was sent."""
    redact = redactor(("token", "api_key"))
    assert redact is not None
    assert redact(target) == shown


def test_nothing_to_hide() -> None:
    """An empty list costs nothing: there is no function."""
    assert redactor(()) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Invalid HTTP request line: 'GET /?token=a\\' b'", "Invalid HTTP request line"),
        ("No more data after: b'GET / HTTP/1.1\\r\\nCookie: a=\"b'", "No more data after"),
        ('Invalid HTTP Header: "Authorization: it\'s"', "Invalid HTTP Header"),
        ("Request Line is too large (9 > 8)", "Request Line is too large (9 > 8)"),
    ],
)
def test_what_gunicorn_quotes(text: str, left: str) -> None:
    """What was wrong is said, not with what."""
    assert without_quotes(text) == left
