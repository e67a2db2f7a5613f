"""Tunnels over streams of a script: what is moved, counted, passed on, and why a tunnel ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.errors import ShuttingDown
from app.worker.net.deadlines import NEVER, Deadline, Expired, deadlines
from app.worker.proxy.tunnel import HALF_CLOSED_SECONDS, Tunnel

Step = bytes | BaseException


class Script:
    """A stream that reads what it is told (b"" is the end, an exception is raised) and keeps what it gets.

    After its last step it stays silent for ever. A stream that ``refuses`` fails at every write.
    """

    def __init__(self, *steps: Step, refuses: bool = False) -> None:
        self._steps = list(steps)
        self._refuses = refuses
        self.got = b""
        self.shutdowns = 0
        self.resets = 0

    def read(self) -> bytes:
        gevent.sleep(0)
        if not self._steps:
            Event().wait()
        step = self._steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    def write(self, data: bytes) -> None:
        if self._refuses:
            raise BrokenPipeError
        self.got += data

    def shutdown_write(self) -> None:
        self.shutdowns += 1

    def reset(self) -> None:
        self.resets += 1


def run(
    client: Script, backend: Script, firsts: Iterable[bytes] = (b"", b""), idle: float = 10.0
) -> tuple[Tunnel, Deadline]:
    """Run a tunnel; a broken side ends it at once, where the worker's timer would at its next tick."""
    deadline = Deadline()
    tunnel = Tunnel(client, backend, deadline, idle)  # type: ignore[arg-type]
    owner: Any = deadline.greenlet

    def tick() -> None:
        if deadline.at == 0:
            owner.throw(Expired)
        elif deadline.at != NEVER or idle == 0:
            gevent.get_hub().loop.run_callback(tick)

    gevent.get_hub().loop.run_callback(tick)
    tunnel.run(*firsts)
    return tunnel, deadline


def test_bytes_move_both_ways_behind_those_that_came_with_the_heads() -> None:
    """Nothing is lost or swapped, and each direction has its count."""
    client, backend = Script(b"b", b"c", b""), Script(b"2", b"34", b"")
    tunnel, deadline = run(client, backend, (b"a", b"1"))
    assert (backend.got, client.got) == (b"abc", b"1234")
    assert (tunnel.bytes_in, tunnel.bytes_out) == (3, 4)
    assert deadline.at == NEVER
    assert client.resets == backend.resets == 0


def test_an_end_is_passed_on_while_the_other_direction_goes_on() -> None:
    """The client's end reaches the backend, whose answers still reach the client."""
    client, backend = Script(b"all", b""), Script(b"1", b"2", b"3", b"")
    tunnel, _ = run(client, backend)
    assert (client.got, client.shutdowns, backend.shutdowns) == (b"123", 1, 1)
    assert tunnel.reason == "client_closed"


def test_the_side_that_ends_first_is_the_reason() -> None:
    """A backend that ends first is named, whatever the client does then."""
    tunnel, _ = run(Script(b"x", b"y", b"z", b""), Script(b""))
    assert (tunnel.reason, tunnel.bytes_in) == ("backend_closed", 3)


@pytest.mark.parametrize(
    ("client", "backend", "reason", "resets"),
    [
        (Script(ConnectionResetError()), Script(), "client_reset", (0, 1)),
        (Script(), Script(ConnectionResetError()), "backend_reset", (1, 0)),
        (Script(b"x"), Script(refuses=True), "backend_reset", (1, 0)),
        (Script(refuses=True), Script(b"x"), "client_reset", (0, 1)),
        (Script(b""), Script(b"x", ConnectionResetError()), "client_closed", (1, 0)),
    ],
    ids=["client", "backend", "backend takes nothing", "client takes nothing", "after an end"],
)
def test_an_error_of_one_side_is_an_error_of_the_other(
    client: Script, backend: Script, reason: str, resets: tuple[int, int]
) -> None:
    """A side that breaks ends the tunnel, and the other one sees no orderly end."""
    tunnel, _ = run(client, backend)
    assert tunnel.reason == reason
    assert (client.resets, backend.resets) == resets


@pytest.mark.parametrize(
    ("thrown", "reason"), [(Expired(), "tunnel_timeout"), (ShuttingDown(), "shutting_down")]
)
def test_what_is_thrown_in_ends_both_directions(thrown: BaseException, reason: str) -> None:
    """Silence beyond the timeout, or the worker's end: both directions end, without a reset."""
    client, backend = Script(b"x", thrown), Script(b"y")
    tunnel, deadline = run(client, backend)
    assert (tunnel.reason, deadline.at) == (reason, NEVER)
    assert (client.got, backend.got, client.resets, backend.resets) == (b"y", b"x", 0, 0)


def test_an_unforeseen_error_is_not_swallowed() -> None:
    """A mistake of ours shows, and the second greenlet does not outlive the tunnel."""
    backend = Script(b"1")
    with pytest.raises(ZeroDivisionError):
        run(Script(ZeroDivisionError()), backend)


@pytest.mark.parametrize(
    ("idle", "open_until", "half_closed_until"),
    [
        (10.0, 1010.0, 1010.0),
        (3600.0, 4600.0, 1000.0 + HALF_CLOSED_SECONDS),
        (0.0, NEVER, 1000.0 + HALF_CLOSED_SECONDS),
    ],
)
def test_a_piece_either_way_begins_the_idle_timeout_again(
    monkeypatch: pytest.MonkeyPatch, idle: float, open_until: float, half_closed_until: float
) -> None:
    """After every piece the time begins anew; when one side has ended, it is a minute at most."""
    monkeypatch.setattr(deadlines, "now", 1000.0)
    deadline = Deadline()
    seen: list[float] = []

    class Watched(Script):
        def read(self) -> bytes:
            seen.append(deadline.at)
            deadline.at = 1.0  # whatever it was: the next piece sets it
            return super().read()

    client = Watched(b"x", b"y", b"", ZeroDivisionError())
    tunnel = Tunnel(client, Watched(b"1", b"2"), deadline, idle)  # type: ignore[arg-type]
    monkeypatch.setattr(deadline, "greenlet", None)
    gevent.spawn(tunnel.run, b"", b"")
    for _ in range(10):
        gevent.sleep(0)
    assert set(seen[2:5]) == {open_until}
    assert deadline.at == half_closed_until
