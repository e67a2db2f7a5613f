"""From one set of listening sockets to another, with sockets that only look like some."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import sock as gunicorn_sock

from app.master.listen_sockets import CannotListen, Change, in_words

HERE, ALL, OTHER = ("127.0.0.1", 80), ("0.0.0.0", 80), ("127.0.0.1", 81)


class Machine:
    """Who listens where, by Linux's rule for addresses that overlap."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listening: list[Listener] = []
        self.refused: set[Any] = set()
        monkeypatch.setattr(gunicorn_sock, "_sock_type", lambda _: self.open)

    def open(self, address: Any, cfg: Any, _log: Any = None) -> Listener:
        one = Listener(self, address)
        one.is_shared = cfg.reuse_port
        if address in self.refused:
            os.umask(0)
            raise OSError(errno.EADDRNOTAVAIL, "nope")
        for other in self.listening:
            is_near = "0.0.0.0" in (address[0], other.cfg_addr[0]) or other.cfg_addr == address
            are_shared = one.is_shared and other.is_shared
            if other.cfg_addr[1] == address[1] and is_near and not are_shared:
                raise OSError(errno.EADDRINUSE, "taken")
        self.listening.append(one)
        return one


class Listener:
    def __init__(self, machine: Machine, address: Any) -> None:
        self.cfg_addr = address
        self.sock = self
        self.is_shared = False
        self.machine = machine

    def setsockopt(self, _level: int, option: int, value: bool) -> None:
        assert option == socket.SO_REUSEPORT
        self.is_shared = value

    def close(self) -> None:
        self.machine.listening.remove(self)


class Settings(SimpleNamespace):
    def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)


def settings(*addresses: Any) -> Settings:
    return Settings(address=list(addresses), reuse_port=False)


@pytest.fixture(name="machine")
def _machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_stays_keeps_its_socket_and_what_goes_is_closed_last(machine: Machine) -> None:
    stays, goes = (machine.open(at, settings()) for at in (HERE, OTHER))
    change = Change([stays, goes])
    change.open(settings(("10.0.0.1", 82), HERE, HERE), None, ())
    new, same = change.now
    assert same is stays
    assert machine.listening == [stays, goes, new]
    assert change.finish() == {81}
    assert machine.listening == [stays, new]


def test_one_that_cannot_be_opened_leaves_none_open(machine: Machine) -> None:
    """Nor gunicorn's umask."""
    mask = os.umask(0o27)
    try:
        before = machine.open(HERE, settings())
        machine.refused = {("192.0.2.1", 82)}
        change = Change([before])
        with pytest.raises(CannotListen) as caught:
            change.open(settings(OTHER, ("192.0.2.1", 82)), None, ())
        assert caught.value.address == ("192.0.2.1", 82)
        assert machine.listening == change.now == [before]
        assert os.umask(0o27) == 0o27
    finally:
        os.umask(mask)


def test_an_address_may_overlap_with_one_of_ours(machine: Machine) -> None:
    """For as long as it takes; and with one that is ours no more, but held by workers that drain."""
    here = machine.open(HERE, settings())
    change = Change([here])
    change.open(settings(ALL), None, ())
    everywhere = change.now[0]
    assert [here.is_shared, everywhere.is_shared] == [False, False]
    machine.listening.append(here)  # its descriptor in a worker
    freed = change.finish()
    back = Change([everywhere])
    back.open(settings(HERE), None, freed)
    assert back.now[0].cfg_addr == HERE


def test_another_program_s_address_is_left_alone(machine: Machine) -> None:
    machine.open(ALL, settings())
    with pytest.raises(CannotListen):
        Change([machine.open(OTHER, settings())]).open(settings(HERE), None, ())


def test_an_inherited_socket_is_known_by_its_address(machine: Machine) -> None:
    """As the kernel says it."""
    inherited = machine.open(("::1", 80, 0, 0), settings())
    change = Change([inherited])
    change.open(settings(("::1", 80)), None, ())
    assert change.now == [inherited]


def test_a_descriptor_is_no_address(machine: Machine) -> None:
    with pytest.raises(CannotListen, match="at a start"):
        Change([]).open(settings(3), None, ())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "x"), ["port 80 on ::1 is taken", "ss -ltnp", "or go away"]),
        (OSError(errno.EACCES, "x"), ["port 80 needs the right", "go away"]),
        (OSError(errno.EADDRNOTAVAIL, "nope"), ["::1 port 80: nope", "an address of this machine"]),
        (socket.gaierror(-2, "Name unknown"), ["Name unknown", "an address of this machine"]),
        (OverflowError("port must be 0-65535"), ["port must be 0-65535"]),
    ],
)
def test_each_refusal_has_its_remedy(error: Exception, words: list[str]) -> None:
    message = in_words(error, "::1", 80, "go away")
    assert all(word in message for word in words), message
