"""Certificates, keys and authorities in files: how they are read, and taken over when they are replaced.

For both sides, clients and backends. Every complaint names the key of the configuration, the file, what is
wrong with it and the remedy. Runs in the master, in ``check``, in workers and in the control process. Knows
no socket.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable
from typing import NoReturn

from app.config import ConfigError, Problem
from app.telemetry import log

# Between two looks at the files. Two that agree come before a change is taken over: certificate and key are
# two files, and whoever replaces them (certbot, cert-manager) writes one after the other.
LOOK_SECONDS = 1.0

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
Stamp = tuple[tuple[int, int, int] | None, ...]  # changes when one of the files does


def load_chain(context: ssl.SSLContext, section: str, certificate: str, key: str) -> None:
    """Put a certificate with its key into ``context``. Raises ConfigError.

    ``section`` is where the configuration names the files: "tls" or "backend_tls".
    """
    _check(f"{section}.certificate", certificate, b"-----BEGIN CERTIFICATE-----", "certificate")
    _check(f"{section}.key", key, b"PRIVATE KEY-----", "private key")
    try:
        context.load_cert_chain(certificate, key, _refuse_password)
    except _EncryptedError:
        _refuse(
            f"{section}.key",
            f"{key}: is encrypted: store it without a password, readable by us only",
        )
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            _refuse(
                f"{section}.key",
                f"{key}: is not the key of {certificate}: name the one made with it",
            )
        _refuse(
            f"{section}.certificate", f"{certificate}: cannot be used with {key}: {_words(error)}"
        )


def load_authorities(context: ssl.SSLContext, path: str, file: str) -> None:
    """Have ``context`` trust the certificates in ``file``. Raises ConfigError.

    ``path`` is its key in the configuration, "tls.client_ca" for one.
    """
    _check(path, file, b"-----BEGIN CERTIFICATE-----", "certificate")
    try:
        context.load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        _refuse(path, f"{file}: cannot be used: {_words(error)}")


class WatchedContext:
    """The context for new connections, made anew when its files have changed.

    Connections that exist keep the one they began with. New files that cannot be used are logged once, and
    the old context stays.
    """

    def __init__(
        self, make: Callable[[], ssl.SSLContext], section: str, files: Iterable[str | None]
    ) -> None:
        self._make = make
        self._section = section
        self._files = tuple(filter(None, files))
        self._next_look = 0.0
        self._used = self._seen = self._stamp()
        self.context = make()

    def look(self, now: float) -> None:
        """Take over files that have changed, once two looks agree. ``now`` is monotonic. Never raises."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        before, self._seen = self._seen, self._stamp()
        if self._seen == self._used or self._seen != before:
            return
        self._used = self._seen
        try:
            self.context = self._make()
        except ConfigError as error:
            log.event(
                "tls",
                "error",
                "certificate not changed, the old one stays",
                reason="bad_certificate",
                problems=[str(problem) for problem in error.problems],
            )
        else:
            log.event(
                "tls",
                "info",
                "certificate replaced",
                section=self._section,
                file=self._files[0],
            )

    def _stamp(self) -> Stamp:
        return tuple(_stamp_of(path) for path in self._files)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    """Of one file; also differs where a link was turned (Kubernetes) or another file was moved there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class _EncryptedError(Exception):
    pass


def _refuse_password() -> NoReturn:
    """Given to OpenSSL, which would ask for the password of an encrypted key on the terminal."""
    raise _EncryptedError


def _check(path: str, file: str, mark: bytes, what: str) -> None:
    """Refuse a file that is not there, cannot be read, or holds no ``what``: OpenSSL's words say less."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(1 << 20)
    except FileNotFoundError:
        _refuse(path, f"{file}: there is no such file: create it, or name another")
    except OSError as error:
        _refuse(path, f"{file}: cannot be read: {error.strerror}: check its owner and mode")
    if mark not in data:
        _refuse(path, f"{file}: holds no {what} in PEM: it begins with another format")


def _refuse(path: str, message: str) -> NoReturn:
    raise ConfigError([Problem(path, message)])


def _words(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
