"""HUP: what is refused changes nothing at all, what is accepted costs no request, and nothing ends it."""

from __future__ import annotations

import contextlib
import http
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    PROMPT,
    ROOT,
    SCRIPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Load,
    handlers,
    health_check,
    processes,
    seconds,
    wait_until,
)
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

STAYS = "configuration not changed, the last good one stays"
# The file alone decides: the harness gives both as variables, which win over it.
BY_FILE = {"LB_HOST": "", "LB_PORT": ""}
# What is changed in a copy of the program is not compiled.
SOURCES = {"LB_COMPILED": "off"}


@pytest.fixture(name="origin")
def _origin() -> Iterator[Backend]:
    with Backend() as origin:
        yield origin


@pytest.fixture(name="chat")
def _chat() -> Iterator[str]:
    """A WebSocket server that echoes, and answers 200 to whoever wants no WebSocket."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def plain(connection: ServerConnection, request: Any) -> Any:
        if "Upgrade" not in request.headers:
            return connection.respond(http.HTTPStatus.OK, "plain")
        return None

    with serve(echo, "127.0.0.1", 0, process_request=plain) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(PATIENT)


@pytest.fixture(name="installed")
def _installed(tmp_path: Path) -> Path:
    """The program in a folder of its own, where a test may change gunicorn.conf.py and the sources."""
    for name in ("app", "gunicorn.conf.py", "load_balancer.py"):
        source = ROOT / name
        copy: Callable[..., Any] = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path


@contextlib.contextmanager
def taken_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server((host, 0)) as other:
        yield other.getsockname()[1]


def started(balancer: Balancer) -> Balancer:
    """With host and port in the file."""
    balancer.config |= {"host": balancer.host, "port": balancer.port}
    return balancer


class Witness:
    """Everything that a refused reload must leave alone: processes, connections, a tunnel."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.workers = balancer.worker_pids()
        self.control = balancer.control_pids()
        self.client = balancer.connect()
        self.socket: ClientConnection = connect(
            f"ws://{balancer.host}:{balancer.port}/chat", proxy=None
        )
        self.count = 0

    def close(self) -> None:
        self.client.close()
        self.socket.close()

    def look(self) -> None:
        """All of it is as it was, and is used."""
        balancer = self.balancer
        assert balancer.worker_pids() == self.workers
        assert balancer.control_pids() == self.control
        assert self.client.get("/kept").status == 200
        self.count += 1
        self.socket.send(f"message {self.count}")
        assert self.socket.recv(PROMPT) == f"message {self.count}"
        assert balancer.get("/new").status == 200

    def refused(self, path: str, *words: str) -> float:
        """HUP; one line names this place with these words. The seconds until it was there."""
        mark, began = self.balancer.log_mark, time.monotonic()
        self.balancer.signal(signal.SIGHUP)
        self.balancer.log.wait_for(1, "config", mark, message=STAYS)
        took = time.monotonic() - began
        lines = self.balancer.log.select("config", mark)
        problems = [line for line in lines if "path" in line]
        assert [line["path"] for line in problems] == [path], lines
        assert all(word in problems[0]["problem"] for word in words), problems
        assert not any("exception" in line for line in lines)
        self.look()
        return took


@pytest.fixture(
    name="witness", params=[GUNICORN, SCRIPT, STOCK_WORKER], ids=["ours", "py", "stock"]
)
def _witness(request: pytest.FixtureRequest, chat: str, installed: Path) -> Iterator[Witness]:
    balancer = started(
        Balancer([chat], command=request.param, workers=2, root=installed, env=BY_FILE | SOURCES)
    )
    with balancer:
        witness = Witness(balancer)
        yield witness
        witness.close()


