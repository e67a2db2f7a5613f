"""Our own balancer, as it is in the tree: compiled or not, under its own worker or gevent's, tuned.

Known here as what it is to anybody: a command line, a config.json and a port.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

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

VERSIONS = """
import gevent, gunicorn
from importlib.metadata import version
print("gunicorn", gunicorn.__version__, "gevent", gevent.__version__, "requests", version("requests"))
"""
FORM = """
from app import compiled
from app.wire import parser
print("compiled" if compiled.is_used else "not compiled", end="")
print(", heads read in Python" if parser.is_python else "")
"""
"""What is run in the project's root to say in which form it is."""


class Ours(Candidate):
    """As it is installed: default settings, apart from what is the same for all."""

    name = "ours"
    title = "this balancer"
    file = "config.json"
    algorithms: tuple[str, ...] = ("least_connections", "peak_ewma")
    flags: tuple[str, ...] = ()
    compiled = "auto"
    """What LB_COMPILED says."""

    def missing(self) -> str | None:
        for needed in ("gunicorn.conf.py", "app/__init__.py"):
            if not (self.root / needed).exists():
                return f"{needed} is not there yet"
        return None

    def version(self) -> str:
        python = sys.version.split()[0]
        commit = said("git", "-C", str(self.root), "describe", "--always", "--dirty")
        versions = said(sys.executable, "-c", VERSIONS)
        form = said(
            "env", "-C", str(self.root), f"LB_COMPILED={self.compiled}", sys.executable, "-c", FORM
        )
        return f"{commit}, {form} (Python {python}, {versions})"

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        return json.dumps(self.settings(setup, port))

    def settings(self, setup: Setup, port: int) -> dict[str, Any]:
        """config.json."""
        config: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "workers": setup.workers,
            "servers": [f"http://{backend}" for backend in setup.backends],
            "algorithm": setup.algorithm,
        }
        if setup.servers_fail:
            return config | {
                "health_check": {
                    "path": CHECK_PATH,
                    "interval": CHECK_SECONDS,
                    "timeout": CHECK_SECONDS,
                },
                "timeouts": {"connect": CONNECT_SECONDS, "read": READ_SECONDS},
            }
        config |= {
            "health_check": {"path": "/", "interval": HEALTH_SECONDS} if setup.health else False,
            "timeouts": {"keepalive": KEEPALIVE_SECONDS},
            "logging": {"level": "info", "access": True},
        }
        if setup.tls:
            certificate, key = setup.tls
            config["tls"] = {"certificate": str(certificate), "key": str(key)}
        return config

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        return Launch(
            (
                sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", *self.flags,
                "app:application",
            ),
            self.root,
            {
                "LB_CONFIG": str(path),
                "LB_PORT": str(port),
                "LB_HOST": "127.0.0.1",
                "WEB_CONCURRENCY": str(setup.workers),
                "LB_COMPILED": self.compiled,
            },
            # SIGTERM would wait for requests in flight; the load is gone by then.
            signal.SIGINT,
        )  # fmt: skip


class OursInterpreted(Ours):
    """Without ``make compile``."""

    name = "ours-interpreted"
    title = "this balancer, not compiled"
    only = ("small", "connections_1000", "close", "tls", "http2", "start", "memory")
    compiled = "off"


class OursStock(Ours):
    """The same application without our worker: what the worker is worth."""

    name = "ours-stock"
    title = "this balancer under the stock gevent worker"
    only = ("small",)
    flags = ("-k", "gevent")


class OursTuned(Ours):
    """What somebody sets who knows that the application can take it."""

    name = "ours-tuned"
    title = "this balancer, tuned"
    algorithms = ()

    def algorithm(self, wanted: str) -> str:
        # Slow servers get less, hung ones nothing as soon as others are faster.
        return "peak_ewma"

    def settings(self, setup: Setup, port: int) -> dict[str, Any]:
        return super().settings(setup, port) | {
            "algorithm": self.algorithm(setup.algorithm),
            # As many attempts as the peers, one for each server; none waits for one server longer than ten
            # times what the slowest good answer takes, while another one could be asked.
            # A GET that takes longer than all but one in a hundred is asked for a second time.
            "retries": {"attempts": 4, "per_try_timeout": 0.5, "hedge_after": "p99"},
            # Its servers start with cold caches.
            "slow_start": 5,
            # A server that fails one request in four is not good enough.
            "outlier_detection": {"failure_rate": 25},
        }


def compile_request_path(root: Path) -> None:
    """Make compile; without its tools ours is measured as it is, which the report says."""
    done = subprocess.run(
        [sys.executable, "deploy/compile.py"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        print("ours is not compiled:", *reason, file=sys.stderr)
