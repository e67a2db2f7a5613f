"""Names: what is asked when, what of the answers is kept, and at which address a server is checked."""

from __future__ import annotations

import socket
import threading
from typing import Any

import gevent
import pytest
from fakes.world import World
from gevent.event import Event

from app.connecting.happy_eyeballs import Endpoint
from app.control import names as module
from app.control.names import (
    HURRY_SECONDS,
    LOOK_UPS,
    REFRESH_SECONDS,
    FixedPlace,
    Name,
    NamedPlace,
    Names,
    in_front,
    merge,
    system_addresses,
)
from app.shared import addresses
from app.shared.addresses import Address
from app.shared.layout import ADDRESSES_MAX, EPOCH
from app.shared.table import identity_of

APP = "http://app:8000"
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def v4(number: int) -> Address:
    return Address(bytes([192, 0, 2, number]))


def at(number: int, port: int = 8000) -> Endpoint:
    return socket.AF_INET, (f"192.0.2.{number}", port)


class NamesBench(World):
    """Names whose greenlets a test runs itself, and a resolver that says what the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.answers: dict[str, list[Address] | OSError] = {}
        self.asked: list[str] = []
        self.moved: list[int] = []
        self.names = self.successor()

    def successor(self) -> Names:
        """Those of the next control process."""
        self.followed: dict[str, Name] = {}
        names = Names(self.table, self._look_up, self._spawn)
        names.on_change = self.moved.append
        return names

    def adopt(self, *urls: str) -> Any:
        _, config = self.propose(*urls)
        self.names.adopt(config)
        return config

    def look_up(self, host: str, *answer: int) -> None:
        """One look-up that comes to this; nothing given: it fails."""
        self.answers[host] = [v4(number) for number in answer] or UNKNOWN
        self.names.look_up(self.followed[host])

    def place(self, url: str = APP) -> NamedPlace:
        return next(one for one in self.names._places.values() if one.server.url == url)

    def in_table(self, url: str = APP) -> list[int]:
        identity = identity_of(url)
        row = self.table.row_index()[identity]
        return [address.packed[3] for address in addresses.read(self.table, row, identity)]

    def _look_up(self, host: bytes) -> list[Address] | OSError:
        self.asked.append(host.decode())
        return self.answers[host.decode()]

    def _spawn(self, _follow: Any, name: Name) -> None:
        self.followed[name.host] = name


@pytest.fixture(name="bench")
def _bench(monkeypatch: pytest.MonkeyPatch) -> NamesBench:
    return NamesBench(monkeypatch)


# --- what is looked up ---------------------------------------------------------------------------


def test_a_name_is_looked_up_once_for_all_servers_that_have_it(bench: NamesBench) -> None:
    """Addresses and sockets never are."""
    bench.adopt(
        APP, "http://app:8001", "http://192.0.2.9:8000", "http://[::1]:1", "unix:/run/app.sock"
    )
    assert list(bench.followed) == ["app"]
    bench.look_up("app", 1, 2)
    assert bench.asked == ["app"]
    assert (bench.in_table(), bench.in_table("http://app:8001")) == ([1, 2], [1, 2])
    assert list(bench.place("http://app:8001").endpoints()) == [at(1, 8001), at(2, 8001)]


def test_a_server_that_is_no_name_is_where_its_url_says(bench: NamesBench) -> None:
    config = bench.adopt("http://192.0.2.9:8000")
    place = bench.names.place(config.servers[0])
    assert isinstance(place, FixedPlace)
    place.failed(None)
    place.passed(at(9))
    assert list(place.endpoints()) == [at(9)]
    assert bench.names.is_settled()


def test_a_server_of_a_known_name_needs_no_look_up(bench: NamesBench) -> None:
    """A reload adds a port."""
    bench.adopt(APP)
    bench.look_up("app", 1)
    bench.adopt(APP, "http://app:8001")
    assert bench.in_table("http://app:8001") == [1]
    assert bench.names.is_settled()


def test_the_first_checks_wait_until_all_names_have_come_to_something(
    bench: NamesBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an address or to none, or until they have had the time."""
    bench.adopt(APP, "http://other")
    assert not bench.names.is_settled()
    bench.look_up("app", 1)
    assert not bench.names.is_settled()
    bench.look_up("other")
    assert bench.names.is_settled()
    bench.adopt("http://third")
    assert not bench.names.is_settled()
    monkeypatch.setattr(module.time, "monotonic", lambda: float("inf"))
    assert bench.names.is_settled()


# --- what is known -------------------------------------------------------------------------------


