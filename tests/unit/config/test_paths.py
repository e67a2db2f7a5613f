"""Relative paths: whose folder they start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.config import ROOT, Object, from_json, load, parse, to_json
from app.config.paths import is_path, located


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the working directory of who reads it: ``check`` and ``run`` have different ones."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "secret").write_text("0123456789abcdef")
    text = {
        "tls": {"certificate": "tls/crt", "key": "/abs/key", "client_ca": "../ca"},
        "backend_tls": {"ca": "backends"},
        "sticky": {"secret_file": "secret"},
    }
    (folder / "mine.json").write_text(json.dumps(text))
    monkeypatch.chdir(tmp_path)
    config = load("etc/mine.json", {})
    assert config.tls is not None
    assert config.sticky is not None
    assert (config.tls.certificate, config.tls.key) == (f"{folder}/tls/crt", "/abs/key")
    assert config.tls.client_ca == f"{folder}/../ca"
    assert config.backend_tls.ca == f"{folder}/backends"
    assert config.backend_tls.certificate is None
    assert config.sticky.secret == "0123456789abcdef"
    assert from_json(to_json(config)) == config


def test_a_configuration_without_files_is_the_same() -> None:
    """Nothing is made anew for nothing."""
    config = parse('{"backend_tls": {"verify": false}}')
    assert located(config, "/etc") is config


def test_every_key_that_takes_a_path_is_known() -> None:
    """By what the reference calls it: a new one is not forgotten."""
    for key in ROOT.keys:
        for inner in key.type.keys if isinstance(key.type, Object) else ():
            assert is_path(inner.type) == ("path of a" in inner.type.words()), inner.name
