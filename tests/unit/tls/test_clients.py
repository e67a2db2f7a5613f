"""TLS in front: what a context demands of clients, and what must be there for it."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.certificates import SECOND, store

from app.config import ConfigError, parse
from app.config.client_keys import CIPHERS
from app.telemetry import log
from app.tls import clients as tls_module
from app.tls.clients import certificates, make_context, protocols, require
from app.tls.files import LOOK_SECONDS


def test_a_context_is_as_strict_as_configured(tmp_path: Path) -> None:
    """The minimum version, and client certificates where an authority for them is named."""
    tls = store(tmp_path)
    context = make_context(tls)
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)
    context = make_context(replace(tls, minimum_version="1.3", client_ca=str(tmp_path / "ca")))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_context_offers_what_it_is_told(tmp_path: Path) -> None:
    """No CBC and nothing without forward secrecy; the older HTTP/1 too, for clients that offer only that."""
    context = make_context(store(tmp_path))
    suites = [suite for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"]
    assert [suite["name"] for suite in suites] == list(CIPHERS)
    assert protocols(offers_http2=True) == ("h2", "http/1.1", "http/1.0")


def test_who_demands_certificates_knows_no_sessions(tmp_path: Path) -> None:
    """One that began where none was asked for would pass as that of a client with a certificate."""
    context = make_context(replace(store(tmp_path), client_ca=str(tmp_path / "ca")))
    assert context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 0


@pytest.mark.parametrize(
    ("name", "key"),
    [("crt", "tls.certificate"), ("key", "tls.key"), ("ca", "tls.client_ca")],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, name: str, key: str) -> None:
    """As the configuration calls it (app.tls.files has the words)."""
    tls = store(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"{key}: {tmp_path}/{name}: there is no such file"):
        make_context(replace(tls, client_ca=str(tmp_path / "ca")))


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
