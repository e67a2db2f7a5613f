"""Certificates of an authority of the tests' own, as files."""

from __future__ import annotations

from pathlib import Path

import trustme

from app.config import Tls
from app.config.client_keys import CIPHERS, CURVES

AUTHORITY = trustme.CA()
FIRST = AUTHORITY.issue_cert("first.example")
SECOND = AUTHORITY.issue_cert("second.example")


def store(folder: Path, certificate: trustme.LeafCert = FIRST) -> Tls:
    """Certificate, key and authority in ``folder``, and the ``tls`` that names the first two."""
    (folder / "crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    (folder / "key").write_bytes(certificate.private_key_pem.bytes())
    (folder / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    return Tls(str(folder / "crt"), str(folder / "key"), "1.2", CIPHERS, CURVES, None, http2=True)
