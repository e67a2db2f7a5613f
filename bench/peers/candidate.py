"""What the bench knows of every proxy that it measures: where it is, how it is configured, how it starts.

A candidate writes its configuration for a ``Setup`` and says the command that runs it; it starts nothing
and knows no load. Each has one file in this folder with everything about it, for both benches:

- speed (``python -m bench``): the servers are well. Equal for all: one worker or thread
  (``Setup.workers``), keep-alive to clients and backends, the client's address and a request id passed
  on where the peer can, health checks every 5 s where it has them, one JSON access line a request
  appended to a file in memory, round robin. Beyond that each is set the way its own documentation
  advises for speed.
- failures (``python -m bench.scenarios``, ``Setup.servers_fail``): connect timeout 1 s, silence of a server
  2 s, health checks every second with a timeout of 1 s, two workers or threads; requests of every method
  retried as far as that is safe, GET also on 5xx where the peer can do that. Where the documentation
  leaves a choice, the one that serves the peer better here was taken.

The reason stands beside each setting; README.md and docs/failures.md list them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

KEEPALIVE_SECONDS = 75
HEALTH_SECONDS = 5
"""Between two health checks while the servers are well."""

CONNECT_SECONDS = 1
READ_SECONDS = 2
"""The longest silence of a server that fails."""
CHECK_SECONDS = 1
"""Between two health checks where servers fail, and the timeout of each."""
CHECK_PATH = "/health"


@dataclass(frozen=True)
class Setup:
    """What a case or a scenario asks of a candidate."""

    backends: tuple[str, ...]
    """As host:port."""
    workers: int = 1
    algorithm: str = "round_robin"
    health: bool = True
    """Whether servers that are well are checked; those that fail always are."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key, when clients come over TLS."""
    http2: bool = False
    """Whether it is offered to them beside HTTP/1.1."""
    servers_fail: bool = False
    """Set for servers that fail, instead of for speed; TLS is no subject there."""


@dataclass(frozen=True)
class Launch:
    """How to start a candidate, ready to be passed to ``procs.Process``."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM


class Candidate:
    """A proxy that can be measured: ours in one of its forms, or a peer."""

    name = ""
    """On the command line, in tables and in results."""
    title = ""
    file = ""
    """Its configuration."""
    debian: ClassVar[Mapping[str, str]] = {}
    """Its command, and the Debian package that has it."""
    pypi: tuple[str, ...] = ()
    """What it needs in the bench's own environment."""
    tls = True
    lacks_tls = ""
    """Why it is not in the TLS case."""
    only: tuple[str, ...] = ()
    """The cases that it is for; all of them when empty."""
    algorithms: tuple[str, ...] = ("least_connections",)
    """What a scenario may ask of it beside round robin."""

    def __init__(self, root: Path, build: Path) -> None:
        """``root`` is the project's folder, ``build`` the one below which the bench installs."""
        self.root = root
        self.build = build

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        raise NotImplementedError

    def version(self) -> str:
        """As it says itself, for the report."""
        raise NotImplementedError

    def algorithm(self, wanted: str) -> str:
        """What it runs with when a scenario wants ``wanted``."""
        return wanted

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        """The text of its configuration file, which names files in ``folder``."""
        raise NotImplementedError

    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        """The command for the configuration in ``path``; writes what else it needs beside it."""
        raise NotImplementedError

    def launch(self, setup: Setup, port: int, folder: Path) -> Launch:
        """Configured in ``folder``; standard output is for ``access.log`` there too."""
        path = folder / self.file
        path.write_text(self.config(setup, port, folder))
        return self.start(setup, port, path)


def said(*command: str) -> str:
    """What a program says, on whichever output; what is wrong with it where it cannot be run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env=dict(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"unknown ({problem})"
    return (done.stdout or done.stderr).strip()
