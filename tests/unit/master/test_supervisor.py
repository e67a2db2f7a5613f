"""What the master decides, with an arbiter that only looks like one. Nothing is forked here."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from app import config as configuration
from app.master import hooks, preflight
from app.master.control_process import ControlProcess
from app.master.supervisor import Master
from app.shared import publication, ticket_keys
from app.shared.layout import CHECKED, OWNER, PID, PROPOSED, PUBLISHED
from app.shared.table import TableError
from tests.unit.master.master_bench import (
    ONE_MORE,
    STRANGER,
    Arbiter,
    MasterBench,
    booted,
)


def test_a_bad_configuration_at_a_reload_changes_nothing(
    bench: MasterBench, capsys: pytest.CaptureFixture[str]
) -> None:
    arbiter = bench.start()
    before = publication.published(bench.table)
    bench.write("{")
    bench.reload(arbiter)
    assert publication.published(bench.table) == before
    assert bench.events[-1] == ("error", "configuration not changed, the last good one stays")
    assert capsys.readouterr().err == ""


def test_a_reload_with_more_servers_than_rows_is_refused(bench: MasterBench) -> None:
    arbiter = bench.start()
    servers = ", ".join(f'"http://127.0.0.1:{port}"' for port in range(1000, 1300))
    bench.write(f'{{"servers": [{servers}]}}')
    bench.reload(arbiter)
    assert bench.published_servers() == 1
    bench.write('{"servers": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}')
    bench.reload(arbiter)
    assert bench.published_servers() == 2


def test_a_reload_that_finds_no_free_row_keeps_the_last_good_configuration(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = bench.start()
    good = preflight._in_use

    def refuse(*_: Any) -> int:
        raise TableError("rows are still in use")

    monkeypatch.setattr(publication, "propose", refuse)
    bench.write('{"servers": ["http://127.0.0.1:1"]}')
    bench.reload(arbiter)
    assert preflight._in_use == hooks._the_master().config == good
    assert arbiter.WORKERS == {}
    assert ("error", "configuration not changed") in bench.events


def test_a_reload_without_a_change_publishes_nothing(bench: MasterBench) -> None:
    arbiter = bench.start()
    sequence = bench.table.cells[PUBLISHED]
    bench.reload(arbiter)
    assert bench.table.cells[PUBLISHED] == sequence


def test_nothing_is_published_before_its_sweep(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = bench.start()
    seen: list[tuple[int, int]] = []

    def sweep() -> None:
        cells = bench.table.cells
        seen.append((cells[PUBLISHED], cells[PROPOSED]))
        cells[CHECKED] = cells[PROPOSED]

    monkeypatch.setattr(ControlProcess, "keep", lambda _: sweep())
    bench.write('{"servers": ["http://127.0.0.1:1"]}')
    bench.reload(arbiter)
    assert seen[0] == (1, 2)
    assert bench.table.cells[PUBLISHED] == 2


def test_a_sweep_that_never_ends_is_waited_for_only_so_long(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(ControlProcess, "keep", lambda _: None)
    bench.start()
    assert bench.table.cells[PUBLISHED] == 1
    assert bench.events[-1][0] == "error"


def test_what_fails_after_the_publication_takes_it_back(bench: MasterBench) -> None:
    """A hook of the user's own, say: workers follow a publication at once, whoever is replaced later."""
    arbiter = bench.start()
    good, cfg = preflight._in_use, arbiter.cfg

    def own(server: Any) -> None:
        hooks.on_reload(server)
        assert bench.published_servers() == 2
        raise OSError("full")

    arbiter.settings = lambda: arbiter.app.cfg.set("on_reload", own)
    bench.write(ONE_MORE)
    bench.reload(arbiter)
    assert bench.published_servers() == 1
    assert (preflight._in_use, arbiter.cfg, arbiter.app.cfg) == (good, cfg, cfg)
    assert ("error", "on_reload: OSError: full") in bench.events
    assert arbiter.WORKERS == {}
    arbiter.settings = lambda: None
    bench.reload(arbiter)
    assert bench.published_servers() == 2


