"""app.worker.client.http1: the requests of one connection, over a stream of a script."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from fakes.front import Front
from fakes.stream import END, ENDS, RESET, SILENCE, ScriptedStream, Turn

from app.errors import ClientGone, NoBackend, ProxyError, ShuttingDown, TooManyConnections
from app.wire.chunked import CHUNKS_A_TURN
from app.wire.response import read_head
from app.worker.client import http1, http1_body
from app.worker.client.contract import DRAIN_IDLE_SECONDS, PARK_SECONDS
from app.worker.client.http1 import Http1Connection
from app.worker.net.deadlines import NEVER, deadlines

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def answer(exchange: Any) -> None:
    exchange.answer(200, [], b"ok")


def read_all(exchange: Any) -> bytes:
    """The whole body, as whoever sends it on reads it."""
    if exchange.failure is not None:
        raise exchange.failure
    body: bytes = exchange.body
    while exchange.read_body is not None and (piece := exchange.read_body(exchange.deadline)):
        body += piece
    return body


class Client:
    """One connection of a front, and what its client sees."""

    def __init__(
        self,
        *script: Turn,
        handle: Callable[[Any], None] = answer,
        has_events: bool = True,
        opened_at: float | None = None,
        **limits: Any,
    ) -> None:
        self.front = Front(handle, **limits)
        self.stream = ScriptedStream(script, has_events=has_events)
        self.place = self.front.admission.enter()
        stream: Any = self.stream
        self.connection = Http1Connection(
            self.front.context,
            self.place,
            stream,
            "192.0.2.1",
            "http",
            monotonic() if opened_at is None else opened_at,
            None,
        )

    def run(self) -> Client:
        """Let it go on until it ends or is parked."""
        self.connection.run()
        assert not deadlines._deadlines, "every deadline was given back"
        assert self.stream.is_closed is (self.front.admission.count == 0), "counted until its close"
        return self

    @property
    def targets(self) -> list[bytes]:
        return [head.target for head in self.front.proxy.served]

    @property
    def statuses(self) -> list[int]:
        """Of all answers, interim ones too."""
        return [int(part[:3]) for part in self.stream.output.split(b"HTTP/1.1 ")[1:]]

    @property
    def is_parked(self) -> bool:
        return self.front.admission.count == 1 and not self.front.admission.running()


def response() -> Any:
    return read_head(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"GET")


def get(target: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode()


def post(*fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: a", *fields, "", ""]).encode() + body


# -- one request after another ---------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_request() -> None:
    """Until its client ends it."""
    client = Client(get("/1"), get("/2"), END).run()
    assert client.targets == [b"/1", b"/2"]
    assert client.statuses == [200, 200]
    assert b"Connection: close" not in client.stream.output
    assert client.stream.did == ["close"]


def test_pipelined_requests_are_answered_in_order() -> None:
    """Those that came in one piece, and one whose head is in two."""
    head = get("/3")
    client = Client(get("/1") + get("/2") + head[:9], head[9:], END).run()
    assert client.targets == [b"/1", b"/2", b"/3"]
    assert client.statuses == [200] * 3


def test_the_last_request_is_the_one_that_says_so() -> None:
    """Connection: close is answered with the same; who has sent more behind it is lingered for."""
    client = Client(get("/1", "Connection: close"), get("/2")).run()
    assert client.targets == [b"/1"]
    assert b"Connection: close" in client.stream.output
    assert client.stream.did == ["close"]


@pytest.mark.parametrize(("fields", "count"), [((), 1), (("Connection: keep-alive",), 2)])
def test_http_1_0_is_kept_if_it_asks_for_it(fields: tuple[str, ...], count: int) -> None:
    """And is told so, as it needs to be."""
    client = Client(*[get("/", *fields, version="1.0")] * 2, END).run()
    assert client.statuses == [200] * count
    assert (b"Connection: keep-alive" in client.stream.output) is (count == 2)


def test_the_limit_of_requests_ends_a_connection() -> None:
    """The last answer says so, and what was pipelined behind it is never read as one."""
    client = Client(GET + GET + GET, END, requests_per_connection=2).run()
    assert client.statuses == [200, 200]
    assert client.stream.output.count(b"Connection: close") == 1
    assert client.stream.did == ["shutdown_write", "close"]


def test_a_client_that_leaves_without_a_word_costs_nothing() -> None:
    """No request, no answer, no line."""
    for turn in (END, RESET):
        client = Client(turn).run()
        assert (client.targets, client.stream.output, client.front.proxy.refused) == ([], b"", [])


def test_both_ends_are_the_socket_s() -> None:
    """For the header that a backend may want."""
    seen: list[Any] = []
    Client(GET, END, handle=lambda exchange: seen.append(exchange.addresses())).run()
    assert seen == [ENDS]


# -- heads -----------------------------------------------------------------------------------------


def test_a_bad_head_is_refused_and_lingered_for() -> None:
    """What the client is still sending must not destroy the answer."""
    client = Client(
        b"GET / HTTP/1.1\r\nHost: a\r\nbad name: 1\r\n\r\n", b"more", b"more", END
    ).run()
    assert client.statuses == [400]
    assert client.stream.output.endswith(b"\r\n\r\nrefused")
    assert client.stream.did == ["shutdown_write", "close"]
    assert not client.stream.has_more
    assert [error.status for error in client.front.proxy.refused] == [400]


def test_a_refused_head_has_no_body() -> None:
    """HEAD: as long as it would be, and not sent."""
    client = Client(b"HEAD / HTTP/1.1\r\n\r\n", END).run()
    assert client.statuses == [400]
    assert b"Content-Length: 7\r\n" in client.stream.output
    assert client.stream.output.endswith(b"\r\n\r\n")


def test_a_head_that_does_not_end_is_408() -> None:
    """On a new connection, and behind another request."""
    for script in ([GET[:20]], [GET, GET[:20]]):
        client = Client(*script, SILENCE, END).run()
        assert client.statuses[-1] == 408
        assert client.front.proxy.refused[0].reason == "header_timeout"


def test_a_head_has_one_deadline_however_it_drips() -> None:
    """From the connect on a new connection; a byte more puts nothing off."""
    seen: list[float] = []
    script: list[Turn] = []
    for at in range(4):
        script += [lambda: seen.append(client.connection.deadline.at), GET[at : at + 1]]
    opened_at = monotonic() - 30
    client = Client(*script, opened_at=opened_at)
    client.run()
    assert seen == [opened_at + 60] * 4
    assert client.statuses == [408]


def test_who_has_said_nothing_is_not_answered() -> None:
    """A new connection that stays silent is closed when a head would be due."""
    client = Client(SILENCE).run()
    assert (client.stream.output, client.stream.did) == (b"", ["close"])


# -- bodies ----------------------------------------------------------------------------------------


def echo(exchange: Any) -> None:
    exchange.answer(200, [], read_all(exchange))


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_a_chunked_body_is_decoded_however_it_is_cut(cut: int) -> None:
    """Its trailers are kept, and the next request begins behind it."""
    trailers: list[Any] = []

    def handle(exchange: Any) -> None:
        echo(exchange)
        trailers.append(exchange.request_trailers())

    whole = post("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
    whole += GET
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    client = Client(*pieces, END, handle=handle).run()
    assert client.statuses == [200, 200]
    assert b"\r\n\r\nabcde" in client.stream.output
    assert trailers[0] == [(b"X-Sum", b"5")]


def test_a_body_of_known_length_ends_there() -> None:
    """The rest of the piece is the next request."""
    client = Client(
        post("Content-Length: 5", body=b"ab"), b"cd", b"e" + GET, END, handle=echo
    ).run()
    assert client.statuses == [200, 200]
    assert b"\r\n\r\nabcde" in client.stream.output


def test_a_chunk_that_is_none_is_400() -> None:
    """Also where it came with the head."""
    for pieces in ([b"xyz\r\n"], [b"", b"xyz\r\n"]):
        head = post("Transfer-Encoding: chunked", body=pieces[0])
        client = Client(head, *pieces[1:], END, handle=echo).run()
        assert client.statuses == [400]
        assert client.front.proxy.failures[0].reason == "bad_chunk"


def test_a_chunked_body_over_the_limit_is_413() -> None:
    """As soon as that shows; one that announces its length is the handler's affair."""
    chunk = b"8\r\nabcdefgh\r\n"
    client = Client(
        post("Transfer-Encoding: chunked", body=chunk), chunk, chunk, END, handle=echo, body=10
    ).run()
    assert client.statuses == [413]
    assert client.stream.did == ["shutdown_write", "close"], "lingers: the client is still sending"


