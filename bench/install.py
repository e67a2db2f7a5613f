"""Finds the load tools and the peers, and installs what is missing where that is allowed.

Debian packages through apt-get when run as root; PyPI packages into ``build/bench/venv``, which
is not committed. What cannot be had is named with its reason, and the bench goes on without it. Each
peer says itself what it needs (``Candidate.debian`` and ``.pypi``); this knows none of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

TOOLS = {
    "nginx": "nginx",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "curl": "curl",
    "openssl": "openssl",
}
"""Commands, and the Debian packages that have them: the backends (nginx), the load, the certificate."""
REQUIRED = ("nginx", "wrk", "h2load", "curl")
"""Without these there is no bench at all."""
INSTALL_SECONDS = 300


def prepare(
    build: Path, debian: Mapping[str, str], pypi: Iterable[str], *, offline: bool = False
) -> dict[str, str]:
    """Install the tools and the peers' packages; {name: why} of what could not be."""
    packages = tuple(dict.fromkeys(pypi))
    problems = _debian({**TOOLS, **debian}, offline) | _pypi(build, packages, offline)
    lacking = [name for name in REQUIRED if not shutil.which(name)]
    if lacking:
        wanted = " ".join(TOOLS[name] for name in lacking)
        raise SystemExit(f"the bench cannot run without: {wanted} (apt-get install {wanted})")
    return problems


def python(build: Path) -> Path:
    """The interpreter of the bench's own environment."""
    return script(build, "python")


def script(build: Path, name: str) -> Path:
    """Where the bench's own environment has, or would have, a command."""
    return build / "venv" / "bin" / name


def package_file(build: Path, path: str) -> Path | None:
    """A file of an installed package, by its path below site-packages."""
    return next(iter(sorted((build / "venv").glob(f"lib/python*/site-packages/{path}"))), None)


def _debian(commands: Mapping[str, str], offline: bool) -> dict[str, str]:
    missing = {name: package for name, package in commands.items() if not shutil.which(name)}
    if not missing:
        return {}
    packages = sorted(set(missing.values()))
    advice = f"apt-get install {' '.join(packages)}"
    if offline or os.geteuid() != 0 or not shutil.which("apt-get"):
        return dict.fromkeys(missing, f"not installed; as root: {advice}")
    print(f"installing {' '.join(packages)} …", file=sys.stderr)
    for command in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
        _quietly(["apt-get", *command], {"DEBIAN_FRONTEND": "noninteractive"})
    return {name: f"{advice} failed" for name in missing if not shutil.which(name)}


def _pypi(build: Path, packages: tuple[str, ...], offline: bool) -> dict[str, str]:
    folder = build / "venv"
    stamp = folder / "installed"
    if stamp.exists() and set(stamp.read_text().split()) == set(packages):
        return {}
    if offline:
        why = "the bench's venv is incomplete and --offline was given"
        return dict.fromkeys(packages, why)
    print(f"installing {' '.join(packages)} into {folder} …", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    problems = {}
    for package in packages:
        output = _quietly([str(python(build)), "-m", "pip", "install", "-q", package])
        if output is not None:
            problems[package] = f"pip install {package} failed: {output.strip()[-200:]}"
    if not problems:
        stamp.write_text("\n".join(packages))
    return problems


def _quietly(command: list[str], env: dict[str, str] | None = None) -> str | None:
    """None if it went well, else what it said."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return None if done.returncode == 0 else done.stdout + done.stderr
