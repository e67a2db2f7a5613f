"""TLS in front: the certificate of the configuration, as a context that follows its files.

Owns what is accepted of a client's handshake, what is wrong with a certificate's files and how to mend it,
and taking over files that were replaced while serving. ``require`` runs in the master and in ``check``;
``Certificates`` in workers. Imports ssl only when there is something to do with it, knows no socket.
"""

from __future__ import annotations

import os
import ssl
from typing import NoReturn

from app import log
from app.config import Config, ConfigError, Problem, Tls

# Two looks that agree come before a change is taken over: certificate and key are two files, and whoever
# replaces them (certbot, cert-manager) writes one after the other.
LOOK_SECONDS = 1.0

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
Stamp = tuple[tuple[int, int, int] | None, ...]


def require(config: Config) -> None:
    """Raise ConfigError if TLS is wanted and its files are not fit for it."""
    if config.tls is not None:
        make_context(config.tls)


def make_context(tls: Tls) -> ssl.SSLContext:
    """A server's context from the files. ConfigError names the file and the remedy."""
    _check_pem("certificate", tls.certificate, b"-----BEGIN CERTIFICATE-----", "a certificate")
    _check_pem("key", tls.key, b"PRIVATE KEY-----", "a private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimum_version]
    # CVE-2009-3555 and its kin: renegotiation costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key, _refuse_password)
    except _EncryptedError:
        _refuse("key", f"{tls.key}: is encrypted: store it without a password, readable by us only")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            _refuse(
                "key", f"{tls.key}: is not the key of {tls.certificate}: name the one made with it"
            )
        _refuse("certificate", f"{tls.certificate}: cannot be used with {tls.key}: {_words(error)}")
    if tls.client_ca is not None:
        _check_pem("client_ca", tls.client_ca, b"-----BEGIN CERTIFICATE-----", "a certificate")
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            _refuse("client_ca", f"{tls.client_ca}: cannot be used: {_words(error)}")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Certificates:
    """The context for new connections, made anew when the files have changed.

    Connections that exist keep the one they began with. Bad new files are refused, said once, and the old
    context stays.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._files = tuple(filter(None, (tls.certificate, tls.key, tls.client_ca)))
        self._next_look = 0.0
        self._used = self._seen = self._stamp()
        self.context = make_context(tls)

    def look(self, now: float) -> None:
        """Take over files that have changed and have been the same for two looks. Never raises."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        before, self._seen = self._seen, self._stamp()
        if self._seen == self._used or self._seen != before:
            return
        self._used = self._seen
        try:
            self.context = make_context(self._tls)
        except ConfigError as error:
            log.event(
                "tls",
                "error",
                "certificate not changed, the old one stays",
                reason="bad_certificate",
                problems=[str(problem) for problem in error.problems],
            )
        else:
            log.event("tls", "info", "certificate replaced", file=self._tls.certificate)

    def _stamp(self) -> Stamp:
        return tuple(_stamp_of(path) for path in self._files)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    """Changes with the content, also where a link is turned (Kubernetes) or a file is moved in."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class _EncryptedError(Exception):
    pass


def _refuse_password() -> NoReturn:
    """OpenSSL would ask on the terminal."""
    raise _EncryptedError


def _check_pem(key: str, path: str, mark: bytes, what: str) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except FileNotFoundError:
        _refuse(key, f"{path}: there is no such file: create it, or name another")
    except OSError as error:
        _refuse(key, f"{path}: cannot be read: {error.strerror}: check its owner and mode")
    if mark not in data:
        _refuse(
            key, f"{path}: holds no {what.split(' ', 1)[1]} in PEM: it begins with another format"
        )


def _refuse(key: str, message: str) -> NoReturn:
    raise ConfigError([Problem(f"tls.{key}", message)])


def _words(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