def test_what_is_refused_leaves_all_alone(witness: Witness) -> None:
    """A bad file, and places that cannot be listened on: each named, at once, with its remedy."""
    balancer = witness.balancer
    witness.look()
    good = dict(balancer.config)
    balancer.write_config("{")
    witness.refused(str(balancer.config_path))
    with taken_port() as port:
        balancer.config["port"] = port
        balancer.write_config()
        took = witness.refused("port", f"port {port} on 127.0.0.1 is taken", "ss -ltnp", "another")
        assert took < seconds(2)
    balancer.config = {**good, "host": "192.0.2.1"}  # TEST-NET-1, RFC 5737
    balancer.write_config()
    witness.refused("host", "192.0.2.1", "name an address of this machine")
    balancer.config = {**good, "host": "no-such-host.invalid"}
    balancer.write_config()
    witness.refused("host", "no-such-host.invalid", "name an address of this machine")
    balancer.config = {**good, "workers": 3}
    balancer.workers = 3
    balancer.write_config()
    witness.close()
    balancer.reload()
    assert balancer.get("/after").status == 200


BROKEN = {
    "raises": ("spam = eggs\n", "gunicorn.conf.py", ["NameError", "eggs", "line "]),
    "syntax": ("def (\n", "gunicorn.conf.py", ["SyntaxError", "line "]),
    "exits": ("import sys\nsys.exit(3)\n", "gunicorn.conf.py", ["SystemExit: 3"]),
    "says why": ("raise SystemExit('no way')\n", "gunicorn.conf.py", ["SystemExit: no way"]),
    "no exception": ("raise KeyboardInterrupt\n", "gunicorn.conf.py", ["KeyboardInterrupt"]),
    "import": ("import no_such_module\n", "gunicorn.conf.py", ["no_such_module"]),
    "value": ("workers = -1\n", "gunicorn.conf.py", ["ValueError"]),
    "hook": ("on_reload = 7\n", "gunicorn.conf.py", ["TypeError"]),
    "hook raises": (
        "def on_reload(server):\n    hooks.on_reload(server)\n    raise OSError('full')\n",
        "on_reload",
        ["OSError: full"],
    ),
    "nworkers": (
        "def nworkers_changed(server, new, old):\n    1 / 0\n",
        "gunicorn",
        ["ZeroDivisionError"],
    ),
    "worker": ("worker_class = 'no.such.Worker'\n", "worker_class", ["no.such.Worker"]),
    "worker name": ("worker_class = 'app.worker.process.Absent'\n", "worker_class", ["Absent"]),
    "bind": ("bind = '127.0.0.1:port'\n", "bind", ["'port' is not a valid port number"]),
    "range": ("bind = '127.0.0.1:99999'\n", "bind", ["99999"]),
    "folder": ("bind = 'unix:/no/such/folder/s'\n", "bind", ["/no/such/folder/s", "No such file"]),
    "file": ("bind = 'unix:/etc/passwd'\n", "bind", ["/etc/passwd", "not a socket"]),
    "second": ("bind = [bind, '192.0.2.1:80']\n", "bind", ["192.0.2.1"]),
    "descriptor": ("bind = 'fd://3'\n", "bind", ["start"]),
    "pidfile": ("pidfile = '/no/such/folder/pid'\n", "pidfile", ["/no/such/folder"]),
    "certfile": ("certfile = '/no/such.pem'\n", "certfile", ["/no/such.pem"]),
    "tmp": ("worker_tmp_dir = '/no/such/folder'\n", "worker_tmp_dir", ["/no/such/folder"]),
    "reuse": ("reuse_port = True\n", "reuse_port", ["restart"]),
}


def test_no_setting_of_gunicorn_ends_it(witness: Witness, installed: Path) -> None:
    """Whatever is wrong in gunicorn.conf.py is a refusal with its cause; what it had set before is undone."""
    balancer, file = witness.balancer, installed / "gunicorn.conf.py"
    good = file.read_text()
    mask = _mask_of(balancer.master)
    for name, (more, path, words) in BROKEN.items():
        if name in ("worker", "worker name") and balancer.command is STOCK_WORKER:
            continue  # its command line says which
        file.write_text(f"import os\nos.environ['LB_PORT'] = '1'\nos.chdir('/')\n{good}\n{more}")
        witness.refused(path, *words)
        assert os.readlink(f"/proc/{balancer.master}/cwd") == str(installed), name
        assert _mask_of(balancer.master) == mask, name
    file.write_text(good)
    witness.close()
    balancer.reload()
    # LB_PORT was set and taken back each time: else the file's port would have been given up now.
    assert balancer.get("/after").status == 200


