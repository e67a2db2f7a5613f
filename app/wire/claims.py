"""Fields by which proxies tell servers who a client is, where it is, and what it asked for.

Owns the list of those that nobody but a trusted proxy may send, where the configuration has no other: a
server that believes one believes whoever can write it. X-Forwarded-*, Forwarded and X-Real-IP are always
among them, and are app.wire.forwarded's. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# "*" at the end: all that begin so. Names with "_" reach no server from anybody (app.wire.fields).
DEFAULT = (
    # Where the client is, by the name that one CDN, cloud or proxy gives it.
    *("X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "Client-IP", "X-Originating-IP"),
    *("X-Original-Forwarded-For", "CF-Connecting-IP", "CF-Connecting-IPv6", "CF-Pseudo-IPv4"),
    *("Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP"),
    *("X-AppEngine-User-IP", "X-Envoy-External-Address"),
    # What it asked for, and how: IIS, Symfony and others take these for the real thing (CVE-2018-14773).
    *("X-Original-URL", "X-Original-URI", "X-Original-Host", "X-Original-Method", "X-Rewrite-URL"),
    *("X-Scheme", "X-URL-Scheme", "Front-End-Https"),
    # Who it is, as somebody in front has found out.
    *(
        "Remote-User",
        "Remote-Name",
        "Remote-Email",
        "Remote-Groups",
        "X-Remote-*",
        "X-Authenticated-*",
    ),
    *("X-Auth-Request-*", "X-WebAuth-*", "X-Authentik-*", "X-Goog-Authenticated-User-*"),
    *("X-MS-Client-Principal*", "X-Amzn-Oidc-*", "Tailscale-User-*", "X-Consumer-*"),
    # Its certificate: RFC 9440, and what was there before.
    *(
        "Client-Cert",
        "Client-Cert-Chain",
        "X-SSL-*",
        "SSL-Client-*",
        "X-Client-Cert*",
        "X-Client-DN",
    ),
    *("X-Client-Verify", "X-ARR-ClientCert", "X-Amzn-Mtls-*"),
)


def pattern(names: Iterable[str]) -> re.Pattern[bytes]:
    """What matches a field name in small letters if it is one of ``names``."""
    alternatives = [
        re.escape(name.removesuffix("*").lower()) + (".*" if name.endswith("*") else "")
        for name in names
    ]
    return re.compile("|".join(alternatives).encode("ascii") or rb"(?!)")