@pytest.mark.parametrize("body", [b"ab", b"abcde"], ids=["unread", "read"])
def test_a_cut_answer_is_ended_and_all_of_it_reaches_the_client(body: bytes) -> None:
    """Closing at once could be a reset, if the client is still sending: it would take what is on its way."""

    def cut(exchange: Any) -> None:
        exchange.start(response(), b"o", False, [])
        exchange.abort()

    client = Client(post("Content-Length: 5", body=body), END, handle=cut).run()
    assert client.statuses == [200]
    assert client.stream.did == ["shutdown_write", "close"]


def test_an_answer_that_ends_with_the_connection_is_reset_when_it_is_cut() -> None:
    """At once: it is closed already, and who lingered for it would keep its place for two seconds."""

    def cut(exchange: Any) -> None:
        endless = read_head(b"HTTP/1.1 200 OK\r\n\r\n", b"POST")
        exchange.start(endless, b"o", False, [])
        exchange.abort()

    asked = b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"
    client = Client(asked, handle=cut).run()
    assert client.stream.did == ["reset", "close"]


def test_a_body_that_stops_is_408() -> None:
    """After ``timeouts.client`` for each piece."""
    seen: list[float] = []
    client = Client(
        post("Content-Length: 5", body=b"ab"),
        lambda: seen.append(client.connection.deadline.at - monotonic()),
        SILENCE,
        handle=echo,
    )
    client.run()
    assert client.statuses == [408]
    assert client.front.proxy.failures[0].reason == "client_timeout"
    assert seen[0] == pytest.approx(60, abs=1)


