"""The cache of connections to one backend: which are taken again, which never, and how one is opened."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import gevent
import pytest
from fakes.stream import END, RESET, ScriptedStream, Turn
from fakes.upstream import connection, stream

from app.connecting import happy_eyeballs
from app.connecting.happy_eyeballs import Endpoint
from app.telemetry import log
from app.worker.net.deadlines import deadlines
from app.worker.net.stream import RawSocket, Stream
from app.worker.upstream import connections
from app.worker.upstream.connections import Connection, ConnectionCache

IDLE_TIMEOUT = 60.0


@pytest.fixture(name="cache")
def _cache() -> ConnectionCache:
    return ConnectionCache("http", "192.0.2.1", 8000, IDLE_TIMEOUT)


def idle(cache: ConnectionCache, count: int) -> list[Connection]:
    """So many idle connections, the one used last at the end."""
    made = [connection(cache) for _ in range(count)]
    for one in made:
        cache.give_back(one)
    return made


# --- taken again ---------------------------------------------------------------------------------


def test_the_one_used_last_is_taken_first(cache: ConnectionCache) -> None:
    """The others grow old and go, before the backend closes them under a request."""
    made = idle(cache, 3)
    assert [cache.take() for _ in range(4)] == [made[2], made[1], made[0], None]


def test_one_that_is_taken_is_nobody_elses(cache: ConnectionCache) -> None:
    """Until it comes back."""
    (one,) = idle(cache, 1)
    assert cache.take() is one
    assert cache.take() is None
    cache.give_back(one)
    assert cache.take() is one


@pytest.mark.parametrize("turn", [b"HTTP/1.1 200 OK\r\n\r\n", b"x", END, RESET])
def test_one_that_has_spoken_or_ended_meanwhile_is_never_taken(
    cache: ConnectionCache, turn: Turn
) -> None:
    """Bytes that nobody asked for would be the next client's answer; the one behind it is as good."""
    good, bad = idle(cache, 2)
    stream(bad).say(turn)  # and the loop has not come to tell
    assert cache.take() is good
    assert stream(bad).is_closed
    assert cache.idle == []


@pytest.mark.parametrize("turn", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", END])
def test_one_that_speaks_or_ends_while_idle_goes_at_once(
    cache: ConnectionCache, turn: Turn
) -> None:
    """Whichever it is of several: it takes no descriptor and no place until somebody comes."""
    made = idle(cache, 3)
    assert all(stream(one).is_watched for one in made)
    stream(made[1]).say(turn)
    stream(made[1]).event()
    assert stream(made[1]).is_closed
    assert cache.idle == [made[0], made[2]]
    assert not stream(made[0]).is_closed


def test_the_end_of_a_real_connection_is_noticed_while_it_is_idle(cache: ConnectionCache) -> None:
    """By the loop, without a timer and without anybody who takes it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one = Connection(Stream(RawSocket(fileno=ours.detach())), cache)
    cache.give_back(one)
    theirs.close()
    with gevent.Timeout(5):
        while cache.idle:
            gevent.sleep(0)
    assert one.stream.raw.fileno() == -1


def test_what_a_taken_connection_says_is_for_who_has_it(cache: ConnectionCache) -> None:
    """The watch of an idle one must not close it in the middle of an exchange."""
    (one,) = idle(cache, 1)
    assert cache.take() is one
    stream(one).say(b"HTTP/1.1 200 OK\r\n\r\n")
    stream(one).event()
    assert not stream(one).is_closed


# --- grown old -----------------------------------------------------------------------------------


def test_the_oldest_are_closed_when_their_time_is_over(
    cache: ConnectionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from their last use, not from their making."""
    now = 1000.0
    made = []
    for at in (0.0, 10.0, 20.0):
        monkeypatch.setattr(deadlines, "now", now + at)
        made += idle(cache, 1)
    cache.sweep(now + IDLE_TIMEOUT)
    assert cache.idle == made
    cache.sweep(now + IDLE_TIMEOUT + 10.5)
    assert cache.idle == made[2:]
    assert [stream(one).is_closed for one in made] == [True, True, False]
    monkeypatch.setattr(deadlines, "now", now + 50)
    taken = cache.take()
    assert taken is not None
    cache.give_back(taken)
    cache.sweep(now + 20 + IDLE_TIMEOUT + 1)
    assert cache.idle == made[2:]


def test_without_a_timeout_they_stay_until_the_backend_ends_them() -> None:
    cache = ConnectionCache("http", "192.0.2.1", 8000, 0)
    idle(cache, 2)
    cache.sweep(1e12)
    assert len(cache.idle) == 2


def test_a_closed_cache_keeps_nothing(cache: ConnectionCache) -> None:
    """Its server is gone: what is idle is closed, what is in use when it comes back."""
    made = idle(cache, 2)
    used = cache.take()
    assert used is made[1]
    cache.close()
    assert stream(made[0]).is_closed
    assert not stream(made[1]).is_closed
    cache.give_back(used)
    assert stream(used).is_closed
    assert cache.idle == []
    assert cache.take() is None


# --- opened --------------------------------------------------------------------------------------


class Net:
    """In the place of ``connect``: what there is at an address, and who was asked in which order."""

    def __init__(self, **there: Exception) -> None:
        self.there = there
        self.asked: list[Any] = []
        self.opened: list[ScriptedStream] = []
        self.write_fails: Exception | None = None
        self.seconds = 0.0

    def connect(self, family: int, address: Any) -> ScriptedStream:
        self.asked.append((family, address))
        failure = self.there.get(address[0]) if family != socket.AF_UNIX else None
        if failure is not None:
            raise failure
        made = ScriptedStream()
        made.fails = self.write_fails
        self.opened.append(made)
        return made

    def race(self, endpoints: Sequence[Endpoint], seconds: float) -> tuple[Any, Endpoint]:
        """As app.connecting.happy_eyeballs.connect, without the delays."""
        self.seconds = seconds
        failure = OSError("none")
        for endpoint in endpoints:
            try:
                return self.connect(*endpoint), endpoint
            except OSError as error:
                failure = error
        raise failure


@pytest.fixture(name="net")
def _net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    net = Net()
    monkeypatch.setattr(connections, "connect", net.connect)
    monkeypatch.setattr(happy_eyeballs, "connect", net.race)
    monkeypatch.setattr(connections, "Stream", lambda raw: raw)
    yield net
    assert all(one.posted == b"" for one in net.opened)


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("http", "192.0.2.1", 8000, (socket.AF_INET, ("192.0.2.1", 8000))),
        ("http", "2001:db8::1", 80, (socket.AF_INET6, ("2001:db8::1", 80))),
        ("unix", "/run/app.sock", 0, (socket.AF_UNIX, "/run/app.sock")),
    ],
)
def test_an_address_is_connected_to_as_it_is(
    net: Net, scheme: str, host: str, port: int, expected: Any
) -> None:
    """Nobody is asked for a name."""
    cache = ConnectionCache(scheme, host, port, IDLE_TIMEOUT)
    made = cache.open()
    assert net.asked == [expected]
    assert (made.cache, made.sent, cache.idle) == (cache, 0, [])


