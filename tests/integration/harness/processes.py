"""What /proc says about processes: parents, sessions, memory, and who holds a socket.

Reads only; sends no signal. A zombie counts as gone: in a container whose first process does not
reap, an orphan that ended stays in the table for good.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One line of /proc/<pid>/stat."""

    pid: int
    parent: int
    session: int
    state: str


def read(pid: int) -> Process | None:
    """The process, or None if it is gone (zombies are)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    # The name stands in brackets and may itself hold spaces and brackets (proc(5)).
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return Process(pid=pid, parent=int(fields[1]), session=int(fields[3]), state=fields[0])


def everything() -> list[Process]:
    """Every living process."""
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    return read(pid) is not None


def children(pid: int) -> set[int]:
    """Living direct children."""
    return {process.pid for process in everything() if process.parent == pid}


def members(session: int, marker: str) -> set[int]:
    """Processes of a session, or that carry ``marker`` in their environment."""
    return {
        process.pid
        for process in everything()
        if process.session == session or _has_marker(process.pid, marker)
    }


def _has_marker(pid: int, marker: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker.encode() in file.read()
    except OSError:
        return False


def describe(pid: int) -> str:
    """The command line, for messages."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """A size in KiB from /proc/<pid>/status; ``VmHWM`` is the highest resident size so far."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise LookupError(field)


def open_files(pid: int) -> int:
    """How many descriptors the process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def has_listener(pid: int) -> bool:
    """Whether the process has a listening TCP socket (IPv4) open; a worker that has to go closes its own."""
    with open("/proc/net/tcp", encoding="utf-8") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") in listening for name in os.listdir(folder))
    except OSError:
        return False


def owner_of(client: socket.socket, candidates: set[int]) -> int | None:
    """Which of the candidates has accepted this client's IPv4 connection; None while nobody has."""
    client_port = client.getsockname()[1]
    server_port = client.getpeername()[1]
    inode = _inode(server_port, client_port)
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in candidates:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(f"/proc/{pid}/fd/{name}") == wanted:
                        return pid
                except OSError:
                    continue
        except OSError:
            continue
    return None


def _inode(local_port: int, remote_port: int) -> str | None:
    with open("/proc/net/tcp", encoding="utf-8") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            local = int(fields[1].split(":")[1], 16)
            remote = int(fields[2].split(":")[1], 16)
            if (local, remote) == (local_port, remote_port) and fields[9] != "0":
                return fields[9]
    return None
