"""Handshakes that failed: one line a minute for each reason."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from app.telemetry import log
from app.tls.failures import LINE_SECONDS, HandshakeFailures, reason_of
from app.tls.handshake import NoCommonProtocol


@pytest.fixture(name="lines")
def _lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    lines: list[tuple[str, int, str]] = []

    def event(_logger: str, _level: str, _message: str, **fields: Any) -> None:
        lines.append((fields["reason"], fields["count"], fields["client"]))

    monkeypatch.setattr(log, "event", event)
    return lines


def test_the_first_is_told_of_at_once_and_the_rest_once_a_minute(
    lines: list[tuple[str, int, str]],
) -> None:
    """With how many there were, and the address of the latest."""
    failures = HandshakeFailures()
    failures.count("tls_error", "192.0.2.1")
    failures.tick(10.0)
    for number in range(2, 5):
        failures.count("tls_error", f"192.0.2.{number}", "no shared cipher")
        failures.count("plain_http", "192.0.2.9")
        failures.tick(10.0 + number)
    assert lines == [("tls_error", 1, "192.0.2.1"), ("plain_http", 1, "192.0.2.9")]
    failures.tick(10.0 + LINE_SECONDS)
    assert lines[2:] == [("tls_error", 3, "192.0.2.4")]
    failures.tell_rest()
    assert lines[3:] == [("plain_http", 2, "192.0.2.9")]
    failures.tick(1000.0)
    failures.tell_rest()
    assert len(lines) == 4


def _named(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, "words")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoCommonProtocol(ssl.SSL_ERROR_SSL, "x"), ("no_application_protocol", "")),
        (TimeoutError(), ("timeout", "")),
        (ConnectionResetError(), ("connection_closed", "")),
        (ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "x"), ("connection_closed", "")),
        (_named("HTTP_REQUEST"), ("plain_http", "")),
        (_named("NO_SHARED_CIPHER"), ("tls_error", "no shared cipher")),
    ],
)
def test_reasons(error: OSError, reason: tuple[str, str]) -> None:
    """A slug for machines, and OpenSSL's words where it has some."""
    assert reason_of(error) == reason
