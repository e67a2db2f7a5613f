"""app.worker.process: what a drain does with each connection, by a clock that is turned by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.telemetry import log
from app.worker import process
from app.worker.admission import Admission
from app.worker.client.contract import DRAIN_IDLE_SECONDS, DrainState
from app.worker.net.deadlines import NEVER
from app.worker.process import CUT_SECONDS, SUCCESSOR_SECONDS, Worker

BEGIN = 1000.0


class Connection:
    """One that is served; it ends ``lasts`` seconds after the drain began, or when it is cut or expires."""

    def __init__(self, worker: Draining, lasts: float, is_idle: bool) -> None:
        self.is_idle = is_idle
        self.deadline = SimpleNamespace(at=NEVER)
        self.did: list[str] = []
        self.ends_at = BEGIN + lasts
        self.place = worker.admission.enter()
        self.place.begin(self)

    def drain(self) -> None:
        self.did.append("drain")

    def cut(self) -> None:
        self.did.append("cut")
        self.place.leave()

    def look(self, now: float) -> None:
        if now >= min(self.ends_at, self.deadline.at):
            self.place.leave()


class Draining:
    """A worker that has been told to go, its connections, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, graceful_timeout: float) -> None:
        self.now = BEGIN
        self.admission = Admission()
        self.connections: list[Connection] = []
        self.idle_closed_at: list[float] = []
        self.others_accept_until = 0.0
        worker: Any = Worker.__new__(Worker)
        worker._drain_state = self.state = DrainState()
        worker._is_quick = False
        worker.cfg = SimpleNamespace(graceful_timeout=graceful_timeout)
        worker.notify = lambda: None
        self.worker = worker
        self._callbacks: list[Callable[[], None]] = []
        hub = SimpleNamespace(loop=SimpleNamespace(run_callback=self._callbacks.append))
        monkeypatch.setattr(process, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            process, "gevent", SimpleNamespace(sleep=self._sleep, get_hub=lambda: hub)
        )

    def serve(self, lasts: float = 1e9, is_idle: bool = False) -> Connection:
        self.connections.append(Connection(self, lasts, is_idle))
        return self.connections[-1]

    def run(self) -> float:
        """Drain; how long it took."""
        parking: Any = SimpleNamespace(close_idle=lambda: self.idle_closed_at.append(self.now))
        self.worker._drain(self.admission, parking, lambda: self.now > self.others_accept_until)
        return self.now - BEGIN

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        for callback in self._callbacks:
            callback()
        self._callbacks.clear()
        for connection in self.connections:
            connection.look(self.now)


@pytest.fixture(name="make")
def _make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Draining]:
    def make(graceful_timeout: float = 30.0) -> Draining:
        return Draining(monkeypatch, graceful_timeout)

    return make


def test_gunicorn_s_flag_is_the_drain_of_the_connections() -> None:
    """Its signal handlers take it down: from then on every answer says that it is the last."""
    worker: Any = Worker.__new__(Worker)
    worker._drain_state = state = DrainState()
    worker.alive = True
    assert not state.is_on
    worker.alive = False
    assert state.is_on
    assert worker.alive is False


def test_a_worker_without_its_master_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn's would exit from within its beat. It is said once."""
    beats: list[str] = []
    said: list[str] = []
    worker: Any = Worker.__new__(Worker)
    worker._drain_state = DrainState()
    worker.tmp = SimpleNamespace(notify=lambda: beats.append("beat"))
    worker.pid, worker.ppid = os.getpid(), os.getppid()
    monkeypatch.setattr(log, "event", lambda *told, **_: said.append(told[2]))
    worker.notify()
    assert (worker.alive, said) == (True, [])
    worker.ppid = 2**22 + 1
    worker.notify()
    worker.notify()
    assert (worker.alive, len(said), len(beats)) == (False, 1, 3)


def test_sigquit_cuts_what_goes_on(make: Callable[..., Draining]) -> None:
    """So that each request has an answer and its line; gunicorn's would only end the process."""
    drain = make()
    connection = drain.serve()
    told: list[Any] = []
    drain.worker.cfg.worker_int = told.append
    process.gevent.spawn = lambda function, *args: function(*args)  # type: ignore[assignment]
    drain.worker.handle_quit(3, None)
    assert drain.run() == pytest.approx(0, abs=0.6)
    assert connection.did == ["drain", "cut"]
    assert (drain.worker.alive, told) == (False, [drain.worker])