def test_what_is_known_stays_while_there_is_nothing_better(bench: NamesBench) -> None:
    """Told once, and once more when it is over."""
    bench.adopt(APP)
    bench.look_up("app", 1)
    epoch = bench.table.cells[EPOCH]
    for _ in range(3):
        bench.look_up("app")
    bench.answers["app"] = []
    bench.names.look_up(bench.followed["app"])
    assert (bench.in_table(), bench.table.cells[EPOCH]) == ([1], epoch)
    assert list(bench.place().endpoints()) == [at(1)]
    bench.look_up("app", 1)
    assert bench.told("message", "name", "detail") == [
        ("name could not be looked up, its last addresses stay", "app", str(UNKNOWN)),
        ("name is looked up again", "app", None),
    ]


def test_the_next_control_process_knows_what_this_one_knew(bench: NamesBench) -> None:
    """It starts while the resolver is silent."""
    config = bench.adopt(APP)
    bench.look_up("app", 1, 2)
    bench.names = bench.successor()
    bench.names.adopt(config)
    assert bench.names.is_settled()
    assert list(bench.place().endpoints()) == [at(1), at(2)]


def test_a_name_without_an_address_says_why(bench: NamesBench) -> None:
    bench.adopt(APP)
    with pytest.raises(socket.gaierror, match="not been looked up yet"):
        bench.place().endpoints()
    bench.look_up("app")
    with pytest.raises(socket.gaierror, match="not known"):
        bench.place().endpoints()
    bench.answers["app"] = []
    bench.names.look_up(bench.followed["app"])
    with pytest.raises(socket.gaierror, match="no address"):
        bench.place().endpoints()
    assert bench.told("message") == [("name could not be looked up",)]


def test_a_change_is_told_to_workers_checks_and_people(bench: NamesBench) -> None:
    """The first addresses are no change to tell people of."""
    bench.adopt(APP)
    bench.look_up("app", 1)
    row = bench.place().row
    assert (bench.moved, bench.events) == ([row], [])
    epoch = bench.table.cells[EPOCH]
    bench.look_up("app", 1)
    assert bench.table.cells[EPOCH] == epoch
    bench.look_up("app", 2, 3)
    assert bench.table.cells[EPOCH] > epoch
    assert bench.moved == [row, row]
    assert bench.told("message", "name", "addresses") == [
        ("name has other addresses", "app", ["192.0.2.2", "192.0.2.3"])
    ]


def test_a_row_that_is_another_server_s_is_not_written_to(bench: NamesBench) -> None:
    """By a check that was under way when its server went."""
    bench.adopt(APP)
    bench.look_up("app", 1, 2)
    place = bench.place()
    row, other = place.row, identity_of("http://192.0.2.50")
    bench.table.cells[bench.table.server(row)] = other
    addresses.write(bench.table, row, other, [v4(50)])
    place.passed(at(2))
    assert addresses.read(bench.table, row, other) == (v4(50),)


@pytest.mark.parametrize(
    ("known", "found", "merged"),
    [
        ([], [2, 1], [2, 1]),
        ([1, 2], [2, 1], [1, 2]),
        ([1, 2], [3, 2], [2, 3]),
        ([1, 2], [4, 3], [4, 3]),
        ([3, 1, 2], [1, 2, 3, 4], [3, 1, 2, 4]),
    ],
)
def test_known_addresses_keep_their_order(
    known: list[int], found: list[int], merged: list[int]
) -> None:
    assert merge([*map(v4, known)], map(v4, found)) == tuple(map(v4, merged))


def test_of_very_many_addresses_those_known_are_kept() -> None:
    """A resolver that turns them would have them change all the time."""
    many = [v4(number) for number in range(ADDRESSES_MAX + 4)]
    known = merge([], many)
    assert len(known) == ADDRESSES_MAX
    assert merge(known, reversed(many)) == known
    assert in_front(many[2], known)[:3] == (many[2], many[0], many[1])


# --- at which address a server is checked ---------------------------------------------------------


def test_requests_go_where_a_check_has_passed(bench: NamesBench) -> None:
    """The next check begins elsewhere after one that failed; only one that passes tells workers."""
    bench.adopt(APP)
    bench.look_up("app", 1, 2, 3)
    place, epoch = bench.place(), bench.table.cells[EPOCH]
    place.passed(at(1))
    place.failed(at(1))
    assert list(place.endpoints()) == [at(2), at(3), at(1)]
    place.failed(at(2))
    assert list(place.endpoints()) == [at(3), at(1), at(2)]
    assert (bench.in_table(), bench.table.cells[EPOCH], bench.events) == ([1, 2, 3], epoch, [])
    place.passed(at(3))
    assert bench.in_table() == [3, 1, 2]
    assert bench.table.cells[EPOCH] > epoch
    assert list(place.endpoints()) == [at(3), at(1), at(2)]
    assert bench.told("backend", "address") == [("8000", "192.0.2.3")]


