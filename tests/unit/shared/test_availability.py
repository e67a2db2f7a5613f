"""Who may get a request, as a function of what is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import config as configuration
from app.control.health import panic as panics
from app.control.health.panic import PanicLog
from app.shared import publication
from app.shared.availability import Choice, Standing, choose, standing_of
from app.shared.layout import (
    ADMIN,
    CHECKED,
    DRAIN,
    EJECTED,
    EJECTION,
    HEALTHY,
    MAINT,
    READY,
    STALLED,
    STATE,
    TRIAL,
    UNCHECKED,
    UNHEALTHY,
)
from app.shared.table import Table, identity_of

# One letter a server: a fine one, and what is wrong with it; capitals are backups.
LETTERS = {
    "f": Standing(True, False, READY, False),
    "u": Standing(False, False, READY, False),
    "e": Standing(True, True, READY, False),
    "d": Standing(True, False, DRAIN, False),
    "m": Standing(False, False, MAINT, False),
    "F": Standing(True, False, READY, True),
    "U": Standing(False, False, READY, True),
    "E": Standing(True, True, READY, True),
}


def chosen(servers: str, threshold: int = 0) -> Choice:
    return choose([LETTERS[letter] for letter in servers], threshold)


@pytest.mark.parametrize(
    ("servers", "first", "backups"),
    [
        ("fff", [0, 1, 2], []),
        ("fuedm", [0], []),
        ("ffF", [0, 1], [2]),
        ("ueF", [2], []),  # no primary is left
        ("dF", [1], []),
        ("FfE", [1], [0]),
        ("ue", [1], []),  # an ejected one rather than none
        ("ueE", [1, 2], []),
        ("eF", [1], []),  # but a backup first
    ],
)
def test_who_is_picked_from(servers: str, first: list[int], backups: list[int]) -> None:
    """Healthy, not ejected, ready; backups behind primaries."""
    choice = chosen(servers)
    assert (choice.first, choice.backups, choice.reason) == (first, backups, "")


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ("", "none_healthy"),
        ("u", "none_healthy"),
        ("um", "none_healthy"),
        ("d", "all_draining"),
        ("m", "all_draining"),
        ("ud", "all_draining"),
    ],
)
def test_why_there_is_none(servers: str, reason: str) -> None:
    """Ill, or taken out."""
    choice = chosen(servers)
    assert (choice.first, choice.reason) == ([], reason)


def test_draining_ones_keep_what_is_bound_to_them() -> None:
    """Not those in maintenance."""
    assert chosen("fdmd").draining == [1, 3]
    assert chosen("d").draining == [0]


@pytest.mark.parametrize(
    ("servers", "threshold", "is_panic"),
    [
        ("ffuu", 50, False),  # not fewer than half
        ("fuuu", 50, True),
        ("fuuu", 25, False),
        ("fuuu", 26, True),
        ("uuuu", 1, True),
        ("uuuu", 0, False),
        ("ffff", 100, False),
        ("fffu", 100, True),
        ("fmmd", 100, False),  # who is taken out does not count
        ("eeee", 100, False),  # nor does what requests met
        ("uuF", 50, False),  # backups can serve
        ("fuuF", 50, True),
        ("uuU", 50, True),
        ("U", 50, True),
        ("FU", 51, True),
        ("FU", 50, False),
        ("", 50, False),
    ],
)
def test_when_there_is_panic(servers: str, threshold: int, is_panic: bool) -> None:
    """Fewer than the threshold of the ready primaries are healthy, and no backup can stand in."""
    assert chosen(servers, threshold).is_panic == is_panic


def test_in_panic_all_ready_ones_are_used() -> None:
    """The healthy and the others alike, primaries first; ejected ones still not."""
    assert chosen("fuuemdU", 60)[:2] == ([0, 1, 2], [6])
    assert chosen("uu", 50)[:2] == ([0, 1], [])


# --- the facts -----------------------------------------------------------------------------------


class House:
    """A table with three servers, and the log of the control process about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **check: Any) -> None:
        urls = [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]
        self.table = Table.create(rows=4, slots=2, blob_bytes=20_000)
        self.adopted = self.config(urls, check)
        sequence = publication.propose(self.table, b"", [identity_of(url) for url in urls])
        self.table.cells[CHECKED] = sequence
        self.said: list[tuple[Any, ...]] = []
        monkeypatch.setattr(panics.log, "event", self.event)
        self.log = PanicLog(self.table)
        self.log.adopt(self.adopted)
        self.turn(HEALTHY, HEALTHY, HEALTHY)

    def config(self, urls: list[str], check: Any) -> configuration.Config:
        return configuration.parse(json.dumps({"servers": urls, "health_check": check}))

    def event(self, logger: str, level: str, _message: str, **fields: Any) -> None:
        self.said.append((logger, level, fields["reason"], fields["healthy"], fields["ready"]))

    def turn(self, *states: int) -> None:
        for row, state in enumerate(states):
            self.table.cells[self.table.server(row) + STATE] = state
        self.table.bump()
        self.log.tick()