def test_a_body_that_is_too_slow_is_408() -> None:
    """Below ``limits.body_rate``, after its grace: sooner than the timeout."""
    seen: list[float] = []
    client = Client(
        post("Content-Length: 50", body=b"ab"),
        lambda: seen.append(client.connection.deadline.at - monotonic()),
        SILENCE,
        handle=echo,
        body_rate=1000,
    )
    client.run()
    assert client.statuses == [408]
    assert client.front.proxy.failures[0].reason == "body_too_slow"
    assert seen[0] == pytest.approx(6, abs=1)


@pytest.mark.parametrize("turn", [END, RESET])
def test_a_client_that_goes_in_its_body_is_gone(turn: Turn) -> None:
    """Nothing is answered: the message is no whole one."""
    client = Client(post("Content-Length: 5", body=b"ab"), turn, handle=echo).run()
    assert isinstance(client.front.proxy.failures[0], ClientGone)
    assert client.stream.output == b""


def test_who_waits_to_be_asked_for_its_body_is_asked() -> None:
    """Once, when somebody wants it."""
    head = post("Content-Length: 2", "Expect: 100-continue")
    client = Client(head, b"a", b"b", GET, END, handle=echo).run()
    assert client.statuses == [100, 200, 200]


def test_who_has_sent_its_body_is_not_asked_for_it() -> None:
    """Nor is it where nobody reads it: the connection ends then, the body may be on its way."""
    head = post("Content-Length: 2", "Expect: 100-continue")
    assert Client(head + b"a", b"b", END, handle=echo).run().statuses == [200]
    client = Client(head, b"ab", END).run()
    assert client.statuses == [200]
    assert b"Connection: close" in client.stream.output
    assert client.stream.did == ["shutdown_write", "close"]


def test_a_large_body_is_spliced_between_plaintext_sockets_only() -> None:
    """Anything else is no plain stream, and its body is read."""
    seen: list[Any] = []
    head = post(f"Content-Length: {1 << 20}")
    Client(head, END, handle=lambda exchange: seen.append(exchange.splice_body)).run()
    assert seen == [None]


# -- idle connections ------------------------------------------------------------------------------


def test_an_idle_connection_is_parked_and_unparked() -> None:
    """It gives its greenlet back and keeps its place; what comes next is answered by another."""
    client = Client(GET, SILENCE).run()
    assert client.is_parked
    assert client.stream.is_watched
    client.stream.say(GET)
    client.stream.say(END)
    client.stream.event()
    gevent.sleep(0)
    assert client.statuses == [200, 200]
    assert client.stream.is_closed
    assert client.front.admission.count == 0


def test_a_connection_whose_next_request_is_here_is_not_parked() -> None:
    """In TLS it may lie behind records that were read before, and a turn may take long."""
    client = Client(GET, SILENCE, GET).run()
    assert client.statuses == [200, 200]
    assert client.is_parked


def test_a_parked_connection_is_closed_when_its_time_is_over() -> None:
    """``timeouts.keepalive`` in all, of which it was idle for a second before."""
    client = Client(GET, keepalive=10).run()
    now = monotonic()
    client.front.parking.sweep(now + 10 - PARK_SECONDS - 1)
    assert client.is_parked
    client.front.parking.sweep(now + 10 - PARK_SECONDS + 1)
    assert client.stream.is_closed
    assert client.front.admission.count == 0


def test_a_stream_without_events_is_not_parked() -> None:
    """Nobody would hear of its next request: it waits in its greenlet, and ends there."""
    client = Client(GET, SILENCE, has_events=False).run()
    assert client.stream.did == ["close"]


