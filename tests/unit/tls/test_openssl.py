"""What is said to OpenSSL past the ssl module."""

from __future__ import annotations

import ssl

import pytest

from app.tls import openssl


def test_it_is_reachable_on_the_pythons_that_are_supported() -> None:
    """Else every test of tickets would try the other way only."""
    assert openssl.is_reachable()


def test_keys_of_tickets_are_eighty_bytes() -> None:
    """It is OpenSSL that says no to any other length."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert openssl.set_ticket_keys(context, bytes(80))
    assert not openssl.set_ticket_keys(context, bytes(48))


def test_a_subclass_is_no_other_context() -> None:
    """gevent's is one."""
    context = type("Patched", (ssl.SSLContext,), {})(ssl.PROTOCOL_TLS_SERVER)
    assert openssl.set_curves(context, "X25519:P-256")
    assert not openssl.set_curves(context, "P-257")
    assert openssl.keep_no_sessions(context)


def test_another_library_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some package may have loaded an OpenSSL of its own: its functions would not know our contexts."""
    monkeypatch.setattr(ssl, "OPENSSL_VERSION", "OpenSSL 9.9.9")
    assert openssl._find() is None
    monkeypatch.setattr(openssl, "_KNOWN", False)
    assert openssl._find() is None


def test_without_it_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each caller is told."""
    monkeypatch.setattr(openssl, "_control", None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert not openssl.is_reachable()
    assert not openssl.set_ticket_keys(context, bytes(80))
    assert not openssl.keep_no_sessions(context)
