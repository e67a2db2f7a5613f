"""HAProxy, from Debian: with and without splicing for speed, with its retries for failing servers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from bench.peers.candidate import (
    CHECK_PATH,
    CHECK_SECONDS,
    CONNECT_SECONDS,
    HEALTH_SECONDS,
    KEEPALIVE_SECONDS,
    READ_SECONDS,
    Candidate,
    Launch,
    Setup,
    said,
)

CONNECTIONS = 6000
"""Twice the most that a case opens; HAProxy reserves three descriptors for each, pipes included."""
BUNDLE = "tls.pem"
"""It wants certificate and key in one file."""
ROUNDROBIN_MOST = 4095
"""HAProxy manual, "balance roundrobin": limited by design to 4095 active servers."""

CONFIG = """
global
    nbthread {workers}
    maxconn {connections}
{log}defaults
    mode http
    option forwardfor
    option http-keep-alive
    timeout connect {connect}s
    timeout client 60s
    timeout server {read}s
{defaults}
frontend front
    bind 127.0.0.1:{port} backlog 4096{ssl}
{frontend}    default_backend pool

backend pool
    balance {balance}
{backend}{servers}
"""

# -- speed -----------------------------------------------------------------------------------------

# A process started in the foreground can write nowhere but to its outputs and to syslog.
LOG = """\
    log stdout len 4096 format raw local0 info
"""
FAST_DEFAULTS = (
    f"    timeout http-keep-alive {KEEPALIVE_SECONDS}s\n"
    """\
    log global
    option dontlognull
    http-reuse always
    log-format '{"timestamp":"%tr","logger":"access","request_id":"%ID","client_ip":"%ci","method":"%HM","target":"%[var(txn.uri),json]","protocol":"%HV","status":%ST,"backend":"%s","bytes_in":%U,"bytes_out":%B,"duration_ms":%Ta,"connect_ms":%Tc,"first_byte_ms":%Tr,"reason":"%ts","retries":"%rc"}'
    unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
    unique-id-header X-Request-Id
"""  # noqa: E501 -- log-format is one line
)
FAST_FRONTEND = """\
    http-request set-var(txn.uri) url
"""
# Measured for 256 MiB: 0.31 CPU s/GB instead of 0.79; "splice-auto" hardly ever splices here.
SPLICE = """\
    option splice-request
    option splice-response
"""

# -- failing servers -------------------------------------------------------------------------------

# "redispatch 1": another server at each retry; the default goes elsewhere only with the last one.
# "retry-on": the manual's set of what can be retried, 5xx included; and ("disable-l7-retry") its advice to
# keep that from requests which are not idempotent. For those conn-failure is still retried.
SAFE_DEFAULTS = f"""\
    timeout check {CHECK_SECONDS}s
    option redispatch 1
    retries 3
    retry-on all-retryable-errors
    option httpchk GET {CHECK_PATH}
"""
# fall 3 and rise 2 are the defaults. "observe layer7" is its passive check: ten errors in a row (the
# default) take a server out until it passes the active ones.
SAFE_BACKEND = f"""\
    http-request disable-l7-retry unless METH_GET
    default-server check inter {CHECK_SECONDS}s observe layer7 on-error mark-down
"""


class HAProxy(Candidate):
    """With splicing, which its manual offers for large bodies."""

    name = "haproxy"
    title = "HAProxy"
    file = "haproxy.cfg"
    debian: ClassVar = {"haproxy": "haproxy"}
    splice = True

    def missing(self) -> str | None:
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def version(self) -> str:
        return said("haproxy", "-v").split()[2]

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        check = f" check inter {HEALTH_SECONDS}s" * (setup.health and not setup.servers_fail)
        servers = "\n".join(
            f"    server s{number} {backend}{check}"
            for number, backend in enumerate(setup.backends)
        )
        if setup.servers_fail:
            least = setup.algorithm == "least_connections"
            return CONFIG.format(
                workers=setup.workers,
                connections=CONNECTIONS,
                log="",
                connect=CONNECT_SECONDS,
                read=READ_SECONDS,
                defaults=SAFE_DEFAULTS,
                port=port,
                ssl="",
                frontend="",
                balance="leastconn" if least else "roundrobin",
                backend=SAFE_BACKEND,
                servers=servers,
            )
        ssl = ""
        if setup.tls:
            ssl = f" ssl crt {folder / BUNDLE} alpn {'h2,' if setup.http2 else ''}http/1.1"
        large = len(setup.backends) > ROUNDROBIN_MOST
        return CONFIG.format(
            workers=setup.workers,
            connections=CONNECTIONS,
            log=LOG,
            connect=3,
            read=60,
            defaults=FAST_DEFAULTS + SPLICE * self.splice,
            port=port,
            ssl=ssl,
            frontend=FAST_FRONTEND,
            balance="static-rr" if large else "roundrobin",
            backend="",
            servers=servers,
        )

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        folder = path.parent
        if setup.tls:
            certificate, key = setup.tls
            (folder / BUNDLE).write_bytes(certificate.read_bytes() + key.read_bytes())
        # SIGUSR1 would drain; SIGTERM stops at once.
        return Launch(("haproxy", "-db", "-f", str(path)), folder)


class HAProxyCopying(HAProxy):
    """Splicing is not HAProxy's default, so large bodies are shown both ways."""

    name = "haproxy-copying"
    title = "HAProxy without splicing"
    only = ("download", "upload")
    splice = False
