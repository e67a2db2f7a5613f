"""Processes: started in a session of their own, pinned, weighed through /proc, stopped by pid.

Everything that the bench starts goes through here, so that nothing is left behind by a failure,
Ctrl-C or the death of the bench itself. Knows nothing of HTTP or of any candidate.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
STOP_SECONDS = 5.0
EXTRA_SECONDS = 20
"""What a load tool may take beyond the time that it was given."""

_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """A measurement that could not be made; the message goes into the report."""


@dataclass(frozen=True)
class Usage:
    """What a process tree has used so far."""

    cpu: float
    """User and system seconds, children that have ended and been waited for included."""
    rss_kib: int
    peak_kib: int
    """Sum of the processes' own peaks (VmHWM); pages shared after a fork count once for each."""
    processes: int


class Process:
    """One started program and everything that it forks."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: Sequence[int],
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._stop_signal = stop_signal
        # Appending, so that truncating the file between two measurements leaves no hole.
        with open(log, "ab") as sink, open(log.with_suffix(".err"), "ab") as errors:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=errors,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_setup(cores),  # noqa: PLW1509 -- the bench has one thread
            )
        self.pid = self._popen.pid

    def alive(self) -> bool:
        return self._popen.poll() is None

    def said(self) -> str:
        """The last words on its outputs, for an error message."""
        words = b""
        for path in (self.log, self.log.with_suffix(".err")):
            with contextlib.suppress(OSError):
                words += path.read_bytes()[-600:]
        return words.decode(errors="replace").strip()[-800:]

    def usage(self) -> Usage:
        cpu, rss, peak, count = 0.0, 0, 0, 0
        for pid in family(self.pid):
            with contextlib.suppress(OSError, IndexError):
                fields = _stat(pid)
                cpu += sum(int(field) for field in fields[11:15]) / TICKS
                status = _status(pid)
                rss += status.get("VmRSS", 0)
                peak += status.get("VmHWM", 0)
                count += 1
        return Usage(cpu, rss, peak, count)

    def pss_kib(self) -> int:
        """Proportional set size: shared pages divided among those who share them. Slow to read."""
        total = 0
        for pid in family(self.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total

    def stop(self) -> None:
        """Ask, wait, then insist; returns when no process of the tree is left."""
        members = family(self.pid)
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_SECONDS)
        for pid in (members | family(self.pid)) & _session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()
        wait_until(lambda: not _session(self.pid), STOP_SECONDS)


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.stop()


def run(
    command: Sequence[str], *, cores: Sequence[int], seconds: float, cwd: Path | None = None
) -> str:
    """Run a load tool to its end, pinned, for at most ``seconds``; its output."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        text=True,
        preexec_fn=_setup(cores),  # noqa: PLW1509 -- the bench has one thread
    ) as popen:
        try:
            output, _ = popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{command[0]} took longer than {seconds:.0f} s") from None
        finally:
            popen.kill()
    if popen.returncode != 0:
        raise BenchError(f"{command[0]} ended with {popen.returncode}: {output.strip()[-300:]}")
    return output


def family(root: int) -> set[int]:
    """The process, its descendants, and what was orphaned within its session."""
    parents: dict[int, int] = {}
    members = {root}
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            fields = _stat(pid)
            parents[pid] = int(fields[1])
            if int(fields[3]) == root:
                members.add(pid)
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in members} - members
        members |= children
        grown = bool(children)
    return members


def core_busy(core: int) -> tuple[float, float]:
    """Seconds that a core has spent on anything, and seconds stolen by the hypervisor."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = (
                int(field) / TICKS for field in line.split()[1:9]
            )
            return user + nice + system + irq + softirq, steal
    return 0.0, 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether a connection can be made to it."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.002) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(pause)
    return False


def _setup(cores: Sequence[int]) -> Callable[[], None]:
    """In the child before exec: its cores, and an end if the bench dies without a word."""

    def setup() -> None:
        os.sched_setaffinity(0, cores)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return setup


def _session(root: int) -> set[int]:
    """Live processes (zombies are not) in the session that ``root`` leads."""
    members = set()
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            fields = _stat(pid)
            if int(fields[3]) == root and fields[0] != "Z":
                members.add(pid)
    return members


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int) -> dict[str, int]:
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("VmRSS:", "VmHWM:")):
            key, value = line.split()[:2]
            found[key[:-1]] = int(value)
    return found