def test_a_new_connection_is_not_parked() -> None:
    """It has the time of a head, no more."""
    assert Client(SILENCE).run().stream.is_closed


def test_who_has_not_taken_its_answer_is_waited_for_before_the_next_request() -> None:
    """Else answers would pile up behind a client that only asks."""
    order: list[str] = []

    def handle(exchange: Any) -> None:
        order.append(f"posted {len(client.stream.posted)}")
        exchange.start(response(), b"ok", True, [])

    client = Client(GET, GET, END, handle=handle)
    client.stream.takes_posts = False
    client.run()
    assert order == ["posted 0", "posted 0"]
    assert client.stream.output.count(OK) == 2


def test_a_request_whose_client_does_not_take_the_answer_before_is_dropped() -> None:
    """It has its line, and no backend is asked."""

    def handle(exchange: Any) -> None:
        exchange.start(response(), b"ok", True, [])
        client.stream.fails = BrokenPipeError()

    client = Client(GET, GET, handle=handle)
    client.stream.takes_posts = False
    client.run()
    assert len(client.targets) == 1
    assert [type(error) for error in client.front.proxy.dropped] == [ClientGone]


# -- much at once ----------------------------------------------------------------------------------


@pytest.fixture(name="turns")
def _turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests were served by each turn that was left to others."""
    taken: list[int] = []
    counter = SimpleNamespace(next=lambda: taken.append(len(taken)))
    for module in (http1, http1_body):
        monkeypatch.setattr(module, "turns", counter)
    return taken


def test_pipelined_requests_let_others_have_their_turn(turns: list[int]) -> None:
    """A read of 64 KiB holds 1,300 that are answered without a wait."""
    assert Client(GET * 80).run().statuses == [200] * 80
    assert len(turns) == 79 // http1.PIPELINED_A_TURN


def test_a_request_that_is_cut_before_its_turn_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read: it has its line, as one whose client has gone."""

    def cut() -> None:
        raise ShuttingDown

    monkeypatch.setattr(http1, "turns", SimpleNamespace(next=cut))
    client = Client(GET * 20).run()
    assert len(client.targets) == http1.PIPELINED_A_TURN
    assert [type(error) for error in client.front.proxy.dropped] == [ShuttingDown]
    assert client.stream.is_closed


def test_requests_that_come_one_by_one_need_none(turns: list[int]) -> None:
    """Each has waited for its client."""
    Client(*[GET] * 80).run()
    assert turns == []


def test_tiny_chunks_let_others_have_their_turn(turns: list[int]) -> None:
    """Those that came with the head, and those that were read later."""
    chunks = b"1\r\na\r\n" * 2000
    head = post("Transfer-Encoding: chunked", body=chunks)
    client = Client(head, chunks + b"0\r\n\r\n" + GET, handle=echo).run()
    assert client.statuses == [200, 200]
    assert b"Content-Length: 4000\r\n" in client.stream.output
    assert len(turns) == pytest.approx(4000 / CHUNKS_A_TURN, abs=2)


# -- a client that goes while it waits -------------------------------------------------------------


def waiting(client: Client, then: Callable[[], None]) -> None:
    """In a request's greenlet: wait for an answer that does not come, while the hub does ``then``."""
    gevent.get_hub().loop.run_callback(then)
    gevent.sleep(5)


def served(client: Client) -> Client:
    """Run it in a greenlet that can be thrown into."""
    greenlet = gevent.spawn(client.run)
    greenlet.join(2)
    assert greenlet.successful()
    return client


@pytest.mark.parametrize("early", [b"", b"\r\n", GET])
def test_who_hangs_up_while_it_waits_has_gone_at_once(early: bytes) -> None:
    """Whatever it has said before that nobody has read: that is watched no more, its end is."""

    def hang_up() -> None:
        if early:
            client.stream.say(early)
            client.stream.event()
            assert client.stream.is_end_watched
        client.stream.say(END)
        client.stream.event()
        client.stream.event()

    client = Client(GET, handle=lambda exchange: waiting(client, hang_up))
    served(client)
    assert [type(error) for error in client.front.proxy.failures] == [ClientGone]
    assert client.targets == [b"/"], "what was pipelined is for nobody"
    assert client.stream.output == b""
    assert client.stream.is_closed


