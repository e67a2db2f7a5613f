"""Certificates as files: what is said about bad ones, and how replaced ones are taken over."""

from __future__ import annotations

import os
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.config import ConfigError
from app.telemetry import log
from app.tls.files import LOOK_SECONDS, WatchedContext, load_authorities, load_chain

AUTHORITY = trustme.CA()
FIRST = AUTHORITY.issue_cert("first.example")
SECOND = AUTHORITY.issue_cert("second.example")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Certificate, key and authority as files."""
    (tmp_path / "crt").write_bytes(b"".join(pem.bytes() for pem in FIRST.cert_chain_pems))
    (tmp_path / "key").write_bytes(FIRST.private_key_pem.bytes())
    (tmp_path / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    return tmp_path


def context_of(folder: Path) -> ssl.SSLContext:
    """One that has all of the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, "tls", str(folder / "crt"), str(folder / "key"))
    load_authorities(context, "tls.client_ca", str(folder / "ca"))
    return context


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("crt", None, "tls.certificate: {crt}: there is no such file: create it, or name another"),
        ("key", None, "tls.key: {key}: there is no such file: create it, or name another"),
        ("ca", None, "tls.client_ca: {ca}: there is no such file: create it, or name another"),
        ("crt", b"\x30\x82", "tls.certificate: {crt}: holds no certificate in PEM: "),
        ("key", FIRST.cert_chain_pems[0].bytes(), "tls.key: {key}: holds no private key in PEM: "),
        ("key", SECOND.private_key_pem.bytes(), "tls.key: {key}: is not the key of {crt}: "),
        (
            "crt",
            b"-----BEGIN CERTIFICATE-----\nAA==\n",
            "tls.certificate: {crt}: cannot be used with ",
        ),
        ("ca", b"-----BEGIN CERTIFICATE-----\nAA==\n", "tls.client_ca: {ca}: cannot be used: "),
    ],
)
def test_a_bad_file_is_named_with_its_remedy(
    folder: Path, name: str, content: bytes | None, problem: str
) -> None:
    """Which key of the configuration, which file, what is wrong with it, what to do."""
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        context_of(folder)
    files = {file: folder / file for file in ("crt", "key", "ca")}
    assert str(caught.value).startswith(problem.format(**files))


def test_an_encrypted_key_is_refused_without_a_question(folder: Path) -> None:
    """OpenSSL would ask for the password on the terminal, and a service would wait for ever."""
    from cryptography.hazmat.primitives import serialization

    plain: Any = serialization.load_pem_private_key(FIRST.private_key_pem.bytes(), None)
    (folder / "key").write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match=r"tls\.key: .*key: is encrypted: store it without"):
        context_of(folder)


class Watched:
    """A context whose files a test replaces, the looks that it takes, and what is logged."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        files = [str(folder / name) for name in ("crt", "key", "ca")]
        self.followed = WatchedContext(partial(context_of, folder), "tls", [*files, None])
        self.events: list[tuple[str, str]] = []
        self._now = 100.0
        monkeypatch.setattr(
            log, "event", lambda _logger, level, message, **_: self.events.append((level, message))
        )

    def replace(self, name: str, content: bytes) -> None:
        """A file of the same size and time would still have another inode."""
        (self.folder / "new").write_bytes(content)
        os.replace(self.folder / "new", self.folder / name)

    def look(self, times: int = 1) -> ssl.SSLContext:
        """Look that many times, each after the interval."""
        for _ in range(times):
            self._now += LOOK_SECONDS
            self.followed.look(self._now)
        return self.followed.context


@pytest.fixture(name="watched")
def _watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(folder, monkeypatch)


def test_files_that_stay_keep_the_context(watched: Watched) -> None:
    """No change, no new context."""
    assert watched.look() is watched.look(5)
    assert not watched.events


def test_replaced_files_give_a_new_context_once_they_have_settled(watched: Watched) -> None:
    """The first look sees the change, the second one that it is complete."""
    old = watched.look()
    watched.replace("crt", b"".join(pem.bytes() for pem in SECOND.cert_chain_pems))
    assert watched.look() is old
    watched.replace("key", SECOND.private_key_pem.bytes())
    assert watched.look() is old
    new = watched.look()
    assert new is not old
    assert watched.look(3) is new
    assert watched.events == [("info", "certificate replaced")]


def test_bad_new_files_are_refused_once_and_good_ones_taken_later(watched: Watched) -> None:
    """The old context serves on; one line, however often it is looked at."""
    old = watched.look()
    watched.replace("key", SECOND.private_key_pem.bytes())
    assert watched.look(5) is old
    assert watched.events == [("error", "certificate not changed, the old one stays")]
    (watched.folder / "key").unlink()
    assert watched.look(5) is old
    watched.replace("key", FIRST.private_key_pem.bytes())
    assert watched.look(2) is not old
    assert [level for level, _ in watched.events] == ["error", "error", "info"]


def test_looks_are_coarse(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's timer ticks ten times a second; the files are looked at once a second."""
    looks: list[str] = []
    monkeypatch.setattr(
        os, "stat", lambda path: looks.append(path) or (_ for _ in ()).throw(OSError)
    )
    for tick in range(31):
        watched.followed.look(1000 + tick / 10)
    assert len(looks) == 3 * 4
