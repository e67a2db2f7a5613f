"""What every run of a bench has: the project's folders, its candidates, a place in memory, a clean end.

Runs in the bench's own process, once. Knows no case and no scenario.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from bench import install, peers
from bench.peers.candidate import Candidate

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
"""What is installed for the bench, and results that are not to be kept."""
MEMORY_FOLDER = Path("/dev/shm")
FOLDER_PREFIX = "lb-bench-"
FILES_NEEDED = 20000


def prepare(*, offline: bool) -> dict[str, str]:
    """Install the tools and everybody's packages; {name: why} of what could not be."""
    kinds = dict.fromkeys((*peers.SPEED, *peers.FAILURES))
    debian = {command: package for kind in kinds for command, package in kind.debian.items()}
    pypi = [package for kind in kinds for package in kind.pypi]
    return install.prepare(BUILD, debian, pypi, offline=offline)


def present(
    kinds: Sequence[type[Candidate]], problems: Mapping[str, str]
) -> tuple[list[Candidate], dict[str, str]]:
    """Those that can run here, and of the others {name: why not}."""
    chosen, missing = [], {}
    for kind in kinds:
        candidate = kind(ROOT, BUILD)
        reason = candidate.missing()
        if reason is None:
            chosen.append(candidate)
            continue
        found = (problems[name] for name in (*kind.debian, *kind.pypi) if name in problems)
        missing[kind.name] = next(found, reason)
        print(f"left out: {kind.name}: {missing[kind.name]}", file=sys.stderr)
    return chosen, missing


def facts(chosen: Sequence[Candidate], missing: Mapping[str, str]) -> dict[str, Any]:
    """When, where and who: what stands above the figures."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "versions": {candidate.name: candidate.version() for candidate in chosen},
        "missing": dict(missing),
    }


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder of this run, gone at its end; in memory, so that no disk takes part in logs and files."""
    memory = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(memory)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def raise_file_limit() -> None:
    """For 10,000 servers with a connection each; inherited by everything started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_NEEDED if hard == resource.RLIM_INFINITY else min(FILES_NEEDED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def end_cleanly() -> None:
    """From now on Ctrl-C, SIGTERM and a hang-up raise KeyboardInterrupt, once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup is to be obeyed
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    # A second signal must not cut the cleaning up short, which takes seconds at most.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _sweep(parent: Path) -> None:
    """Remove what a bench that was killed has left; its processes died with it."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
