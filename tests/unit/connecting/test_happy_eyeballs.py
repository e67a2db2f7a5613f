"""The order of addresses, and the race for a connection: with sockets that a test opens and fails."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any, ClassVar

import gevent
import pytest

from app.connecting import happy_eyeballs
from app.connecting.happy_eyeballs import connect, endpoint_of, interleaved, literal
from app.shared.addresses import Address

SOON = 0.001
NEVER = 3600.0


def v4(number: int) -> Address:
    return Address(bytes([192, 0, 2, number]))


def v6(number: int) -> Address:
    return Address(b"\x20\x01\x0d\xb8" + b"\0" * 11 + bytes([number]))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([v4(1), v4(2)], [v4(1), v4(2)]),
        ([v6(1), v6(2), v4(1), v4(2)], [v6(1), v4(1), v6(2), v4(2)]),
        ([v4(1), v6(1), v6(2), v6(3)], [v4(1), v6(1), v6(2), v6(3)]),
        ([v4(1), v4(2), v4(1)], [v4(1), v4(2)]),
    ],
)
def test_the_families_take_turns(found: list[Address], expected: list[Address]) -> None:
    """RFC 8305 §4, beginning with the resolver's first; one that is named twice is tried once."""
    assert interleaved(found) == expected


def test_an_endpoint_is_what_connect_takes() -> None:
    link_local = Address(socket.inet_pton(socket.AF_INET6, "fe80::1"), 3)
    assert endpoint_of(v4(9), 80) == (socket.AF_INET, ("192.0.2.9", 80))
    assert endpoint_of(link_local, 443) == (socket.AF_INET6, ("fe80::1", 443, 0, 3))
    assert literal("http", "192.0.2.9", 80) == (socket.AF_INET, ("192.0.2.9", 80))
    assert literal("https", "2001:db8::1", 443) == (socket.AF_INET6, ("2001:db8::1", 443))
    assert literal("unix", "/run/app.sock", 0) == (socket.AF_UNIX, "/run/app.sock")


class Raw:
    """In the place of a socket. ``there`` says what its address does: a status, "silent" or "accepts"."""

    there: ClassVar[dict[str, int | str]] = {}
    made: ClassVar[list[Raw]] = []

    def __init__(self, family: int, kind: int) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        self.sent = b""
        self.is_closed = False
        self.host = ""
        self._here, self._far = socket.socketpair()
        self._here.setblocking(False)
        Raw.made.append(self)

    def setblocking(self, _: bool) -> None: ...

    def setsockopt(self, *_: Any) -> None: ...

    def fileno(self) -> int:
        return self._here.fileno()

    def connect_ex(self, address: tuple[str, int]) -> int:
        self.host = address[0]
        does = Raw.there[self.host]
        if does == "silent":
            with contextlib.suppress(BlockingIOError):
                while self._here.send(b"x" * 65536):
                    pass  # until it is not writable
        return 0 if does == "at once" else errno.EINPROGRESS

    def getsockopt(self, *_: Any) -> int:
        does = Raw.there[self.host]
        return does if isinstance(does, int) else 0

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True
        self._here.close()
        self._far.close()


@pytest.fixture(autouse=True)
def _sockets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(happy_eyeballs, "RawSocket", Raw)
    monkeypatch.setattr(happy_eyeballs, "DELAY_SECONDS", SOON)
    Raw.made = []
    yield
    for raw in Raw.made:
        if not raw.is_closed:
            raw.close()


def race(seconds: float = NEVER, **there: int | str) -> str:
    """Where the connection leads, of addresses a, b, … that do this; all others are closed."""
    Raw.there = dict(there)
    endpoints = [(socket.AF_INET, (name, 80)) for name in there]
    raw: Any
    with gevent.Timeout(10):
        raw, endpoint = connect(endpoints, seconds)
    assert [one for one in Raw.made if not one.is_closed] == [raw]
    assert raw.host == endpoint[1][0]
    return str(raw.host)


REFUSES = errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("there", "winner", "asked"),
    [
        ({"a": "accepts", "b": "accepts"}, "a", "a"),
        ({"a": "at once", "b": "accepts"}, "a", "a"),
        ({"a": "silent", "b": "accepts"}, "b", "ab"),
        ({"a": "silent", "b": "silent", "c": "at once"}, "c", "abc"),
        ({"a": REFUSES, "b": "accepts", "c": "accepts"}, "b", "ab"),
        ({"a": "silent", "b": REFUSES, "c": "accepts"}, "c", "abc"),
    ],
)
def test_the_first_that_takes_a_connection_has_it(
    there: dict[str, int | str], winner: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is waited for, and none is asked whose turn has not come."""
    if "silent" not in there.values():
        monkeypatch.setattr(happy_eyeballs, "DELAY_SECONDS", NEVER)
    assert race(**there) == winner
    assert "".join(raw.host for raw in Raw.made) == asked


def test_one_that_refuses_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the delay."""
    monkeypatch.setattr(happy_eyeballs, "DELAY_SECONDS", NEVER)
    assert race(a=REFUSES, b=errno.EHOSTUNREACH, c="accepts") == "c"


def test_all_have_their_turn_in_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay is shorter where the whole is."""
    monkeypatch.setattr(happy_eyeballs, "DELAY_SECONDS", NEVER)
    assert race(a="silent", b="silent", c="accepts", seconds=0.01) == "c"


def test_the_last_one_says_why_where_none_takes_it() -> None:
    with pytest.raises(ConnectionRefusedError):
        race(a=errno.EHOSTUNREACH, b=REFUSES)
    with pytest.raises(OSError, match="no address"):
        connect([], NEVER)
    assert all(raw.is_closed for raw in Raw.made)


def test_a_family_that_is_not_there_is_passed_over() -> None:
    Raw.there = {"b": "accepts"}
    endpoints = [(socket.AF_INET6, ("a", 80, 0, 0)), (socket.AF_INET, ("b", 80))]
    assert connect(endpoints, NEVER)[1] == endpoints[1]


def test_who_is_told_to_stop_leaves_nothing_open() -> None:
    """A deadline is thrown into it, with one, two or all attempts under way."""
    Raw.there = {"a": "silent", "b": "silent"}
    endpoints = [(socket.AF_INET, (name, 80)) for name in "ab"]
    racing = gevent.spawn(connect, endpoints, NEVER)
    while len(Raw.made) < 2:
        gevent.sleep(SOON)
    racing.kill()
    assert all(raw.is_closed for raw in Raw.made)