def _mask_of(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("Umask"))


def listening(pid: int) -> set[str]:
    """Inodes of the sockets a process holds that are listened on."""
    inodes = set()
    for family in ("tcp", "tcp6"):
        with open(f"/proc/net/{family}", encoding="utf-8") as file:
            inodes |= {line.split()[9] for line in file if line.split()[3] == "0A"}
    held = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            held.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return {inode for inode in inodes if f"socket:[{inode}]" in held}


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_a_host_is_changed_and_changed_back(origin: Backend, command: tuple[str, ...]) -> None:
    """On the same port, under load, also while workers still drain that hold the socket of before.

    gunicorn's own worker leaves alone what waits to be accepted when it closes; ours does not.
    """
    fresh = 3 if command is GUNICORN else 0
    gate = threading.Event()
    balancer = started(Balancer([origin], workers=2, command=command, env=BY_FILE))
    with balancer, contextlib.ExitStack() as clients:
        for host in ("0.0.0.0", "127.0.0.1", "0.0.0.0", "127.0.0.1"):
            origin.handler = handlers.gated(gate)
            client = clients.enter_context(balancer.connect())
            client.send_head("GET", "/held")
            origin.wait_for_request()
            origin.handler = handlers.ok
            origin.clear()
            (before,) = listening(balancer.master)
            with Load(balancer.address, kept=3, fresh=fresh) as load:
                load.wait_for_more(20)
                balancer.config["host"] = host
                balancer.write_config()
                old = balancer.worker_pids()
                balancer.signal(signal.SIGHUP)
                balancer.wait_for_workers(gone=old)
                wait_until(lambda inode=before: listening(balancer.master) != {inode}, PROMPT)
                load.wait_for_more(50)
            assert load.failures == []
            assert any(processes.is_alive(pid) for pid in old)  # one of them has the held request
        gate.set()


def test_a_place_that_stays_keeps_its_socket(
    origin: Backend, installed: Path, tmp_path: Path
) -> None:
    """A Unix socket more, by gunicorn's own setting, and one less: the port's is never opened again."""
    file, place = installed / "gunicorn.conf.py", tmp_path / "socket"
    good = file.read_text()
    with Balancer([origin], workers=1, root=installed, env=SOURCES) as balancer:
        before = listening(balancer.master)
        for more in (
            f"\nbind = [bind, 'unix:{place}']\n",
            "",
            f"\nbind = ['unix:{place}', bind]\n",
        ):
            file.write_text(good + more)
            with Load(balancer.address, kept=2, fresh=2) as load:
                balancer.reload()
                load.wait_for_more(20)
            assert load.failures == []
            assert listening(balancer.master) == before
            with socket.socket(socket.AF_UNIX) as client, contextlib.ExitStack() as refused:
                if not more:
                    refused.enter_context(pytest.raises(ConnectionRefusedError))
                client.connect(str(place))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")


def serving(balancer: Balancer) -> set[int]:
    """The workers, when each of them has accepted a connection."""
    workers = balancer.worker_pids()
    with contextlib.ExitStack() as clients:
        owners: set[int | None] = set()
        while owners != workers:
            client = clients.enter_context(balancer.connect())
            assert client.get("/serving").status == 200
            owners.add(processes.owner_of(client.socket, workers))
    return workers


