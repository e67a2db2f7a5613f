"""app.master.privileges: more than is needed, and less."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace

import pytest

from app.master.privileges import are_workers_root, groups_of_workers, is_refused

BIND, OTHER = 1 << 10, 1 << 9


@pytest.mark.parametrize(
    ("effective", "worker", "expected"), [(0, 0, True), (0, 33, False), (33, 33, False)]
)
def test_workers_that_are_root(effective: int, worker: int, expected: bool) -> None:
    """Only where gunicorn is not told to give it up."""
    assert are_workers_root(effective, worker) is expected


@pytest.mark.parametrize(
    ("port", "uid", "capabilities", "expected"),
    [
        (80, 33, 0, True),
        (80, 33, OTHER, True),
        (80, 33, BIND | OTHER, False),
        (80, 0, 0, False),
        (1023, 33, 0, True),
        (1024, 33, 0, False),
    ],
)
def test_ports(port: int, uid: int, capabilities: int, expected: bool) -> None:
    """Refused below the first free port, without root and without the capability."""
    assert is_refused(port, 1024, uid, capabilities) is expected


def test_a_system_may_free_all_ports() -> None:
    """net.ipv4.ip_unprivileged_port_start, as containers have it."""
    assert not is_refused(80, 0, 33, 0)


@pytest.mark.parametrize(
    ("uid", "gid", "initgroups", "expected"),
    [
        (33, 33, False, {33, 0, 101}),
        (33, 33, True, {33, 44}),
        (77, 33, True, {33, 0, 101}),
        (0, 33, True, {33, 0, 101}),
    ],
)
def test_the_groups_of_workers(
    uid: int, gid: int, initgroups: bool, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours stay with them, as gunicorn does it, but for --initgroups and a user that has a name."""
    names = {33: "www"}
    monkeypatch.setattr(os, "getgroups", lambda: [0, 101])
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=names[uid]))
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: {"www": [gid, 44]}[name])
    assert groups_of_workers(uid, gid, initgroups) == expected
