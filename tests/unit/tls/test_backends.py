"""TLS towards backends: what a context demands, and files that are bad when a process starts."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.config import BackendTls, ConfigError, parse
from app.telemetry import log
from app.tls.backends import BackendTrust, is_refusal, make_context, reason, words
from app.tls.clients import require
from app.tls.files import LOOK_SECONDS

AUTHORITY = trustme.CA()
DEFAULTS = BackendTls(True, None, None, None, None, "1.2", (), ())


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> dict[str, str]:
    leaf = AUTHORITY.issue_cert("balancer.internal")
    (tmp_path / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    (tmp_path / "crt").write_bytes(leaf.cert_chain_pems[0].bytes())
    (tmp_path / "key").write_bytes(leaf.private_key_pem.bytes())
    return {name: str(tmp_path / name) for name in ("ca", "crt", "key")}


def test_by_default_a_public_authority_vouches_for_the_name() -> None:
    context = make_context(DEFAULTS)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) > 50


def test_an_authority_of_ones_own_is_the_only_one(files: dict[str, str]) -> None:
    context = make_context(replace(DEFAULTS, ca=files["ca"], minimum_version="1.3"))
    assert len(context.get_ca_certs()) == 1
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_nothing_is_verified_only_when_that_is_asked_for() -> None:
    context = make_context(replace(DEFAULTS, verify=False))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ca": "key"}, "backend_tls.ca: {key}: holds no certificate in PEM"),
        ({"certificate": "key", "key": "key"}, "backend_tls.certificate: {key}: holds no certif"),
        ({"certificate": "crt", "key": "ca"}, "backend_tls.key: {ca}: holds no private key in PEM"),
    ],
)
def test_a_bad_file_is_named_with_its_key(
    files: dict[str, str], changes: dict[str, str], problem: str
) -> None:
    settings = replace(DEFAULTS, **{key: files[name] for key, name in changes.items()})  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        make_context(settings)
    assert str(caught.value).startswith(problem.format(**files))


def test_files_matter_only_where_a_server_is_https() -> None:
    """A configuration without such servers starts, whatever it says about them."""
    text = '{"servers": ["%s://127.0.0.1"], "backend_tls": {"ca": "/none"}}'
    require(parse(text % "http"))
    with pytest.raises(ConfigError, match=r"backend_tls\.ca: /none: there is no such file"):
        require(parse(text % "https"))


def test_a_process_that_starts_while_a_file_is_bad_trusts_nobody_until_it_is_good(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither fails to start nor connects to whoever is there; said once."""
    events: list[Any] = []
    monkeypatch.setattr(log, "event", lambda *args, **fields: events.append((args, fields)))
    Path(files["ca"]).rename(files["ca"] + ".away")
    trust = BackendTrust(replace(DEFAULTS, ca=files["ca"]))
    for now in range(3):
        with pytest.raises(ssl.SSLError, match="there is no such file"):
            trust.context(float(now))
    assert len(events) == 1
    Path(files["ca"] + ".away").rename(files["ca"])
    assert len(trust.context(3.0).get_ca_certs()) == 1


def test_replaced_files_make_another_context(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two looks that agree, so that a half-written pair is never taken."""
    monkeypatch.setattr(log, "event", lambda *args, **fields: None)
    trust = BackendTrust(replace(DEFAULTS, ca=files["ca"]))
    first = trust.context(10.0)
    Path(files["ca"]).write_bytes(trustme.CA().cert_pem.bytes())
    seen = [trust.context(10.0 + turn * LOOK_SECONDS) for turn in range(1, 4)]
    assert seen[0] is first
    assert seen[-1] is not first


def test_the_name_is_the_server_s_unless_another_is_configured() -> None:
    assert BackendTrust(DEFAULTS).name("10.0.0.1") == "10.0.0.1"
    assert (
        BackendTrust(replace(DEFAULTS, server_name="app.internal")).name("10.0.0.1")
        == "app.internal"
    )


def test_an_error_says_what_an_operator_can_use() -> None:
    """Whether the certificate is to blame, without OpenSSL's source lines."""
    error = ssl.SSLCertVerificationError(1, "[SSL: X] certificate verify failed (_ssl.c:1006)")
    error.verify_message = "certificate has expired"
    assert (reason(error), words(error)) == ("certificate_invalid", "certificate has expired")
    alert = ssl.SSLError(1, "[SSL] alert (_ssl.c:2580)")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert (reason(alert), words(alert)) == ("tls_error", "tlsv13 alert certificate required")
    assert is_refusal(alert)
    assert not is_refusal(ssl.SSLEOFError(8, "EOF occurred"))