def test_twenty_reloads_good_and_bad_under_load(origin: Backend, chat: str) -> None:
    """No request fails, and in the end as many workers as configured serve the last good configuration."""
    with Backend() as second, Balancer([origin, second], workers=2) as balancer:
        with Load(balancer.address, kept=4, fresh=2) as load:
            for number in range(20):
                load.wait_for_more(30)
                mark = balancer.log_mark
                if number % 2:
                    balancer.write_config('{"servers": [1]}')
                    balancer.signal(signal.SIGHUP)
                    balancer.log.wait_for(1, "config", mark, message=STAYS)
                else:
                    balancer.set_servers([origin, second] if number % 4 else [origin])
                    balancer.write_config()
                    balancer.signal(signal.SIGHUP)
                    balancer.log.wait_for(1, "gunicorn.error", mark, message="Hang up: Master")
            load.wait_for_more(200)
        assert load.failures == []
        balancer.wait_for_workers()
        wait_until(lambda: len(balancer.worker_pids()) == 2, PATIENT)
        assert len(processes.children(balancer.master)) == 3


def test_a_reload_leaves_the_master_awake(origin: Backend) -> None:
    """While old workers drain the control process is supervised, and another HUP and a TERM are obeyed."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate)
    check = health_check(0.1)
    with (
        Balancer([origin], workers=2, health_check=check) as balancer,
        balancer.connect() as client,
    ):
        old = balancer.worker_pids()
        client.send_head("GET", "/held")
        origin.wait_for_request()
        owner = processes.owner_of(client.socket, old)
        for _ in range(2):
            before = balancer.worker_pids()
            balancer.signal(signal.SIGHUP)
            balancer.wait_for_workers(gone=before | {owner or 0})
        assert processes.is_alive(owner or 0)
        (control,) = balancer.control_pids()
        balancer.signal(signal.SIGKILL, control)
        wait_until(lambda: balancer.control_pids() - {control}, seconds(2), "a successor")
        (victim, *_) = balancer.worker_pids() - {owner}
        balancer.signal(signal.SIGKILL, victim)
        balancer.wait_for_workers(gone={victim, owner or 0}, timeout=seconds(5))
        balancer.signal(signal.SIGTERM)
        gate.set()
        assert client.read_response().status == 200
        assert balancer.wait_for_exit() == 0


def test_a_stop_does_not_wait_for_the_first_checks_of_a_reload(origin: Backend) -> None:
    """Of a new server that hangs, with a long ``timeout``: the reload is given up."""
    with Backend() as second:
        second.probe = handlers.hang
        check = health_check(60, timeout=60)
        with Balancer([origin], health_check=check) as balancer:
            balancer.set_servers([origin, second])
            balancer.write_config()
            balancer.signal(signal.SIGHUP)
            wait_until(lambda: second.probes, PROMPT)
            began = time.monotonic()
            balancer.signal(signal.SIGTERM)
            assert balancer.wait_for_exit() == 0
            assert time.monotonic() - began < seconds(5)


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_workers_that_cannot_boot_replace_nobody(
    origin: Backend, installed: Path, command: tuple[str, ...]
) -> None:
    """Sources on disk that do not import: the old workers serve on, and new ones come when it is mended."""
    source = installed / "app" / "worker" / "client" / "wsgi.py"
    good = source.read_text()
    with Balancer([origin], workers=2, root=installed, env=SOURCES, command=command) as balancer:
        balancer.may_raise = True
        old = serving(balancer)
        source.write_text(good + "\ndef (\n")
        with Load(balancer.address, kept=2, fresh=2) as load:
            balancer.signal(signal.SIGHUP)
            lines = balancer.log.wait_for(3, "master", timeout=PATIENT, serving=2)
            assert {line["message"] for line in lines} == {
                "a worker could not boot, others serve on"
            }
            assert processes.is_alive(min(old))
            assert processes.is_alive(max(old))
            load.wait_for_more(50)
            source.write_text(good)
            wait_until(lambda: not any(map(processes.is_alive, old)), PATIENT, "old workers' end")
            balancer.wait_for_workers(gone=old)
            load.wait_for_more(50)
        assert load.failures == []


def test_a_successor_that_cannot_be_executed_ends_nothing(origin: Backend, installed: Path) -> None:
    """USR2 while the program's folder is not in its place: said, and the balancer goes on."""
    with Balancer([origin], workers=2, root=installed, env=SOURCES) as balancer:
        balancer.may_raise = True
        workers, mark = serving(balancer), balancer.log_mark
        elsewhere = installed.rename(installed.with_name("elsewhere"))
        balancer.signal(signal.SIGUSR2)
        (failure,) = balancer.log.wait_for(1, "master", mark)
        elsewhere.rename(installed)
        # Until its child is waited for, the master takes no second USR2.
        wait_until(lambda: not Path(f"/proc/{failure['pid']}").exists(), PROMPT)
        assert balancer.worker_pids() == workers
        assert balancer.get().status == 200
        old = balancer.upgrade()
        balancer.signal(signal.SIGTERM, old)
        wait_until(lambda: not processes.is_alive(old), PATIENT)
        assert balancer.get().status == 200


