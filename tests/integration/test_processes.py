"""Processes that die, reload, upgrade and stop: what clients notice, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import (
    GUNICORN,
    MODULE,
    PATIENT,
    PROMPT,
    ROOT,
    SCRIPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Load,
    NoAnswer,
    Truncated,
    burst,
    environment,
    free_port,
    handlers,
    health_check,
    processes,
    seconds,
    wait_until,
)


@pytest.fixture(name="origin")
def _origin() -> Iterator[Backend]:
    with Backend() as origin:
        yield origin


def place(balancer: Balancer, placed: dict[int, list[Client]]) -> None:
    """One connection more, filed under the worker that accepted it."""
    client = balancer.connect()
    assert client.get("/place").status == 200
    pid = processes.owner_of(client.socket, set(placed))
    assert pid is not None
    placed[pid].append(client)


def clients_by_worker(balancer: Balancer, least: int) -> dict[int, list[Client]]:
    """Connections that have been accepted, by their worker: at least that many for each."""
    found: dict[int, list[Client]] = {pid: [] for pid in balancer.worker_pids()}
    for _ in range(400):
        place(balancer, found)
        if all(len(clients) >= least for clients in found.values()):
            return found
    raise AssertionError(f"no fair share of connections: { {p: len(c) for p, c in found.items()} }")


def test_a_trickle_of_connections_is_shared(origin: Backend) -> None:
    """Forty that come one after another and stay: neither worker has them all, nor after one was replaced."""
    with Balancer([origin], workers=2) as balancer:
        for _ in range(2):
            for clients in clients_by_worker(balancer, least=1).values():  # both are there
                for client in clients:
                    client.close()
            placed: dict[int, list[Client]] = {pid: [] for pid in balancer.worker_pids()}
            for _ in range(40):
                place(balancer, placed)
            assert min(map(len, placed.values())) >= 10, {p: len(c) for p, c in placed.items()}
            first = min(placed)
            os.kill(first, signal.SIGKILL)
            for clients in placed.values():
                for client in clients:
                    client.close()
            wait_until(
                lambda gone=first: len(pids := balancer.worker_pids()) == 2 and gone not in pids
            )


def test_killed_worker_takes_only_its_own_requests(origin: Backend) -> None:
    """kill -9 of one of two workers: its requests end unanswered, every other one is answered."""
    gate = threading.Event()
    with Balancer([origin], workers=2) as balancer:
        placed = clients_by_worker(balancer, least=3)
        origin.handler = handlers.gated(gate)
        origin.clear()
        for clients in placed.values():
            for client in clients:
                client.send_head("GET", "/held")
        origin.wait_for_request(sum(map(len, placed.values())))
        victim = min(placed)
        balancer.signal(signal.SIGKILL, victim)
        for client in placed.pop(victim):
            with pytest.raises(NoAnswer):
                client.read_response()
            client.close()
        gate.set()
        (others,) = placed.values()
        for client in others:
            assert client.read_response().status == 200
            client.close()
        balancer.wait_for_workers(gone={victim})
        assert len(burst(balancer.address, 50, clients=4)) == 50


def test_killed_control_process_is_back_within_two_seconds(origin: Backend) -> None:
    """kill -9 of the control process, again and again: one successor each time, and checks go on."""
    with Balancer([origin], workers=2, health_check=health_check(0.1)) as balancer:
        (control,) = balancer.control_pids()
        for _ in range(3):
            killed = time.monotonic()
            balancer.signal(signal.SIGKILL, control)
            seen = wait_until(
                lambda old=control: balancer.control_pids() - {old}, seconds(2), "a successor"
            )
            assert time.monotonic() - killed < seconds(2)
            assert len(seen) == 1
            (control,) = seen
            before = len(origin.probes)
            wait_until(lambda n=before: len(origin.probes) > n + 3, PROMPT, "health checks")
            assert balancer.control_pids() == {control}
            assert balancer.get().status == 200
        origin.probe = handlers.answer(503)
        balancer.log.wait_for(1, "health")
        said = wait_until(lambda: balancer.log.select("control", level="warning"), PROMPT)
        assert [line["signal"] for line in said] == ["SIGKILL"] * 3


def test_exactly_one_control_process_at_any_time(origin: Backend) -> None:
    """Through reloads, an upgrade and the old master's end there is never a second one."""
    samples: list[set[int]] = []
    masters: set[int] = set()
    is_over = threading.Event()

    with Balancer([origin], workers=2, health_check=health_check(0.1)) as balancer:

        def sample() -> None:
            while not is_over.is_set():
                samples.append(balancer.pids())
                time.sleep(0.02)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        first = balancer.master
        (control,) = balancer.control_pids()
        balancer.reload()
        balancer.reload()
        assert balancer.control_pids() == {control}
        old = balancer.upgrade()
        masters = {first, balancer.master}
        balancer.signal(signal.SIGTERM, old)
        wait_until(lambda: not processes.is_alive(old), PATIENT)
        gone = time.monotonic()
        wait_until(lambda: len(balancer.control_pids()) == 1, seconds(2), "a control process")
        assert time.monotonic() - gone < seconds(2)
        before = len(origin.probes)
        wait_until(lambda: len(origin.probes) > before + 3, PROMPT)
        is_over.set()
        thread.join()
        # A process that has not logged its boot in the end was no worker.
        others = [pids - balancer.booted() - masters for pids in samples]
        assert max(map(len, others)) == 1, [pids for pids in others if len(pids) > 1][:5]