@pytest.mark.parametrize(
    ("cell", "value", "expected"),
    [
        (STATE, UNHEALTHY, Standing(False, False, READY, False)),
        (EJECTION, EJECTED, Standing(True, True, READY, False)),
        (EJECTION, STALLED, Standing(True, True, READY, False)),
        (EJECTION, TRIAL, Standing(True, False, READY, False)),
        (ADMIN, MAINT, Standing(True, False, MAINT, False)),
    ],
)
def test_the_facts_are_in_the_cells(
    monkeypatch: pytest.MonkeyPatch, cell: int, value: int, expected: Standing
) -> None:
    """One cell for each."""
    house = House(monkeypatch)
    at = house.table.server(1)
    house.table.cells[at + cell] = value
    server = house.adopted.servers[1]
    assert standing_of(server.state, server.backup, house.table.cells, at) == expected


@pytest.mark.parametrize(
    ("state", "cell", "expected"),
    [("drain", READY, DRAIN), ("ready", DRAIN, DRAIN), ("maint", DRAIN, MAINT)],
)
def test_of_two_wishes_of_operators_the_stricter_counts(
    state: str, cell: int, expected: int
) -> None:
    """The configuration's and the table's."""
    cells = memoryview(bytearray(8 * 16)).cast("Q")
    cells[ADMIN] = cell
    assert standing_of(state, False, cells, 0).admin == expected


# --- what is said of it ----------------------------------------------------------------------------


def test_panic_is_logged_once_and_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often anything changes between."""
    house = House(monkeypatch, panic_threshold=50)
    house.turn(HEALTHY, HEALTHY, UNHEALTHY)
    assert house.said == []
    house.turn(HEALTHY, UNHEALTHY, UNHEALTHY)
    house.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert house.said == [("pool", "warning", "panic", 1, 3)]
    house.turn(HEALTHY, HEALTHY, UNHEALTHY)
    house.turn(HEALTHY, HEALTHY, HEALTHY)
    assert house.said[1:] == [("pool", "info", "healthy_again", 2, 3)]


def test_before_all_have_been_checked_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that nobody has asked yet is not one that has failed."""
    house = House(monkeypatch, panic_threshold=50)
    house.table.cells[CHECKED] -= 1
    house.turn(HEALTHY, UNCHECKED, UNCHECKED)
    assert house.said == []
    house.table.cells[CHECKED] += 1
    house.log.tick()
    assert [line[2] for line in house.said] == ["panic"]


def test_switched_off_in_the_middle_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload says so too."""
    house = House(monkeypatch, panic_threshold=50)
    house.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    urls = [server.url for server in house.adopted.servers]
    house.log.adopt(house.config(urls, {}))
    house.log.tick()
    assert [line[2] for line in house.said] == ["panic", "healthy_again"]
    house.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert len(house.said) == 2


def test_without_a_threshold_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by default."""
    house = House(monkeypatch)
    house.turn(UNHEALTHY, UNHEALTHY, UNHEALTHY)
    assert house.said == []