def test_what_is_pipelined_behind_an_answer_is_not_begun_for_who_has_gone() -> None:
    """It has its line; what follows it on the connection is not read."""

    def handle(exchange: Any) -> None:
        exchange.answer(200, [], b"ok")
        client.stream.has_hung_up = True

    client = Client(GET + get("/2") + get("/3"), handle=handle)
    client.run()
    assert client.targets == [b"/"]
    assert [type(error) for error in client.front.proxy.dropped] == [ClientGone]
    assert client.stream.did == ["close"]


def test_a_half_closed_client_has_its_time_where_it_is_given_some() -> None:
    """``timeouts.half_close``: an answer within it is sent, also to what was pipelined."""
    timers: list[Any] = []

    class Loop:
        def timer(self, seconds: float) -> Any:
            assert seconds == 7
            timers.append(Timer())
            return timers[-1]

    class Timer:
        is_closed = False

        def start(self, callback: Callable[[], None]) -> None:
            self.callback = callback

        def close(self) -> None:
            self.is_closed = True

    def handle(exchange: Any) -> None:
        client.stream.say(END)
        client.stream.event()
        client.stream.event()
        answer(exchange)

    client = Client(GET + GET, handle=handle, half_close=7.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gevent, "get_hub", lambda: type("Hub", (), {"loop": Loop()}))
        client.run()
    assert client.statuses == [200, 200]
    assert [timer.is_closed for timer in timers] == [True, True]


def test_a_half_closed_client_whose_time_is_over_has_gone() -> None:
    """As one that has no time at all."""

    def hang_up() -> None:
        client.stream.say(END)
        client.stream.event()

    client = Client(GET, handle=lambda exchange: waiting(client, hang_up), half_close=0.001)
    served(client)
    assert [type(error) for error in client.front.proxy.failures] == [ClientGone]


# -- the worker goes -------------------------------------------------------------------------------


def test_a_drain_makes_the_next_answer_the_last() -> None:
    """It says so; nothing else is done to a connection that is served."""

    def handle(exchange: Any) -> None:
        client.front.drain.is_on = True
        client.connection.drain()
        answer(exchange)

    client = Client(GET, GET, handle=handle)
    client.run()
    assert client.statuses == [200]
    assert b"Connection: close" in client.stream.output


def test_who_comes_in_a_drain_may_ask_once() -> None:
    """Its handshake was under way when the others were told: it has a moment, and is not idle in it."""
    seen: list[tuple[bool, float]] = []

    def look() -> None:
        left = client.connection.deadline.at - monotonic()
        seen.append((client.connection.is_idle, left))

    client = Client(look, GET, GET)
    client.front.drain.is_on = True
    client.run()
    assert seen == [(False, pytest.approx(DRAIN_IDLE_SECONDS, abs=0.5))]
    assert client.statuses == [200]
    assert b"Connection: close" in client.stream.output


def test_in_a_drain_idle_clients_are_parked_as_ever() -> None:
    """An idle connection is not closed because a drain began while it waited; the worker says when."""
    client = Client(GET, lambda: setattr(client.front.drain, "is_on", True), SILENCE)
    client.run()
    assert client.is_parked
    assert "close" not in client.stream.did
    client.connection.close()


def test_what_is_cut_is_told_so_where_it_can_be() -> None:
    """The greenlet that waits is thrown into; what handles the request answers."""
    caught: list[ProxyError] = []

    def handle(exchange: Any) -> None:
        gevent.get_hub().loop.run_callback(client.connection.cut)
        try:
            gevent.sleep(5)
        except ShuttingDown as error:
            caught.append(error)
            exchange.answer(error.status, [], b"")

    client = Client(GET, handle=handle)
    greenlet = gevent.spawn(client.run)
    greenlet.join(2)
    assert greenlet.successful()
    assert len(caught) == 1
    assert client.statuses == [503]
    client.connection.cut()  # has ended: nothing is thrown into


def test_a_parked_connection_is_not_cut() -> None:
    """There is no greenlet to throw into: it is closed by whoever parks it."""
    client = Client(GET).run()
    client.connection.cut()
    assert client.is_parked
    client.front.parking.close_idle()
    assert client.stream.is_closed


# -- too many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoBackend("", reason="too_many_connections"), 503),
        (TooManyConnections(""), 429),
    ],
)
def test_who_is_turned_away_is_told_why(error: ProxyError, status: int) -> None:
    """Before it has asked for anything, and with a word on when to come back."""
    client = Client(GET, END)
    client.connection.turn_away(error)
    assert client.statuses == [status]
    assert b"Retry-After: " in client.stream.output
    assert client.stream.did == ["shutdown_write", "close"]
    assert client.front.proxy.refused == [error]
    assert client.front.admission.count == 0
    assert client.connection.deadline.at == NEVER
