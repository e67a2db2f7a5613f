"""Who may get a request, as a function of what is known."""

from __future__ import annotations

import pytest
from fakes.world import World

from app.shared.availability import Choice, Standing, choose, standing_of
from app.shared.layout import (
    ADMIN,
    DRAIN,
    EJECTED,
    EJECTION,
    MAINT,
    READY,
    STALLED,
    STATE,
    TRIAL,
    UNHEALTHY,
)

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
def test_the_facts_are_in_the_cells(cell: int, value: int, expected: Standing) -> None:
    """One cell for each."""
    world = World()
    config = world.publish(1, 2)
    world.write(2, cell, value)
    server = config.servers[1]
    found = standing_of(server.state, server.backup, world.table.cells, world.at(2))
    assert found == expected


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
