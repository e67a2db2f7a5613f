"""app.worker.client.http1_writer: what a connection sends, byte by byte, to a stream of a script."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.front import Front
from fakes.stream import ENDS, ScriptedStream

from app.errors import BadRequest, ClientGone, ProxyError
from app.wire import request, response
from app.worker.client.http1_writer import Http1Writer
from app.worker.net.deadlines import NEVER, Deadline, Expired
from app.worker.net.stream import POST_SIZE

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 2\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nDate: today\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"


def no_requests(exchange: Any) -> None:
    raise AssertionError("a writer reads no requests")


class Writer(Http1Writer):
    """One that answers a given request."""

    def __init__(self, head: bytes = GET, ends: Any = None) -> None:
        self.front = Front(no_requests)
        self.out = ScriptedStream()
        stream: Any = self.out
        super().__init__(self.front.context, stream, "192.0.2.1", ends)
        parsed = request.read_head(head)
        assert parsed is not None
        self.head = parsed
        self.deadline = Deadline()


def head(data: bytes = SIZED, method: bytes = b"GET") -> response.ResponseHead:
    parsed = response.read_head(data, method)
    assert parsed is not None
    return parsed


def requested(*fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} / HTTP/{version}", "Host: a", *fields, "", ""]).encode()


# -- answers of backends ---------------------------------------------------------------------------


def test_a_whole_answer_leaves_in_one_piece() -> None:
    """Posted, so that it leaves with others', and its head as the backend had it."""
    writer = Writer()
    writer.start(head(), b"ok", True, [])
    assert writer.out.sent == [b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 2\r\n\r\nok"]
    assert writer.is_begun
    assert writer.bytes_out == 2


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("size", [2, POST_SIZE])
def test_only_what_is_small_and_not_the_last_is_posted(is_last: bool, size: int) -> None:
    """The rest is waited for: what is posted must fit, and who closes behind it must know that it left."""
    writer = Writer()
    writer.out.takes_posts = False
    writer._keep = not is_last
    writer.start(head(), b"x" * size, True, [])
    assert bool(writer.out.posted) is (size == 2 and not is_last)


def test_a_body_of_unknown_length_is_chunked() -> None:
    """Its trailers are passed on to who can read them, and to nobody else."""
    for fields, trailers in ((("TE: trailers", "Connection: TE"), b"X-Sum: 1\r\n"), ((), b"")):
        writer = Writer(requested(*fields))
        writer.start(head(ENDLESS), b"ab", False, [])
        writer.write(b"cde")
        writer.finish([(b"X-Sum", b"1")])
        assert (b"Trailer: X-Sum\r\n" in writer.out.output) is bool(trailers)
        assert b"Transfer-Encoding: chunked\r\n" in writer.out.output
        end = b"\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n" + trailers + b"\r\n"
        assert writer.out.output.endswith(end)
        assert writer.bytes_out == 5


def test_a_chunked_answer_that_is_here_leaves_in_one_piece() -> None:
    """Head, chunk and last chunk."""
    writer = Writer()
    writer.start(head(ENDLESS), b"ab", True, [])
    assert len(writer.out.sent) == 1
    assert writer.out.output.endswith(b"2\r\nab\r\n0\r\n\r\n")


def test_http_1_0_gets_no_chunks() -> None:
    """The end of the connection is the end of the body, and is announced."""
    writer = Writer(requested("Connection: keep-alive", version="1.0"))
    writer.start(head(ENDLESS), b"ab", False, [])
    writer.write(b"cde")
    writer.finish([])
    assert b"Transfer-Encoding" not in writer.out.output
    assert writer.out.output.endswith(b"Connection: close\r\n\r\nabcde")


def test_a_date_that_the_backend_left_out_is_added() -> None:
    """RFC 9110 §6.6.1; one that it sent stays."""
    writer = Writer()
    writer.start(head(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), b"ok", True, [])
    assert writer.out.output.count(b"Date: ") == 1


def test_an_interim_answer_begins_nothing() -> None:
    """It is passed on, and the final one follows."""
    writer = Writer()
    writer.interim(head(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"))
    assert writer.out.output == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert not writer.is_begun


def test_what_goes_away_makes_an_answer_the_last() -> None:
    """A worker that drains; a request whose body is not read, so that nothing behind it can be told apart."""
    for change in ("drain", "left"):
        writer = Writer()
        if change == "drain":
            writer.front.drain.is_on = True
        else:
            writer._left = 5
        writer.start(head(), b"ok", True, [])
        assert b"Connection: close\r\n\r\nok" in writer.out.output


def test_a_stream_that_is_no_plain_socket_is_not_spliced() -> None:
    """Nor would a chunked body be."""

    def splice_to(*_: Any) -> None:
        raise AssertionError("moved past us")

    writer = Writer()
    writer.start(head(), b"", False, [])
    assert writer.splice(splice_to) is False


# -- answers of our own ----------------------------------------------------------------------------


def test_an_answer_of_our_own_has_its_length() -> None:
    """And to HEAD no body."""
    for method, body in (("GET", b"hello"), ("HEAD", b"")):
        writer = Writer(requested(method=method))
        writer.answer(200, [("Allow", "GET")], b"hello")
        lines, _, rest = writer.out.output.partition(b"\r\n\r\n")
        assert lines.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
        assert lines.endswith(b"Allow: GET\r\nContent-Length: 5")
        assert (rest, writer.bytes_out) == (body, len(body))


@pytest.mark.parametrize(
    ("status", "is_last"), [(200, False), (400, True), (499, True), (503, False)]
)
def test_a_fault_of_the_client_s_ends_the_connection(status: int, is_last: bool) -> None:
    """What it sent next would be read by a guess; a fault of ours or a backend's does not."""
    writer = Writer()
    writer.answer(status, [], b"")
    assert (b"Connection: close" in writer.out.output) is is_last


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (BadRequest("", status=405, reason="method"), b"Allow: GET, "),
        (BadRequest("", status=429, reason="many"), b"Retry-After: "),
        (BadRequest("", status=503, reason="full"), b"Retry-After: "),
    ],
)
def test_a_refusal_says_what_to_do(error: ProxyError, field: bytes) -> None:
    """What is allowed, or when to come back; and that it is the end."""
    writer = Writer()
    writer._refuse(error)
    assert b"\r\n" + field in writer.out.output
    assert b"Connection: close\r\n\r\nrefused" in writer.out.output
    assert writer.front.proxy.refused == [error]
    assert writer._must_linger


# -- a client that does not take it ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "reason"), [(Expired(), "client_timeout"), (BrokenPipeError(), "client_gone")]
)
def test_who_does_not_take_its_answer_is_gone(failure: Exception, reason: str) -> None:
    """By its time, or by a connection that broke; the deadline is off in the end."""
    writer = Writer()
    writer.out.fails = failure
    with pytest.raises(ClientGone) as caught:
        writer.write(b"x")
    assert caught.value.reason == reason
    assert writer.deadline.at == NEVER