def test_two_hundred_killed_workers(origin: Backend) -> None:
    """Workers killed at random instants, booting or serving, under checks every 50 ms: no deadlock."""
    chance = random.Random(os.getpid())
    check = health_check(0.05, healthy_threshold=1, unhealthy_threshold=1)
    other = Backend()
    with other, Balancer([origin, other], workers=4, health_check=check) as balancer:
        (control,) = balancer.control_pids()
        is_over = threading.Event()

        def knock() -> None:
            """Requests meanwhile: they may fail with their worker, they may not hang."""
            while not is_over.is_set():
                try:
                    balancer.get("/meanwhile")
                except (OSError, Truncated):
                    pass
                is_over.wait(0.01)

        threads = [threading.Thread(target=knock, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            victims = wait_until(lambda: processes.children(balancer.master) - {control}, PROMPT)
            os.kill(chance.choice(sorted(victims)), signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.08))
        is_over.set()
        for thread in threads:
            thread.join(PATIENT)
            assert not thread.is_alive()

        balancer.wait_for_workers()
        assert balancer.control_pids() == {control}
        mark = balancer.log_mark
        other.probe = handlers.answer(503)
        balancer.log.wait_for(1, "health", mark, backend=other.address)
        wait_until(lambda: balancer.get().text == balancer.get().text == origin.name, PROMPT)
        other.probe = handlers.answer(200)
        balancer.log.wait_for(2, "health", mark, backend=other.address)
        wait_until(lambda: balancer.get().text == other.name, PROMPT)
        origin.clear()
        other.clear()
        burst(balancer.address, 200, clients=8)
        assert abs(len(origin.requests) - len(other.requests)) <= 1


def test_hup_under_load_loses_no_request(origin: Backend) -> None:
    """Four reloads under load: clients on kept and on new connections see no failed request."""
    with Balancer([origin], workers=2, health_check=health_check(0.5)) as balancer:
        with Load(balancer.address, kept=6, fresh=2) as load:
            for _ in range(4):
                load.wait_for_more(150)
                balancer.reload()
            load.wait_for_more(150)
        assert load.failures == []
        assert sum(outcome.is_reused for outcome in load.outcomes) > 300


def test_hup_takes_a_new_configuration(origin: Backend) -> None:
    """Servers added and removed at HUP, under load: no failed request, and the new set is used."""
    with Backend() as second, Backend() as third, Balancer([origin, second], workers=2) as balancer:
        with Load(balancer.address, kept=3, fresh=1) as load:
            load.wait_for_more(50)
            balancer.set_servers([second, third])
            balancer.write_config()
            balancer.reload()
            before = len(origin.requests)
            load.wait_for_more(100)
        assert load.failures == []
        assert len(origin.requests) == before
        assert third.requests


def test_hup_changes_the_number_of_workers(origin: Backend) -> None:
    """``workers`` in the file is obeyed at HUP."""
    with Balancer([origin], workers=1) as balancer:
        for workers in (3, 2):
            balancer.config["workers"] = balancer.workers = workers
            balancer.write_config()
            balancer.reload()
            assert len(balancer.worker_pids()) == workers
            assert balancer.get().status == 200


def test_long_request_survives_hup(origin: Backend) -> None:
    """A request in flight at HUP is finished by the old worker."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate)
    with Balancer([origin]) as balancer, balancer.connect() as client:
        old = balancer.worker_pids()
        client.send_head("GET", "/long")
        origin.wait_for_request()
        balancer.signal(signal.SIGHUP)
        balancer.wait_for_workers(gone=old)
        origin.handler = handlers.ok
        assert balancer.get().status == 200
        gate.set()
        assert client.read_response().status == 200
        client.close()  # or it is kept for another request
        wait_until(lambda: not any(map(processes.is_alive, old)), PATIENT)


def test_sigterm_finishes_what_is_in_flight(origin: Backend) -> None:
    """SIGTERM under load: what has reached a backend is answered whole, then exit status 0."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate, handlers.stream(300_000))
    with Balancer([origin], workers=2) as balancer:
        clients = [balancer.connect() for _ in range(20)]
        for client in clients:
            client.send_head("GET", "/flight")
        origin.wait_for_request(20)
        balancer.signal(signal.SIGTERM)
        wait_until(lambda: _is_refused(balancer), PROMPT, "no new connections")
        gate.set()
        for client in clients:
            response = client.read_response()
            assert (response.status, len(response.body)) == (200, 300_000)
            client.close()
        assert balancer.wait_for_exit() == 0
        assert len(balancer.wait_for_access(20, target="/flight", status=200)) == 20


def _is_refused(balancer: Balancer) -> bool:
    try:
        balancer.connect().close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("kind", ["silent", "served"])
def test_idle_clients_do_not_hold_up_the_stop(origin: Backend, kind: str) -> None:
    """A client that has said nothing, or nothing more, is not waited for."""
    with Balancer([origin]) as balancer, balancer.connect() as client:
        if kind == "served":
            assert client.get("/").status == 200
        wait_until(lambda: processes.owner_of(client.socket, balancer.worker_pids()), PROMPT)
        started = time.monotonic()
        balancer.signal(signal.SIGTERM)
        assert balancer.wait_for_exit(PATIENT * 2) == 0
        assert time.monotonic() - started < seconds(5)


def test_sigterm_waits_no_longer_than_it_should(origin: Backend) -> None:
    """``graceful_timeout`` bounds the wait; a request that does not end is told so, and logged."""
    origin.handler = handlers.hang
    with Balancer([origin], graceful_timeout=seconds(1)) as balancer, balancer.connect() as client:
        client.send_head("GET", "/stuck")
        origin.wait_for_request()
        started = time.monotonic()
        balancer.signal(signal.SIGTERM)
        response = client.read_response()
        assert (response.status, response.json()["reason"]) == (503, "shutting_down")
        assert balancer.wait_for_exit() == 0
        assert seconds(0.5) < time.monotonic() - started < seconds(5)
        assert balancer.access_line(target="/stuck")["reason"] == "shutting_down"


def test_sigint_and_sigquit_stop_at_once(origin: Backend) -> None:
    """Control-C, and SIGQUIT, end it with status 0 and leave nothing; what is cut is told, and logged."""
    for asked, number in enumerate((signal.SIGINT, signal.SIGQUIT), 1):
        with Balancer([origin], workers=2, health_check=health_check()) as balancer:
            client = balancer.connect()
            origin.handler = handlers.hang
            client.send_head("GET", "/cut")
            origin.wait_for_request(asked)
            balancer.signal(number)
            assert client.read_response().json()["reason"] == "shutting_down"
            assert balancer.wait_for_exit(PROMPT) == 0
            assert balancer.access_line(target="/cut")["reason"] == "shutting_down"


def retired_by_hup(balancer: Balancer) -> None:
    """The workers are replaced."""
    balancer.signal(signal.SIGHUP)


def retired_by_usr2(balancer: Balancer) -> None:
    """Their whole master is replaced."""
    balancer.signal(signal.SIGTERM, balancer.upgrade())


def retired_by_ttou(balancer: Balancer) -> None:
    """There is one more, and then one less: the oldest goes."""
    old = balancer.worker_pids()
    balancer.signal(signal.SIGTTIN)
    wait_until(lambda: len(balancer.worker_pids()) > len(old), PATIENT)
    for clients in clients_by_worker(balancer, least=1).values():  # both serve
        for client in clients:
            client.close()
    balancer.signal(signal.SIGTTOU)


def retired_by_term(balancer: Balancer) -> None:
    """Somebody tells one of the workers itself."""
    (worker,) = balancer.worker_pids()
    balancer.signal(signal.SIGTERM, worker)
    balancer.wait_for_workers(gone={worker})


@pytest.mark.parametrize(
    "retire", [retired_by_hup, retired_by_usr2, retired_by_ttou, retired_by_term]
)
@pytest.mark.parametrize("is_parked", [False, True], ids=["just served", "parked"])
def test_a_worker_that_is_replaced_keeps_its_idle_clients(
    origin: Backend, retire: Callable[[Balancer], None], is_parked: bool
) -> None:
    """One that does not look before it sends loses no request, however late that is; then it is told."""
    with Balancer([origin]) as balancer, balancer.connect() as client:
        assert not client.get("/first").will_close
        (worker,) = balancer.worker_pids()
        if is_parked:
            time.sleep(1.5)  # parked after one second
        retire(balancer)
        wait_until(lambda: not processes.has_listener(worker), PATIENT, "told to go")
        assert not client.is_closed(3.5), "that is longer than idle clients have at a stop"
        answer = client.get("/second")
        assert (answer.status, answer.will_close) == (200, True)
        wait_until(lambda: not processes.is_alive(worker), PATIENT, "its end")
        assert balancer.get("/third").status == 200
        for target in ("/first", "/second", "/third"):
            assert len(balancer.wait_for_access(1, target=target)) == 1


def test_a_worker_goes_after_its_requests_and_nobody_notices(origin: Backend) -> None:
    """--max-requests, with its jitter: a successor serves first, and every request has its answer."""
    command = (*GUNICORN[:-1], "--max-requests", "50", "--max-requests-jitter", "20", GUNICORN[-1])
    with Balancer([origin], workers=2, command=command) as balancer:
        old = balancer.worker_pids()
        with Load(balancer.address, kept=2, fresh=2) as load:
            wait_until(lambda: not any(map(processes.is_alive, old)), PATIENT * 2, "their ends")
            load.wait_for_more(50)
        assert load.failures == []
        assert len(balancer.access_lines()) >= 100


@pytest.mark.parametrize(
    "command", [GUNICORN, MODULE, SCRIPT], ids=["gunicorn", "module", "script"]
)
def test_upgrade_under_load(origin: Backend, command: tuple[str, ...]) -> None:
    """USR2, then TERM to the old master: the new one serves on the same port, nothing is lost."""
    check = health_check()
    with Balancer([origin], workers=2, command=command, health_check=check) as balancer:
        with Load(balancer.address, kept=4, fresh=2) as load:
            load.wait_for_more(50)
            old = balancer.upgrade()
            load.wait_for_more(100)
            balancer.signal(signal.SIGTERM, old)
            wait_until(lambda: not processes.is_alive(old), PATIENT, "the old master's end")
            load.wait_for_more(100)
        assert load.failures == []
        balancer.wait_for_workers()


def test_an_old_master_may_be_told_to_go_too_early(origin: Backend, tmp_path: Path) -> None:
    """TERM while the next one's workers still import: the old ones accept until those do."""
    slow = tmp_path / "sitecustomize.py"
    env = {"PYTHONPATH": str(tmp_path)}
    with Balancer([origin], workers=2, env=env) as balancer:
        slow.write_text(
            "import os, sys, time\n"
            "class Slow:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'app.worker.application':\n"
            "            time.sleep(3)\n"
            "sys.meta_path.insert(0, Slow())\n"
        )
        old = balancer.upgrade()
        balancer.signal(signal.SIGTERM, old)
        wait_until(
            lambda: balancer.log.select("gunicorn.error", message="Handling signal: term"), PATIENT
        )
        for _ in range(30):
            began = time.monotonic()
            assert balancer.get().status == 200
            assert time.monotonic() - began < seconds(1)
            time.sleep(0.1)
        balancer.forget(old)
        wait_until(lambda: not processes.is_alive(old), PATIENT, "the old master's end")
        assert balancer.get().status == 200


def test_upgrade_can_be_taken_back(origin: Backend) -> None:
    """USR2, then TERM to the NEW master: the old one goes on, health checks included."""
    with Balancer([origin], workers=1, health_check=health_check(0.1)) as balancer:
        old = balancer.upgrade()
        new = balancer.master
        balancer.signal(signal.SIGTERM, new)
        wait_until(lambda: not processes.is_alive(new), PATIENT)
        balancer.forget(new)
        assert balancer.master == old
        balancer.wait_for_workers()
        before = len(origin.probes)
        wait_until(lambda: len(origin.probes) > before + 3, PROMPT)
        assert balancer.get().status == 200


def shared_memory_files() -> set[str]:
    """Files in /dev/shm; folders are other programs'."""
    return {entry.name for entry in os.scandir("/dev/shm") if not entry.is_dir()}


def test_killed_master_leaves_nothing(origin: Backend) -> None:
    """SIGKILL of the master: every process ends by itself, and /dev/shm is as before."""
    before = shared_memory_files()
    with Balancer([origin], workers=2, health_check=health_check(0.1)) as balancer:
        assert balancer.get().status == 200
        everybody = balancer.pids()
        assert len(everybody) == 4
        balancer.expected_status = -signal.SIGKILL
        balancer.signal(signal.SIGKILL)
        wait_until(lambda: not balancer.pids(), PROMPT, "every process gone")
    wait_until(lambda: shared_memory_files() <= before, PROMPT, "nothing in /dev/shm")


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "gunicorn's"])
def test_workers_without_a_master_finish_what_is_in_flight(
    origin: Backend, command: tuple[str, ...]
) -> None:
    """kill -9 of the master: they accept no more, answer all they have, log it and end."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate, handlers.stream(300_000))
    with Balancer([origin], workers=2, command=command) as balancer:
        clients = [balancer.connect() for _ in range(10)]
        for client in clients:
            client.send_head("GET", "/orphan", [("Connection", "close")])
        origin.wait_for_request(10)
        balancer.expected_status = None
        balancer.signal(signal.SIGKILL)
        wait_until(lambda: _is_refused(balancer), PATIENT, "no new connections")
        gate.set()
        for client in clients:
            response = client.read_response()
            assert (response.status, len(response.body)) == (200, 300_000)
            client.close()
        wait_until(lambda: not balancer.pids(), PATIENT, "nobody left")
        assert len(balancer.wait_for_access(10, target="/orphan", status=200)) == 10


def test_a_group_that_was_stopped_goes_on(origin: Backend) -> None:
    """SIGSTOP to all, as a machine that is suspended: nobody is killed, all in flight is answered."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate)
    command = (*GUNICORN[:-1], "--timeout", "2", GUNICORN[-1])
    with Balancer([origin], workers=2, command=command, health_check=health_check()) as balancer:
        clients = [balancer.connect() for _ in range(10)]
        for client in clients:
            client.send_head("GET", "/slept")
        origin.wait_for_request(10)
        before = balancer.pids()
        for pid in before:
            balancer.signal(signal.SIGSTOP, pid)
        time.sleep(11)  # the control process is taken for hung after ten, workers after two here
        for pid in sorted(before):  # the master first
            balancer.signal(signal.SIGCONT, pid)
        wait_until(lambda: balancer.log.select("master", level="warning"), PATIENT, "it noticed")
        time.sleep(3)  # longer than workers have for their beats
        gate.set()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        assert balancer.pids() == before
        assert len(balancer.wait_for_access(10, target="/slept", status=200)) == 10