def test_reloads_of_two_masters(origin: Backend, installed: Path, tmp_path: Path) -> None:
    """During an upgrade each reloads for itself, with a pidfile too, refused or not; nothing is lost."""
    pidfile = tmp_path / "pid"
    command = (*GUNICORN[:-1], "--pid", str(pidfile), GUNICORN[-1])
    with Balancer(
        [origin],
        workers=1,
        root=installed,
        env=SOURCES,
        command=command,
        health_check=health_check(),
    ) as balancer:
        with Load(balancer.address, kept=3, fresh=1) as load:
            old = balancer.upgrade()
            new = balancer.master
            for bad in (True, False):
                balancer.write_config("{" if bad else None)
                for master in (old, new):
                    mark = balancer.log_mark
                    known = processes.children(master)
                    balancer.signal(signal.SIGHUP, master)
                    if bad:
                        balancer.log.wait_for(1, "config", mark, message=STAYS)
                    else:
                        wait_until(
                            lambda m=master, k=known: processes.children(m) & balancer.booted() - k
                        )
                    load.wait_for_more(50)
            assert (pidfile.read_text(), Path(f"{pidfile}.2").read_text()) == (
                f"{old}\n",
                f"{new}\n",
            )
            wait_until(lambda: len(balancer.control_pids()) == 1, PROMPT)
            balancer.signal(signal.SIGTERM, old)
            wait_until(lambda: not processes.is_alive(old), PATIENT)
            load.wait_for_more(50)
            wait_until(pidfile.exists, PROMPT)
            assert pidfile.read_text() == f"{new}\n"
        assert load.failures == []


def test_what_only_root_can_read_is_refused(origin: Backend, tmp_path: Path) -> None:
    """With ``--user`` the workers read the certificate's key themselves: the reload finds out before."""
    if not nobody_can_run_python():
        pytest.skip("needs root, and a Python that others can read")
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    (tmp_path / "key").chmod(0o600)
    command = (*GUNICORN[:-1], "--user", str(NOBODY), "--group", str(NOBODY), GUNICORN[-1])
    with Balancer([origin], command=command) as balancer:
        workers, mark = balancer.worker_pids(), balancer.log_mark
        balancer.config["tls"] = {
            "certificate": str(tmp_path / "crt"),
            "key": str(tmp_path / "key"),
        }
        balancer.write_config()
        balancer.signal(signal.SIGHUP)
        balancer.log.wait_for(1, "config", mark, message=STAYS)
        (line,) = [line for line in balancer.log.select("config", mark) if "path" in line]
        assert line["path"] == "tls.key"
        assert "Permission denied" in line["problem"]
        assert str(NOBODY) in line["problem"]
        assert balancer.worker_pids() == workers
        assert balancer.get().status == 200


NOBODY = 65534


def nobody_can_run_python() -> bool:
    """Whether another user can read what we run on (a Python in root's home is nobody else's)."""
    command = [sys.executable, "-c", "import concurrent.futures.thread, gevent, requests"]
    try:
        done = subprocess.run(command, user=NOBODY, cwd=ROOT, capture_output=True)
    except PermissionError:
        return False
    return done.returncode == 0
