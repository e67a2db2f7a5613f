"""Owners and modes of files that are not there: what is said about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from app.config import Config, parse
from app.master.file_modes import exposed, unreadable

OWNER, GROUP, WORKER = 500, 600, 700
CONFIG = "/etc/lb/config.json"
TLS = {"certificate": "/etc/lb/crt", "key": "/etc/lb/key"}


def config(**settings: Any) -> Config:
    return parse(json.dumps({"tls": TLS, **settings}))


def files(folder: int = 0o755, **modes: int) -> Callable[[str], os.stat_result]:
    """Modes in /etc/lb by name, 0o640 for the rest; and that of the folder."""

    def look(path: str) -> os.stat_result:
        name = path.removeprefix("/etc/lb/")
        mode = modes.get(name.partition(".")[0], 0o640) if name != path else 0o755
        return os.stat_result(
            (folder if path == "/etc/lb" else mode, 0, 0, 0, OWNER, GROUP, 0, 0, 0, 0)
        )

    return look


@pytest.mark.parametrize(
    ("settings", "look", "keys"),
    [
        ({}, files(), []),
        ({}, files(crt=0o644), []),
        ({}, files(key=0o644), ["tls.key"]),
        ({}, files(folder=0o750, key=0o644), []),
        ({}, files(key=0o604, crt=0o606), ["tls.key", "tls.certificate"]),
        ({}, files(config=0o644), []),
        ({}, files(config=0o666), [CONFIG]),
        ({"sticky": {"secret": "0123456789abcdef"}}, files(config=0o644), [CONFIG]),
        ({"health_check": {"headers": {"X-Key": "a"}}}, files(config=0o644), [CONFIG]),
        ({"sticky": {"secret_file": "/etc/lb/secret"}}, files(secret=0o604), ["sticky.secret_file"]),
        ({"backend_tls": {"certificate": "/etc/lb/own", "key": "/etc/lb/ownkey"}},
         files(own=0o644, ownkey=0o644), ["backend_tls.key"]),
    ],
)  # fmt: skip
def test_what_others_can_read_or_change_is_said(
    settings: dict[str, Any], look: Callable[[str], os.stat_result], keys: list[str]
) -> None:
    """Secrets that they can read, any file that they can write; not below a folder that they cannot enter."""
    assert [problem.path for problem in exposed(config(**settings), CONFIG, look)] == keys


@pytest.mark.parametrize(
    ("uid", "gids", "look", "keys"),
    [
        (OWNER, [], files(), []),
        (WORKER, [GROUP], files(), []),
        (0, [], files(), []),
        (WORKER, [WORKER], files(), ["tls.certificate", "tls.key"]),
        (WORKER, [WORKER], files(crt=0o644), ["tls.key"]),
        (WORKER, [GROUP], files(key=0o604), ["tls.key"]),
        (WORKER, [], files(folder=0o700, crt=0o644, key=0o644), ["tls.certificate", "tls.key"]),
    ],
)
def test_what_workers_cannot_read_is_said(
    uid: int, gids: list[int], look: Callable[[str], os.stat_result], keys: list[str]
) -> None:
    """As the kernel has it: one's own bits, those of the group, else those of the others."""
    named = config(sticky={"secret_file": "/etc/lb/secret"})
    assert [problem.path for problem in unreadable(named, uid, gids, look)] == keys


def test_a_file_that_is_gone_is_no_warning() -> None:
    """Whoever needs it says so."""

    def look(path: str) -> os.stat_result:
        raise FileNotFoundError

    assert not [*exposed(config(), CONFIG, look)]
