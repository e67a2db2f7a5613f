"""Cipher suites and curves: what is set, and in which words the rest is refused."""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict

import pytest

from app.config import Config, ConfigError, Tls, parse
from app.config.client_keys import CIPHERS, CURVES
from app.tls import openssl
from app.tls.parameters import set_ciphers, set_curves


def config_of(tls: Tls) -> Config:
    """One with these settings."""
    return parse(json.dumps({"tls": asdict(tls)}))


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "must not be empty: for TLS 1.3 alone set minimum_version"),
        (
            ["ECDHE-RSA-AES128-GCM-SHA256", "NONE-SUCH"],
            "NONE-SUCH: no such cipher suite in OpenSSL",
        ),
        (["HIGH"], "HIGH: is a word for several cipher suites"),
        (["ECDHE-RSA-AES128-SHA"], "ECDHE-RSA-AES128-SHA: not with HTTP/2"),
        (["AES128-GCM-SHA256"], "AES128-GCM-SHA256: not with HTTP/2"),
    ],
)
def test_bad_ciphers_are_named(names: list[str], problem: str) -> None:
    """OpenSSL would leave out of a list what it does not know, and say nothing."""
    with pytest.raises(ConfigError, match=rf"tls\.ciphers: {problem}"):
        set_ciphers(context(), "tls", names, offers_http2=True)


def test_without_http2_any_suite_may_be_named() -> None:
    """For an old client that speaks nothing else."""
    made = context()
    set_ciphers(made, "tls", ["ECDHE-RSA-AES128-SHA"])
    assert "ECDHE-RSA-AES128-SHA" in {suite["name"] for suite in made.get_ciphers()}


def test_curves_that_do_not_exist_are_named() -> None:
    """But of our own defaults those that an older OpenSSL does not know."""
    set_curves(context(), "tls", CURVES)
    with pytest.raises(ConfigError, match=r"backend_tls\.curves: P-257: no such curve in OpenSSL"):
        set_curves(context(), "backend_tls", ["P-256", "P-257"])
    with pytest.raises(ConfigError, match=r"tls\.curves: must not be empty"):
        set_curves(context(), "tls", [])


def test_where_openssl_is_not_reachable_one_curve_can_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python's own way takes one; the defaults are left to OpenSSL."""
    monkeypatch.setattr(openssl, "_control", None)
    set_curves(context(), "tls", CURVES)
    set_curves(context(), "tls", ["secp384r1"])
    with pytest.raises(ConfigError, match=r"tls\.curves: this Python can choose one curve only"):
        set_curves(context(), "tls", ["X25519", "P-256"])
    with pytest.raises(ConfigError, match=r"tls\.curves: P-257: no such curve"):
        set_curves(context(), "tls", ["P-257"])


def test_the_defaults_are_what_http2_allows() -> None:
    """Else the default configuration would be refused."""
    set_ciphers(context(), "tls", CIPHERS, offers_http2=True)
