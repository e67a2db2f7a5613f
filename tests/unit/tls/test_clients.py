"""TLS in front: what a context demands of clients, and what must be there for it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from app.config import ConfigError, Tls, parse
from app.telemetry import log
from app.tls import clients as tls_module
from app.tls.clients import certificates, make_context, require
from app.tls.files import LOOK_SECONDS

AUTHORITY = trustme.CA()
FIRST = AUTHORITY.issue_cert("first.example")
SECOND = AUTHORITY.issue_cert("second.example")


def store(folder: Path, certificate: trustme.LeafCert = FIRST) -> Tls:
    """Certificate, key and authority as files."""
    (folder / "crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    (folder / "key").write_bytes(certificate.private_key_pem.bytes())
    (folder / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    return Tls(str(folder / "crt"), str(folder / "key"), "1.2", None, http2=True)


def test_a_context_is_as_strict_as_configured(tmp_path: Path) -> None:
    """The minimum version, and client certificates where an authority for them is named."""
    tls = store(tmp_path)
    context = make_context(tls)
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)
    context = make_context(Tls(tls.certificate, tls.key, "1.3", str(tmp_path / "ca"), http2=True))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("name", "key"),
    [("crt", "tls.certificate"), ("key", "tls.key"), ("ca", "tls.client_ca")],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, name: str, key: str) -> None:
    """As the configuration calls it (app.tls.files has the words)."""
    tls = store(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"{key}: {tmp_path}/{name}: there is no such file"):
        make_context(Tls(tls.certificate, tls.key, "1.2", str(tmp_path / "ca"), http2=True))


def test_only_wanted_tls_is_required(tmp_path: Path) -> None:
    """Without ``tls`` nothing is opened; with it the files are."""
    require(parse("{}"))
    with pytest.raises(ConfigError):
        require(parse('{"tls": {"certificate": "%s", "key": "x"}}' % (tmp_path / "none")))


def test_http2_wants_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the code was replaced; clients would agree upon what nobody here speaks."""
    store(tmp_path)
    files = f'"certificate": "{tmp_path}/crt", "key": "{tmp_path}/key"'
    text = f'{{"tls": {{{files}, "http2": %s}}}}'
    require(parse(text % "true"))
    monkeypatch.setattr(tls_module, "find_spec", lambda name: None)
    require(parse(text % "false"))
    with pytest.raises(ConfigError, match=r"tls\.http2: the package h2 is not installed: "):
        require(parse(text % "true"))


def test_certificates_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and certificate are replaced: the next connections have the new ones."""
    monkeypatch.setattr(log, "event", lambda *args, **fields: None)
    followed = certificates(store(tmp_path), offers_http2=False)
    first = followed.context
    store(tmp_path, SECOND)
    for turn in range(1, 4):
        followed.look(turn * LOOK_SECONDS)
    assert followed.context is not first