def test_nothing_in_dev_shm_at_any_time(origin: Backend) -> None:
    """The shared segment has no name that anybody's death could leave behind."""
    before = shared_memory_files()
    with Balancer([origin], workers=2, health_check=health_check(0.1)) as balancer:
        wait_until(lambda: shared_memory_files() <= before, PROMPT)
        for pid in balancer.worker_pids() | balancer.control_pids():
            balancer.signal(signal.SIGKILL, pid)
        balancer.wait_for_workers()
    wait_until(lambda: shared_memory_files() <= before, PROMPT)


@pytest.mark.parametrize("command", [GUNICORN, SCRIPT], ids=["gunicorn", "script"])
def test_a_closed_stdout_is_nobody_s_number(
    origin: Backend, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Started with ``>&- 2>&- <&-``: no log line goes into the table of the next master (USR2)."""
    port = free_port()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"servers": [origin.url], "workers": 1, "health_check": False}))
    env = environment(LB_CONFIG=str(config), LB_PORT=str(port), LB_HOST="127.0.0.1")
    shell = ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", sys.executable, *command]
    with subprocess.Popen(shell, cwd=ROOT, env=env, start_new_session=True) as master:

        def answers() -> bool:
            with contextlib.suppress(OSError), Client(("127.0.0.1", port)) as client:
                return client.get("/").status == 200
            return False

        try:
            wait_until(answers, PATIENT, "it serves")
            before = processes.children(master.pid)
            os.kill(master.pid, signal.SIGUSR2)
            (new,) = wait_until(
                lambda: {
                    pid
                    for pid in processes.children(master.pid) - before
                    if processes.children(pid)
                },
                PATIENT,
                "a second master",
            )
            for pid in (master.pid, new, *processes.children(new)):
                for number in (0, 1, 2):
                    assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
            os.kill(new, signal.SIGTERM)
            wait_until(lambda: not processes.is_alive(new), PATIENT, "its end")
        finally:
            os.kill(master.pid, signal.SIGTERM)


def test_no_thread_in_the_master(origin: Backend) -> None:
    """Forking from a threaded process can deadlock the child, so the master has one thread."""
    with Balancer([origin], workers=2, health_check=health_check(0.1)) as balancer:
        assert len(os.listdir(f"/proc/{balancer.master}/task")) == 1
        balancer.reload()
        assert len(os.listdir(f"/proc/{balancer.master}/task")) == 1


def test_in_flight_counts_survive_nothing(origin: Backend) -> None:
    """A killed worker's requests are not counted as in flight for ever: max_connections stays usable."""
    gate = threading.Event()
    origin.handler = handlers.gated(gate)
    with Balancer([{"url": origin.url, "max_connections": 2}], workers=1) as balancer:
        clients = [balancer.connect() for _ in range(2)]
        for client in clients:
            client.send_head("GET", "/held")
        origin.wait_for_request(2)
        assert balancer.get("/third").status == 503
        (victim,) = balancer.worker_pids()
        balancer.signal(signal.SIGKILL, victim)
        balancer.wait_for_workers(gone={victim})
        gate.set()
        wait_until(lambda: balancer.get("/again").status == 200, PROMPT)
        for client in clients:
            client.close()
