"""What the processes may do, and whether that is more or less than they need.

Owns the questions of a start: may we listen on this port, do workers have root's rights, and whose group's.
Ports below 1,024 need a privilege, everything else none; what a client can make a worker do should never be
done as root. Runs in the master. Decisions are functions over values.
"""

from __future__ import annotations

import os
import pwd

_FIRST_FREE_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_CAP_NET_BIND_SERVICE = 1 << 10  # capabilities(7), linux/capability.h
_DEFAULT_FIRST_FREE_PORT = 1024


REMEDY_FOR_ROOT = (
    "start as another user (a port below 1024 then needs CAP_NET_BIND_SERVICE, see "
    "deploy/load-balancer.service), or give gunicorn --user and --group"
)


def are_workers_root(effective_uid: int, worker_uid: int) -> bool:
    """Whether workers have root's rights: ours, unless gunicorn was told to give them up (--user)."""
    return effective_uid == 0 and worker_uid == 0


def groups_of_workers(uid: int, gid: int, initgroups: bool) -> frozenset[int]:
    """The groups of workers that gunicorn gives these ids: with --initgroups the user's, else ours stay."""
    try:
        if initgroups and uid and gid:
            return frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:  # a number without a name: gunicorn leaves the groups alone then
        pass
    return frozenset((gid, *os.getgroups()))


def is_refused(port: int, first_free: int, effective_uid: int, capabilities: int) -> bool:
    """Whether the kernel will not let us listen on this port."""
    may_listen = effective_uid == 0 or capabilities & _CAP_NET_BIND_SERVICE
    return port < first_free and not may_listen


def remedy_for_port(port: int) -> str:
    """What to do about a port that this process may not listen on; empty if it may."""
    first_free = _first_free_port()
    if not is_refused(port, first_free, os.geteuid(), _capabilities()):
        return ""
    return (
        "give CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), lower "
        f"net.ipv4.ip_unprivileged_port_start, or use a port from {first_free}"
    )


def _first_free_port() -> int:
    try:
        with open(_FIRST_FREE_PORT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _DEFAULT_FIRST_FREE_PORT


def _capabilities() -> int:
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return int(lines["CapEff"], 16)
    except (OSError, ValueError, KeyError):
        return 0