def test_another_greenlet_waits_by_its_own_deadline() -> None:
    """The connection's own may wait for something else meanwhile, and keeps its time."""
    writer, own = Writer(), Deadline()
    writer.deadline.at = 5.0
    writer._send(b"x", own)
    assert (writer.deadline.at, own.at) == (5.0, NEVER)


# -- cuts and tunnels ------------------------------------------------------------------------------


def test_of_an_answer_that_has_not_begun_nothing_is_cut() -> None:
    """The connection is closed by whoever runs it."""
    writer = Writer()
    writer.abort()
    assert writer.out.did == []
    assert not writer._keep


@pytest.mark.parametrize("answer", [SIZED, ENDLESS], ids=["a length", "chunks"])
def test_an_answer_whose_framing_shows_its_end_is_not_reset(answer: bytes) -> None:
    """What is on its way reaches the client, and then the end, lingered for; no last chunk is sent."""
    writer = Writer()
    writer.start(head(answer), b"o", False, [])
    writer.abort()
    assert writer.out.did == []
    assert (writer._keep, writer._must_linger, writer._is_cut) == (False, True, False)
    assert writer.out.sent[0].endswith((b"\r\n\r\no", b"\r\n\r\n1\r\no\r\n"))
    assert len(writer.out.sent) == 1


@pytest.mark.parametrize("answer", [SIZED, ENDLESS], ids=["a length", "to the end"])
def test_to_a_client_of_http_1_0_only_what_has_no_length_is_reset(answer: bytes) -> None:
    """Its end is the connection's: it must not look whole."""
    writer = Writer(requested(version="1.0"))
    writer.start(head(answer), b"o", False, [])
    writer.abort()
    assert writer.out.did == (["reset", "close"] if answer is ENDLESS else [])


def test_a_client_that_takes_nothing_is_reset() -> None:
    """There is nothing to wait for, and what the kernel holds for it is freed."""
    writer = Writer()
    writer.start(head(), b"o", False, [])
    writer.out.fails = Expired()
    with pytest.raises(ClientGone):
        writer.write(b"k")
    writer.abort()
    assert writer.out.did == ["reset", "close"]
    assert not writer._must_linger


def test_a_tunnel_gets_the_connection_and_what_came_behind_the_request() -> None:
    """After its 101; the end of the client's side is the tunnel's to see."""
    writer = Writer(requested("Connection: upgrade", "Upgrade: websocket"))
    writer._buffer = b"first"
    writer.out.on_event = lambda: None
    answer = head(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    stream, rest = writer.switch(answer)
    assert (stream, rest) == (writer.out, b"first")
    assert writer.out.on_event is None
    assert writer.out.output.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Upgrade: websocket\r\n" in writer.out.output


def test_the_ends_are_the_header_s_where_there_is_one() -> None:
    """Else the socket's."""
    ends = (("203.0.113.7", 1), ("192.0.2.9", 2))
    assert Writer(ends=ends).addresses() == ends
    assert Writer().addresses() == ENDS
