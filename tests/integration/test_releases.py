"""Two releases at once (USR2): what the older one makes of what the newer one has published."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from harness import (
    PATIENT,
    PROMPT,
    ROOT,
    Backend,
    Balancer,
    Client,
    Load,
    handlers,
    health_check,
    processes,
    wait_until,
)

# A key of the newer release, at the top and in each server.
NEW_KEYS = (
    ("app/config/server_keys.py", 'Key("url", URL,', 'Key("zone", Flag(), False, "Newer."), Key("url", URL,'),
    ("app/config/keys.py", 'Key("host", Text', 'Key("newer", Whole(0, 1), 0, "Newer."), Key("host", Text'),
    ("app/config/model.py", "class Config:\n", "class Config:\n    newer: int\n"),
    ("app/config/entries.py", "def server_from(", "def server_from(zone: bool, "),
    ("app/config/model.py", "class Server:\n", "class Server:\n    zone = False\n"),
)  # fmt: skip
NEW_FORM = (("app/config/published.py", "FORM = 1\n", "FORM = 2\n"),)
OTHER_LAYOUT = (("app/shared/layout.py", "VERSION = 4\n", "VERSION = 1_000_000\n"),)


# What is put in place later is not compiled.
SOURCES = {"LB_COMPILED": "off"}


@pytest.fixture(name="origin")
def _origin() -> Iterator[Backend]:
    with Backend() as origin:
        yield origin


@pytest.fixture(name="installed")
def _installed(tmp_path: Path) -> Path:
    """The program in a folder of its own, where a test may put another release in its place."""
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("_compiled"))
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path)
    return tmp_path


def change(folder: Path, changes: tuple[tuple[str, str, str], ...]) -> None:
    """Put the next release in place."""
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert text.count(old) == 1, (name, old)
        (folder / name).write_text(text.replace(old, new))


def held(balancer: Balancer) -> tuple[Client, int]:
    """A connection that has been used, and the worker that has it."""
    client = balancer.connect()
    assert client.get("/held").status == 200
    owner = processes.owner_of(client.socket, balancer.worker_pids())
    assert owner is not None
    return client, owner


def upgraded(balancer: Balancer) -> int:
    """USR2; the old master's pid, when the new one's control process is the only one."""
    (control,) = balancer.control_pids()
    old = balancer.upgrade()
    wait_until(lambda: control not in balancer.control_pids() and len(balancer.control_pids()) == 1)
    return old


def assert_control_stays(balancer: Balancer, origin: Backend, count: int = 1) -> None:
    """Health checks go on, by the same process: none dies and is started again."""
    control = balancer.control_pids()
    assert len(control) == count
    mark, before = balancer.log_mark, len(origin.probes)
    wait_until(lambda: len(origin.probes) > before + 20, PATIENT)
    assert balancer.control_pids() == control
    assert not balancer.log.select("control", mark)


def reach(balancer: Balancer, worker: int) -> None:
    """Connect until this worker has accepted one, and is asked on it."""
    with contextlib.ExitStack() as clients:
        for _ in range(400):
            client = clients.enter_context(balancer.connect())
            assert client.get("/reach").status == 200
            if processes.owner_of(client.socket, {worker}):
                return
    raise AssertionError(f"{worker} accepts nothing")


@pytest.mark.parametrize("changes", [NEW_KEYS, NEW_FORM], ids=["key", "form"])
def test_older_workers_serve_on_whatever_a_newer_master_publishes(
    installed: Path, origin: Backend, changes: tuple[tuple[str, str, str], ...]
) -> None:
    """A key more is left out; a form that cannot be read is said once in each worker. Health is followed."""
    with (
        Backend() as second,
        Balancer(
            [origin, second], workers=2, root=installed, env=SOURCES, health_check=health_check(0.1)
        ) as balancer,
    ):
        client, owner = held(balancer)
        change(installed, changes)
        mark = balancer.log_mark
        old = upgraded(balancer)
        with client, balancer.connect() as new:
            for _ in range(10):
                assert client.get("/old").status == 200
                assert new.get("/new").status == 200
            assert processes.owner_of(client.socket, {owner}) == owner
            second.probe = handlers.answer(503)
            balancer.log.wait_for(1, "health", mark, backend=second.address)
            wait_until(lambda: {client.get("/old").text for _ in range(4)} == {origin.name}, PROMPT)
            assert_control_stays(balancer, origin)
            before = processes.children(old)
            balancer.signal(SIGKILL, owner)  # a worker of the older master boots meanwhile
            booted = wait_until(lambda: processes.children(old) & balancer.booted() - before)
            reach(balancer, booted.pop())
        complaints = [line["sequence"] for line in balancer.log.select("pool", mark)]
        # Of the worker with our connection and of the one that booted; the third had perhaps no request.
        assert len(complaints) in ((2, 3) if changes is NEW_FORM else (0,)), complaints
        with Load(balancer.address, kept=2, fresh=2) as load:
            balancer.signal(SIGTERM, old)
            wait_until(lambda: not processes.is_alive(old), PATIENT, "the old master's end")
            load.wait_for_more(50)
        assert load.failures == []
        assert not [line for line in balancer.log.lines if "exception" in line]


def test_a_release_with_another_table_makes_its_own_and_may_be_taken_back(
    installed: Path, origin: Backend
) -> None:
    """Each master has a control process of its own then; whoever ends, the other serves on."""
    with Balancer(
        [origin], root=installed, env=SOURCES, health_check=health_check(0.1)
    ) as balancer:
        client, _ = held(balancer)
        change(installed, OTHER_LAYOUT)
        first = balancer.upgrade()
        with client, balancer.connect() as new:
            assert client.get("/old").status == new.get("/new").status == 200
            assert balancer.log.select("master", message="the old master's table is left behind")
            wait_until(lambda: len(balancer.control_pids()) == 2)
            assert_control_stays(balancer, origin, count=2)
            second = balancer.master
            balancer.signal(SIGTERM, second)
            wait_until(lambda: not processes.is_alive(second), PATIENT, "the way back")
            balancer.forget(second)
            assert client.get("/still").status == 200
        assert_control_stays(balancer, origin)
        balancer.upgrade()
        with Load(balancer.address, kept=2, fresh=2) as load:
            balancer.signal(SIGTERM, first)
            wait_until(lambda: not processes.is_alive(first), PATIENT, "the old master's end")
            load.wait_for_more(50)
        assert load.failures == []
