"""The real balancer as a child process: started as users start it, watched from outside.

Nothing is imported from the product. What is known of it is what users can rely on: the two commands,
config.json and three environment variables, its standard output, its signals and its exit status.
Leaving the context stops it and checks what must hold for EVERY run: it ends by itself with status 0,
leaves no process, and every line it wrote is what docs/log-schema.json says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from . import processes
from .backend import PROBE_PATH, Backend
from .client import Client
from .logs import Line, Log
from .timing import PATIENT, PROMPT, wait_until

ROOT = Path(__file__).parents[3]

SETTINGS = ("-c", "gunicorn.conf.py")
# The command that users type; its path counts, for USR2 makes gunicorn execute it again.
GUNICORN = (str(Path(sysconfig.get_path("scripts")) / "gunicorn"), *SETTINGS, "app:application")
MODULE = ("-m", "gunicorn", *SETTINGS, "app:application")
STOCK_WORKER = (*GUNICORN[:-1], "-k", "gevent", "app:application")
SCRIPT = ("load_balancer.py",)

MARKER = "LB_TEST_INSTANCE"
OURS = ("LB_CONFIG", "LB_PORT", "LB_HOST", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "PORT", MARKER)


def _own_ports() -> Iterator[int]:
    """Ports of this process alone, where a run of the tests is spread over several (pytest-xdist).

    Below those that the kernel gives to who asks for any (from 32768): between the moment when one is found
    free and the moment when a balancer listens there, no client and no server is given it.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    size = 12_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = 20_000 + size * int(name.removeprefix("gw"))
    start = random.SystemRandom().randrange(size)  # another run of the tests may be at work
    return itertools.cycle([*range(first + start, first + size), *range(first, first + start)])


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now, and nobody else in this run will."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError("the ports never end")


_ports = _own_ports()


def health_check(interval: float = 0.2, **more: Any) -> dict[str, Any]:
    """A ``health_check`` for tests: short, and on the path that ``Backend`` answers apart."""
    return {"path": PROBE_PATH, "interval": interval, "timeout": 1, **more}