def test_an_announcement_is_the_first_thing_that_is_said(net: Net, cache: ConnectionCache) -> None:
    cache.open(announcement=b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\n").stream.write(b"GET")
    assert net.opened[0].output == b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\nGET"


def test_a_connection_that_takes_no_announcement_is_left_open_by_nobody(
    net: Net, cache: ConnectionCache
) -> None:
    net.write_fails = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        cache.open(announcement=b"PROXY UNKNOWN\r\n")
    assert net.opened[0].is_closed


# --- several addresses ---------------------------------------------------------------------------


def endpoint(number: int) -> Endpoint:
    return socket.AF_INET, (f"192.0.2.{number}", 8000)


class Named:
    """A cache of a backend that has a name, and what is new about it."""

    def __init__(self, net: Net, *numbers: int) -> None:
        self.net = net
        self.news: tuple[Endpoint, ...] | None = None
        self.move(*numbers)
        self.cache = ConnectionCache("http", "app.internal", 8000, IDLE_TIMEOUT, None, self._take)

    def move(self, *numbers: int) -> None:
        self.news = tuple(map(endpoint, numbers)) or None

    def open(self) -> int:
        """Open a connection and give it back at once; where it leads."""
        made = self.cache.open()
        self.cache.give_back(made)
        return self.at(made)

    @staticmethod
    def at(made: Connection) -> int:
        assert made.endpoint is not None
        return int(made.endpoint[1][0].rpartition(".")[2])

    def idle(self) -> list[int]:
        return [self.at(one) for one in self.cache.idle]

    def _take(self) -> tuple[Endpoint, ...] | None:
        news, self.news = self.news, None
        return news


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_the_address_that_worked_is_the_first_of_the_next_request(net: Net) -> None:
    """And the one that did not is left alone."""
    net.there = {"192.0.2.1": REFUSED}
    named = Named(net, 1, 2, 3)
    assert [named.open(), named.open()] == [2, 2]
    assert [address[0] for _, address in net.asked] == ["192.0.2.1", "192.0.2.2", "192.0.2.2"]


def test_addresses_have_the_connect_timeout_among_them(net: Net) -> None:
    Named(net, 1, 2).cache.open(0.5)
    assert net.seconds == 0.5


def test_where_no_address_answers_the_last_one_says_why(net: Net) -> None:
    net.there = {"192.0.2.1": OSError(errno.EHOSTUNREACH, "unreachable"), "192.0.2.2": REFUSED}
    with pytest.raises(ConnectionRefusedError):
        Named(net, 1, 2).cache.open()


def test_a_name_without_an_address_is_a_failed_look_up(net: Net) -> None:
    """Until there is one; nobody is asked here."""
    named = Named(net)
    with pytest.raises(socket.gaierror, match=r"no address of app\.internal"):
        named.cache.open()
    named.move(4)
    assert named.open() == 4


def test_an_address_that_takes_connections_for_nothing_is_not_the_first_any_more(net: Net) -> None:
    """As one that takes no PROXY header, or shakes no hands."""
    named = Named(net, 1, 2)
    net.write_fails = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        named.cache.open(announcement=b"PROXY UNKNOWN\r\n")
    net.write_fails = None
    assert named.open() == 2


def test_connections_to_addresses_that_are_gone_are_not_used_again(net: Net) -> None:
    """Idle ones are closed at once, those in use when they come back."""
    named = Named(net, 1, 2)
    used = named.cache.open()
    assert named.open() == 1
    named.move(3, 2)
    named.cache.look()
    assert (named.idle(), named.cache.take()) == ([], None)
    assert named.open() == 3
    named.cache.give_back(used)
    assert (named.idle(), stream(used).is_closed) == ([3], True)


def test_connections_to_the_first_address_outlive_a_change(net: Net) -> None:
    """Of those behind it, and more than one change."""
    named = Named(net, 1, 2)
    used = named.cache.open()
    named.open()
    for others in ((2, 5), (5,), ()):
        named.move(1, *others)
        named.cache.look()
    named.cache.give_back(used)
    assert named.idle() == [1, 1]


def test_what_was_opened_after_a_change_is_kept_wherever_it_leads(net: Net) -> None:
    """Here the first address refuses, as only this worker knows yet."""
    named = Named(net, 1, 2)
    named.open()
    net.there = {"192.0.2.3": REFUSED}
    named.move(3, 2)
    assert [named.open(), named.open()] == [2, 2]
    assert named.idle() == [2, 2]


# --- over TLS ------------------------------------------------------------------------------------


class Tls:
    """In the place of TlsStream: who shakes hands as ``fails`` says, with which session it was offered."""

    fails: Exception | None = None
    offered: ClassVar[list[str | None]] = []

    def __init__(
        self, below: Any, context: Any, is_server: bool, name: str | None, session: Any
    ) -> None:
        assert not is_server
        self.below, self.name = below, name
        self.on_event: Any = None
        number = len(Tls.offered)
        Tls.offered.append(session.name if session is not None else None)
        made = SimpleNamespace(has_ticket=True, id=b"", name=f"session {number}")
        self.tls = SimpleNamespace(context=context, session=made)

    def handshake(self) -> None:
        if Tls.fails is not None:
            raise Tls.fails

    def close(self) -> None:
        self.below.close()


class Secure:
    """A cache of connections over TLS, the context that is in use, and what was logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
        self.net = net
        self.context = object()
        self.lines: list[dict[str, Any]] = []
        Tls.fails, Tls.offered = None, []
        monkeypatch.setattr(connections, "TlsStream", Tls)
        monkeypatch.setattr(log, "event", lambda *_, **more: self.lines.append(more))
        trust: Any = SimpleNamespace(context=lambda _: self.context, name=lambda host: f"n-{host}")
        self.cache = ConnectionCache("https", "192.0.2.1", 8443, IDLE_TIMEOUT, trust)

    def fail(self, error: Exception) -> None:
        """One connection that comes to nothing."""
        Tls.fails = error
        with pytest.raises(type(error)):
            self.cache.open()
        Tls.fails = None
        assert self.net.opened[-1].is_closed


@pytest.fixture(name="secure")
def _secure(monkeypatch: pytest.MonkeyPatch, net: Net) -> Secure:
    return Secure(monkeypatch, net)


def test_a_handshake_resumes_the_session_before_it(secure: Secure) -> None:
    """Of the newest connection, whether it is closed by now or not."""
    first = secure.cache.open()
    assert isinstance(first.stream, Tls)
    assert first.stream.name == "n-192.0.2.1"
    first.close()
    secure.cache.open()
    secure.cache.open()
    assert Tls.offered == [None, "session 0", "session 1"]


def test_a_session_of_another_configuration_is_not_offered(secure: Secure) -> None:
    """With other certificates or other trust it was agreed on by others; nor is one closed later."""
    secure.cache.open().close()
    old = secure.cache.open()
    secure.context = object()
    secure.cache.open().close()
    old.close()
    secure.cache.open()
    assert Tls.offered == [None, "session 0", None, "session 2"]


def test_a_handshake_that_failed_is_followed_by_a_full_one(secure: Secure) -> None:
    """The session may have been what was refused."""
    secure.cache.open().close()
    secure.fail(ssl.SSLError(1, "[SSL] refused"))
    secure.cache.open()
    assert Tls.offered == [None, "session 0", None]


def test_why_handshakes_fail_is_told_once_for_each_reason(secure: Secure) -> None:
    """And again after one that went well."""
    for text in ("[SSL] one", "[SSL] one", "[SSL] other", "[SSL] other"):
        secure.fail(ssl.SSLError(1, text))
    assert len(secure.lines) == 2
    secure.cache.open().close()
    secure.fail(ssl.SSLError(1, "[SSL] other"))
    assert len(secure.lines) == 3
    assert {line["backend"] for line in secure.lines} == {"192.0.2.1:8443"}


def test_a_handshake_whose_time_is_over_leaves_nothing_open(secure: Secure) -> None:
    """Whatever ends it: it is no fault of the certificates, and nothing is told about them."""
    secure.fail(TimeoutError())
    assert secure.lines == []