def test_who_is_told_to_stop_waits_for_no_first_checks(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload is given up, and the signal is still there for gunicorn, behind those before it."""
    arbiter = bench.start()
    monkeypatch.setattr(ControlProcess, "keep", lambda _: arbiter.SIG_QUEUE.put(15))
    arbiter.SIG_QUEUE.put(signal.SIGCHLD)
    bench.write(ONE_MORE)
    bench.reload(arbiter)
    assert bench.published_servers() == 1
    assert [arbiter.SIG_QUEUE.get() for _ in range(2)] == [signal.SIGCHLD, signal.SIGTERM]


def test_whatever_raises_in_a_reload_is_logged_and_ends_nothing(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter = bench.start()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(configuration, "load", fail)
    bench.reload(arbiter)
    assert [record.message for record in caplog.records] == ["reload failed"]
    assert arbiter.WORKERS == {}
    with pytest.raises(AssertionError):
        hooks.on_reload(arbiter)  # no reload is at work any more


def test_a_reload_waits_for_slots(bench: MasterBench) -> None:
    """Sets of workers that drain for long must not use up what the next one needs."""
    arbiter, old = booted(bench)
    slots = range(1, bench.table.slots)
    for number in slots:
        bench.table.slot(number)[PID] = os.getpid()
    hooks._the_master()._workers._newest_to_go = old[-1].age
    bench.write('{"workers": 3}')
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.num_workers == 2
    waits = ("warning", "reload waits until workers of earlier ones have gone")
    assert bench.events.count(waits) == 1
    for number in slots:
        bench.table.slot(number)[PID] = 0
    arbiter.manage_workers()
    assert arbiter.num_workers == 3


@pytest.mark.parametrize("relation", ["child", "parent"])
def test_the_other_generation_that_published_last_keeps_control(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, relation: str
) -> None:
    arbiter = bench.start()
    other = STRANGER if relation == "child" else os.getppid()
    arbiter.reexec_pid = STRANGER if relation == "child" else 0
    bench.table.cells[OWNER] = other
    bench.forks = 0
    arbiter.manage_workers()
    assert (bench.forks, bench.table.cells[OWNER]) == (0, other)


@pytest.mark.parametrize("owner", [STRANGER, 0])
def test_when_the_other_generation_is_gone_our_configuration_is_in_use_again(
    bench: MasterBench, owner: int
) -> None:
    arbiter = bench.start()
    theirs = publication.propose(bench.table, b'{"servers":[]}', [])
    publication.publish(bench.table, theirs)
    bench.table.cells[OWNER] = owner
    arbiter.manage_workers()
    assert bench.table.cells[OWNER] == os.getpid()
    assert bench.published_servers() == 1


def test_a_failure_of_supervision_neither_stops_the_workers_nor_fills_the_log(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arbiter = bench.start()

    def fail(_: Master) -> None:
        raise OSError(11, "no memory for a fork")

    monkeypatch.setattr(Master, "supervise", fail)
    arbiter.manage_workers()
    arbiter.manage_workers()
    assert arbiter.calls == ["manage_workers", "manage_workers"]
    assert [record.message for record in caplog.records] == ["control process not supervised"]


def test_a_next_master_that_cannot_be_executed_ends_nothing(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Least of all in its child, which has gunicorn's own way to stop our workers."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def fail(*_: Any) -> None:
        raise FileNotFoundError("python")

    monkeypatch.setattr(Arbiter, "reexec", fail)
    arbiter, _ = booted(bench)
    arbiter.reexec()
    assert ended == []
    arbiter.pid = STRANGER
    arbiter.reexec()
    assert ended == [1]
    assert len(caplog.records) == 2


def test_stopping_gives_up_the_ownership(bench: MasterBench) -> None:
    arbiter = bench.start()
    hooks.on_exit(arbiter)
    assert bench.table.cells[OWNER] == 0


def test_stopping_leaves_the_other_generation_s_ownership_alone(bench: MasterBench) -> None:
    arbiter = bench.start()
    bench.table.cells[OWNER] = STRANGER
    hooks.on_exit(arbiter)
    assert bench.table.cells[OWNER] == STRANGER


def test_the_owner_renews_the_keys_of_session_tickets(
    bench: MasterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before the first worker; a day later others, while the old ones are still read."""
    bench.start()
    master = hooks._the_master()
    first = ticket_keys.read(bench.table)
    assert first is not None
    assert first.old == b""
    master.supervise()
    assert ticket_keys.read(bench.table) == first
    day_later = time.monotonic_ns() + ticket_keys.RENEWAL_NS
    monkeypatch.setattr(time, "monotonic_ns", lambda: day_later)
    bench.table.cells[OWNER] = os.getppid()
    master.supervise()
    assert ticket_keys.read(bench.table) == first, "another master's affair"
    bench.table.cells[OWNER] = os.getpid()
    master.supervise()
    second = ticket_keys.read(bench.table)
    assert second is not None
    assert second.old == first.current != second.current