def test_a_check_that_passed_at_an_address_that_is_gone_changes_nothing(bench: NamesBench) -> None:
    bench.adopt(APP)
    bench.look_up("app", 1, 2)
    bench.look_up("app", 2)
    bench.place().passed(at(1))
    bench.place().failed(at(1))
    assert bench.in_table() == [2]


def test_a_failed_check_has_the_name_looked_up_soon(bench: NamesBench) -> None:
    """It may have moved; connected or not."""
    bench.adopt(APP)
    bench.look_up("app", 1)
    for where in (None, at(1)):
        bench.followed["app"].soon.clear()
        bench.place().failed(where)
        assert bench.followed["app"].soon.is_set()


# --- when, and with which threads -----------------------------------------------------------------


def test_a_name_is_looked_up_again_and_sooner_where_nothing_is_known(bench: NamesBench) -> None:
    bench.adopt(APP)
    (name,) = bench.followed.values()
    assert bench.names.seconds_to_next(name) == HURRY_SECONDS
    bench.look_up("app", 1)
    assert bench.names.seconds_to_next(name) == REFRESH_SECONDS
    bench.adopt(APP, *[f"http://name{number}" for number in range(15)])
    assert bench.names.seconds_to_next(name) == REFRESH_SECONDS
    bench.names._names |= {f"more{number}": Name("more") for number in range(2000)}
    assert bench.names.seconds_to_next(name) > 2 * REFRESH_SECONDS


def test_names_that_cannot_be_looked_up_are_not_asked_for_more_often_in_all(
    bench: NamesBench,
) -> None:
    """Nor those whose servers fail their checks: a thousand of them are no reason for a flood."""
    bench.adopt(APP)
    (name,) = bench.followed.values()
    assert bench.names.least_seconds() == HURRY_SECONDS
    bench.names._names |= {f"more{number}": Name("more") for number in range(1999)}
    assert bench.names.seconds_to_next(name) == bench.names.least_seconds() == 10.0


def test_names_that_hang_leave_others_their_threads(
    bench: NamesBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are look-ups at once; none is asked twice, and all come back.

    They have their threads long before they count as hanging: others wait to be asked for.
    """
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.001)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 600.0)
    gate = threading.Event()
    asked: list[bytes] = []

    def look_up(host: bytes) -> list[Address]:
        asked.append(host)
        if host != b"app":
            gate.wait(60)
        return [v4(1)]

    names = Names(bench.table, look_up)
    count = LOOK_UPS + 5
    hanging = [gevent.spawn(names.look_up, Name(f"hang{number}")) for number in range(count)]
    try:
        with gevent.Timeout(60):
            while len(asked) < count:
                gevent.sleep(0.001)
            well = Name("app")
            names.look_up(well)
        assert well.found == [v4(1)]
        assert len(asked) == len(set(asked)) == count + 1
    finally:
        gate.set()
    gevent.joinall(hanging, raise_error=True)
    assert names._threads.maxsize == LOOK_UPS


def test_a_look_up_that_breaks_is_one_that_failed(bench: NamesBench) -> None:
    """Its name goes on being looked up."""
    bench.adopt(APP)
    (name,) = bench.followed.values()

    class Soon(Event):
        def wait(self, timeout: float | None = None) -> None:
            name.places = []

    name.soon = Soon()
    bench.names._follow(name)  # the resolver has no answer at all for it: KeyError
    assert "KeyError" in name.problem
    assert bench.names._names == {}


def test_the_system_s_resolver_is_asked_for_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone is kept as its number; what is no address of the internet is left out."""
    found = [
        (socket.AF_INET6, 1, 6, "", ("fe80::1%lo", 0, 0, 1)),
        (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)),
        (socket.AF_UNIX, 1, 6, "", "/run/x"),
    ]
    monkeypatch.setattr(module, "_getaddrinfo", lambda *_, **__: found)
    link_local = Address(socket.inet_pton(socket.AF_INET6, "fe80::1"), 1)
    assert system_addresses(b"app") == [link_local, v4(1)]


@pytest.mark.parametrize("error", [UNKNOWN, UnicodeError("label too long"), OSError(24, "files")])
def test_what_the_resolver_raises_is_an_answer(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in a thread would be printed."""

    def raises(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "_getaddrinfo", raises)
    answer = system_addresses(b"app")
    assert isinstance(answer, OSError)
    assert str(error) in str(answer)