def environment(**more: str) -> dict[str, str]:
    """The environment without anything that would steer the balancer, and then ``more``."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    return {**clean, **more}


class Balancer:
    """One run of the balancer in front of ``servers``. Use as a context manager.

    ``settings`` are top-level keys of config.json; ``health_check`` is off unless given.
    """

    live: ClassVar[list[Balancer]] = []

    def __init__(
        self,
        servers: Sequence[Backend | str | dict[str, Any]] = (),
        *,
        workers: int = 1,
        command: Sequence[str] = GUNICORN,
        env: dict[str, str] | None = None,
        host: str = "127.0.0.1",
        is_ready_when_entered: bool = True,
        root: Path = ROOT,
        **settings: Any,
    ) -> None:
        self.host = host
        self.port = free_port()
        self.workers = workers
        self.command = command
        self.root = root
        self.config: dict[str, Any] = {
            "workers": workers,
            "servers": [],
            "health_check": False,
            **settings,
        }
        self.set_servers(servers)
        self._env = env or {}
        self._must_be_ready = is_ready_when_entered
        self._folder = tempfile.TemporaryDirectory(prefix="lb-test-")
        self.config_path = Path(self._folder.name) / "config.json"
        self.marker = uuid.uuid4().hex
        self.expected_status: int | None = 0
        self.may_raise = "-k" in command
        """Whether there may be tracebacks in the log; those of gunicorn's own workers are its affair."""

        self._stderr_text = ""
        self.log: Log
        self._process: subprocess.Popen[bytes]
        self._masters: list[int] = []

    def __repr__(self) -> str:
        return f"<Balancer {self.host}:{self.port} {' '.join(self.command)}>"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    @property
    def master(self) -> int:
        """The newest master's pid."""
        return self._masters[-1]

    @property
    def log_mark(self) -> int:
        """The current position in the log."""
        return self.log.mark()

    def __enter__(self) -> Balancer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            problems = self.stop()
        finally:
            if kind is not None:
                sys.stderr.write(self.report())
        # A test that has failed already keeps its own message.
        if kind is None and problems:
            sys.stderr.write(self.report())
            raise AssertionError("\n".join([repr(self), *problems]))

    def set_servers(self, servers: Sequence[Backend | str | dict[str, Any]]) -> None:
        """Put servers into the configuration (written by ``write_config``)."""
        self.config["servers"] = [s.url if isinstance(s, Backend) else s for s in servers]

    def write_config(self, text: str | None = None) -> None:
        """Write the configuration, or any text in its place."""
        self.config_path.write_text(text or json.dumps(self.config, indent=1), encoding="utf-8")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.write_config()
        env = {
            "LB_CONFIG": str(self.config_path),
            "LB_PORT": str(self.port),
            "LB_HOST": self.host,
            MARKER: self.marker,
            **self._env,
        }
        self._stderr_path = Path(self._folder.name) / "stderr"
        with self._stderr_path.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=self.root,
                env=environment(**{name: value for name, value in env.items() if value}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.log = Log(os.dup(self._process.stdout.fileno()))
        self._process.stdout.close()
        self._masters = [self._process.pid]
        Balancer.live.append(self)
        if self._must_be_ready:
            try:
                self.wait_until_ready()
            except BaseException:
                sys.stderr.write(self.report())
                self.stop()
                raise

    @property
    def connect_host(self) -> str:
        """The Host that clients send."""
        return f"{self.host}:{self.port}"

    def wait_until_ready(self) -> None:
        """Listening, every worker booted, one control process, a connection accepted."""

        def is_ready() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"ended with status {self._process.returncode}")
            is_listening = any(
                str(line.get("message")).startswith("Listening at") for line in self.log.lines
            )
            return is_listening and self.is_complete()

        wait_until(is_ready, PATIENT, f"{self!r} ready")
        self.connect().close()

    def is_complete(self) -> bool:
        """Whether there are as many workers as configured, and exactly one control process."""
        return len(self.worker_pids()) == self.workers and len(self.control_pids()) == 1

    # processes

    def booted(self) -> set[int]:
        """Pids that logged their boot as a worker, living or not."""
        return {
            int(str(line["message"]).rsplit(" ", 1)[1])
            for line in self.log.lines
            if str(line.get("message")).startswith("Booting worker with pid")
        }

    def worker_pids(self) -> set[int]:
        """Living workers of the newest master."""
        return processes.children(self.master) & self.booted()

    def control_pids(self) -> set[int]:
        """Children of any master that are neither workers nor masters: the control process.

        A worker that has been forked and has not logged its boot yet looks the same for a moment.
        """
        found: set[int] = set()
        for master in self._masters:
            found |= processes.children(master)
        return found - self.booted() - set(self._masters)

    def pids(self) -> set[int]:
        """Every living process of this run."""
        return processes.members(self._process.pid, self.marker)

    def wait_for_workers(self, gone: set[int] | None = None, timeout: float = PATIENT) -> set[int]:
        """Wait for a full set of workers beside those in ``gone``, and one control process."""

        def full() -> set[int]:
            now = self.worker_pids() - (gone or set())
            is_full = len(now) == self.workers and len(self.control_pids()) == 1
            return now if is_full else set()

        return wait_until(full, timeout, f"{self.workers} workers other than {gone}")

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send a signal, to the newest master unless a pid is given."""
        os.kill(self.master if pid is None else pid, number)

    def reload(self) -> None:
        """HUP, and wait until a wholly new set of workers serves."""
        old = self.worker_pids()
        self.signal(signal.SIGHUP)
        self.wait_for_workers(gone=old)
        wait_until(lambda: not any(map(processes.is_alive, old)), PATIENT, "old workers gone")

    def upgrade(self) -> int:
        """USR2, and wait until a second master has its workers; returns the old master's pid."""
        old, known = self.master, processes.children(self.master)
        mark = self.log.mark()
        self.signal(signal.SIGUSR2)

        def successor() -> int:
            for pid in processes.children(old) - known - self.booted():
                if processes.children(pid) & self.booted():
                    return pid
            return 0

        new = wait_until(successor, PATIENT, "a second master with workers")
        self._masters.append(new)
        wait_until(lambda: len(self.worker_pids()) == self.workers, PATIENT, "all new workers")
        assert self.log.select(since=mark)
        return old

    def forget(self, master: int) -> None:
        """A master that has been ended on purpose."""
        self._masters.remove(master)

    def wait_for_exit(self, timeout: float = PATIENT) -> int:
        """The first master's exit status."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self!r} still runs after {timeout} s") from None

    # traffic

    def connect(self, **more: Any) -> Client:
        """A client with a new connection."""
        return Client(self.address, **more)

    def get(self, target: str = "/", headers: Sequence[tuple[str, str]] = ()) -> Any:
        """One GET on a connection of its own."""
        with self.connect() as client:
            return client.get(target, headers)

    def access_lines(self, since: int = 0, **fields: Any) -> list[Line]:
        """Access lines so far."""
        return self.log.select("access", since, **fields)

    def health_lines(self, since: int = 0, **fields: Any) -> list[Line]:
        """Changes of health so far."""
        return self.log.select("health", since, **fields)

    def wait_for_access(self, count: int = 1, **fields: Any) -> list[Line]:
        """Wait for that many access lines."""
        return self.log.wait_for(count, "access", **fields)

    def access_line(self, **fields: Any) -> Line:
        """The one access line with these values."""
        lines = self.wait_for_access(1, **fields)
        assert len(lines) == 1, lines
        return lines[0]

    # the end

    def stop(self) -> list[str]:
        """Stop it, by force if need be; what was wrong with this run."""
        if self not in Balancer.live:
            return []
        Balancer.live.remove(self)
        problems = []
        self.log.resume()
        for master in self._masters:
            with contextlib.suppress(ProcessLookupError):
                if self._process.returncode is None or master != self._process.pid:
                    os.kill(master, signal.SIGTERM)
        try:
            status = self._process.wait(PATIENT)
            if self.expected_status is not None and status != self.expected_status:
                problems.append(f"exit status {status}, not {self.expected_status}")
        except subprocess.TimeoutExpired:
            problems.append(f"did not end within {PATIENT:.0f} s of SIGTERM")
        try:
            wait_until(lambda: not self.pids(), PROMPT, "no process left")
        except AssertionError:
            left = sorted(self.pids())
            problems.append(f"left behind: {[(pid, processes.describe(pid)) for pid in left]}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(PATIENT)
        self.log.join()
        problems += self.log.problems()
        if not self.may_raise:
            raised = [line for line in self.log.lines if "exception" in line]
            problems += [f"uncaught exception: {line['exception']}" for line in raised[:3]]
        self._stderr_text = self.stderr()
        self._folder.cleanup()
        if self._stderr_text:
            problems.append(f"wrote to standard error: {self._stderr_text[-2000:]}")
        return problems

    def stderr(self) -> str:
        """What it wrote to standard error."""
        if not self._stderr_path.exists():
            return self._stderr_text
        return self._stderr_path.read_text(encoding="utf-8", errors="replace")

    def report(self) -> str:
        """The ends of both outputs, for messages."""
        return (
            f"--- {self!r}: last lines of stdout ---\n{self.log.tail()}\n"
            f"--- stderr ---\n{self.stderr()[-4000:]}\n---"
        )


def run(
    command: Sequence[str],
    config: str | Path | None,
    timeout: float = PATIENT,
    root: Path = ROOT,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command of the balancer that is expected to end by itself."""
    more = {} if config is None else {"LB_CONFIG": str(config)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment(**more, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        start_new_session=True,
    )
