"""Cipher suites and curves of a context, as the configuration names them.

For both sides, clients and backends. The defaults towards clients are Mozilla's "intermediate" (Server Side
TLS 5.8): suites with forward secrecy and AEAD only, no CBC. Those of TLS 1.3 are not chosen here: all of them
are of that kind, and the ssl module of Python 3.10 to 3.14 has no way to name them. Knows no file and no
socket.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import NoReturn

from app.config import ConfigError, Problem
from app.config.client_keys import CURVES
from app.tls import openssl

_FORWARD_SECRET = frozenset(("kx-ecdhe", "kx-dhe"))  # as SSLContext.get_ciphers calls them


def set_ciphers(
    context: ssl.SSLContext, section: str, names: Sequence[str], offers_http2: bool = False
) -> None:
    """Have ``context`` speak these suites of TLS 1.2. Raises ConfigError for one that is not known here.

    ``offers_http2``: none may be of those that HTTP/2 must not be spoken with (RFC 9113 §9.2.2, appendix A).
    """
    path = f"{section}.ciphers"
    if not names:
        _refuse(path, 'must not be empty: for TLS 1.3 alone set minimum_version to "1.3"')
    scratch = ssl.SSLContext(context.protocol)
    for name in names:
        try:
            scratch.set_ciphers(name)  # of a list OpenSSL ignores what it does not know
        except ssl.SSLError:
            _refuse(
                path,
                f"{name}: no such cipher suite in {ssl.OPENSSL_VERSION}: openssl ciphers -v lists them",
            )
        suite = next((suite for suite in scratch.get_ciphers() if suite["name"] == name), None)
        if suite is None:
            _refuse(path, f"{name}: is a word for several cipher suites: name each of them")
        if offers_http2 and not (suite["aead"] and suite["kea"] in _FORWARD_SECRET):
            remedy = f"leave it out, or set {section}.http2 to false"
            _refuse(path, f"{name}: not with HTTP/2 (RFC 9113, appendix A): {remedy}")
    context.set_ciphers(":".join(names))


def set_curves(context: ssl.SSLContext, section: str, names: Sequence[str]) -> None:
    """Have ``context`` exchange keys over these groups. Raises ConfigError for one that is not known here.

    Of our defaults, those that this OpenSSL does not know are left out.
    """
    path = f"{section}.curves"
    if not names:
        _refuse(path, "must not be empty")
    if not openssl.is_reachable():
        _set_one_curve(context, path, names)
        return
    scratch = ssl.SSLContext(context.protocol)
    known = [name for name in names if openssl.set_curves(scratch, name)]
    for name in names:
        if name not in known and name not in CURVES:
            _refuse(path, f"{name}: no such curve in {ssl.OPENSSL_VERSION}")
    if not known:
        _refuse(path, f"none of them is in {ssl.OPENSSL_VERSION}")
    openssl.set_curves(context, ":".join(known))


def _set_one_curve(context: ssl.SSLContext, path: str, names: Sequence[str]) -> None:
    """Where Python's own way is all there is. OpenSSL's defaults are near enough to ours."""
    if tuple(names) == CURVES:
        return
    if len(names) > 1:
        _refuse(path, "this Python can choose one curve only: name one, or leave it out")
    try:
        context.set_ecdh_curve(names[0])
    except ValueError:
        _refuse(path, f"{names[0]}: no such curve in {ssl.OPENSSL_VERSION}")


def _refuse(path: str, message: str) -> NoReturn:
    raise ConfigError([Problem(path, message)])