@pytest.mark.parametrize(
    ("accepts_after", "is_awaited", "is_quick", "waited"),
    [
        (0.0, True, False, 0.0),
        (3.0, True, False, 3.0),
        (1e9, True, False, SUCCESSOR_SECONDS),  # it never comes
        (1e9, False, False, 0.0),  # a stop
        (1e9, True, True, 0.0),
    ],
)
def test_a_worker_that_has_to_go_accepts_until_another_does(
    make: Callable[..., Draining],
    accepts_after: float,
    is_awaited: bool,
    is_quick: bool,
    waited: float,
) -> None:
    """If there is one on its way."""
    drain = make()
    drain.worker._is_quick = is_quick
    share: Any = SimpleNamespace(
        is_alone=lambda: drain.now < BEGIN + accepts_after, is_awaited=lambda: is_awaited
    )
    drain.worker._wait_for_successor(share)
    assert drain.now - BEGIN == pytest.approx(waited, abs=0.1)


def test_with_nobody_there_it_ends_at_once(make: Callable[..., Draining]) -> None:
    assert make().run() == 0.0


def test_what_is_served_is_told_and_finished(make: Callable[..., Draining]) -> None:
    """However long it takes within graceful_timeout."""
    drain = make()
    connection = drain.serve(lasts=20.0)
    assert drain.run() == pytest.approx(20, abs=0.2)
    assert connection.did == ["drain"]


def test_what_does_not_finish_is_cut(make: Callable[..., Draining]) -> None:
    """A little before the master kills the worker, so that its client can be told."""
    drain = make(10.0)
    connection = drain.serve()
    assert drain.run() == pytest.approx(10 - CUT_SECONDS, abs=0.2)
    assert connection.did == ["drain", "cut"]


def test_idle_clients_may_ask_once_more_for_a_moment(make: Callable[..., Draining]) -> None:
    """Then those in their greenlets expire, and those that are parked are closed."""
    drain = make()
    connection = drain.serve(is_idle=True)
    assert drain.run() == pytest.approx(DRAIN_IDLE_SECONDS, abs=0.2)
    assert connection.did == ["drain"]
    assert drain.idle_closed_at[0] == pytest.approx(BEGIN + DRAIN_IDLE_SECONDS, abs=0.2)
    assert drain.state.idle_until == BEGIN + DRAIN_IDLE_SECONDS


def test_idle_clients_are_kept_while_other_workers_accept(make: Callable[..., Draining]) -> None:
    """Their next request may come at any time, and finds somebody; at the end they are cut with the rest."""
    drain = make(10.0)
    drain.others_accept_until = 1e9
    connection = drain.serve(is_idle=True)
    assert drain.run() == pytest.approx(10 - CUT_SECONDS, abs=0.2)
    assert connection.did == ["drain", "cut"]
    assert drain.idle_closed_at == []
    assert drain.state.idle_until == BEGIN + 10 - CUT_SECONDS


def test_when_the_others_stop_too_idle_clients_have_a_moment(make: Callable[..., Draining]) -> None:
    """A stop is prompt, even when it comes into the retirement of one worker."""
    drain = make()
    drain.others_accept_until = BEGIN + 5
    drain.serve(is_idle=True)
    assert drain.run() == pytest.approx(5 + DRAIN_IDLE_SECONDS, abs=0.2)


def test_who_still_arrives_has_as_long(make: Callable[..., Draining]) -> None:
    """A PROXY header or a handshake: not waited for longer, if nobody else is."""
    drain = make()
    drain.admission.enter()
    assert drain.run() == pytest.approx(DRAIN_IDLE_SECONDS, abs=0.2)


def test_who_arrives_is_served_while_others_are(make: Callable[..., Draining]) -> None:
    """The worker is there anyway."""
    drain = make()
    drain.serve(lasts=8.0)
    place = drain.admission.enter()
    assert drain.run() == pytest.approx(8, abs=0.2)
    assert drain.admission.count == 1
    place.leave()


def test_what_gunicorn_serves_is_waited_for(make: Callable[..., Draining]) -> None:
    """Until the end, and it cannot be cut."""
    drain = make(10.0)
    drain.admission.enter().hand_over()
    assert drain.run() == pytest.approx(10 - CUT_SECONDS, abs=0.2)


def test_a_short_graceful_timeout_bounds_it_all(make: Callable[..., Draining]) -> None:
    """Also the moment for idle clients."""
    drain = make(1.5)
    drain.serve(is_idle=True)
    drain.run()
    assert drain.state.idle_until == BEGIN + 0.5


def test_a_pause_of_the_process_shortens_no_drain(make: Callable[..., Draining]) -> None:
    """A group that is stopped and goes on: what needs a moment more has it."""
    drain = make()
    connection = drain.serve(lasts=36.0)
    pauses = iter([35.0])

    def beat() -> None:
        drain.now += next(pauses, 0.0)

    drain.worker.notify = beat
    assert drain.run() == pytest.approx(36, abs=0.2)
    assert connection.did == ["drain"]
