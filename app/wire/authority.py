"""A host and a port in one text: as it stands in the log, and where gunicorn is told to listen.

Host is app.config.model.Server.authority, which leaves the default port out.

Pure, and without anything of HTTP, so that the configuration may use it too.
"""

from __future__ import annotations


def bracketed(host: str) -> str:
    """The host as a URL has it: an IPv6 address in brackets (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


def host_and_port(host: str, port: int) -> str:
    """``host:port``, always with the port; an IPv6 address in brackets."""
    return f"{bracketed(host)}:{port}"
