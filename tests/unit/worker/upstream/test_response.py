"""The answer of a backend: where its body ends, and whether its connection may be used again."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.stream import END, RESET, SILENCE, Turn
from fakes.upstream import connection, request_to, stream

from app.errors import Aborted, BadResponse, OutOfTime
from app.wire.chunked import CHUNKS_A_TURN
from app.wire.response import read_head
from app.worker.net.deadlines import NEVER
from app.worker.upstream import response
from app.worker.upstream.connections import Connection, ConnectionCache
from app.worker.upstream.response import UpstreamResponse

CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"


class Upload:
    """A body that is still on its way when the answer comes."""

    def __init__(self) -> None:
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


class Answered:
    """An answer whose head has been read, ``here`` with it, and a script for what comes then."""

    def __init__(
        self,
        *fields: bytes,
        here: bytes = b"",
        then: tuple[Turn, ...] = (),
        status: bytes = b"200 OK",
        version: bytes = b"1.1",
        method: bytes = b"GET",
        upload: Upload | None = None,
        read_timeout: float = NEVER,
    ) -> None:
        self.cache = ConnectionCache("http", "192.0.2.1", 8000, 60.0)
        self.connection: Connection = connection(self.cache, *then)
        self.request = request_to(self.cache, method, read_timeout)
        lines = (b"HTTP/" + version + b" " + status, *fields, b"", b"")
        head = read_head(b"\r\n".join(lines), method)
        assert head is not None
        self.answer = UpstreamResponse(head, self.connection, self.request, 0.0)
        unused: Any = upload
        self.answer.upload = unused
        self.answer.begin(here)

    @property
    def is_kept(self) -> bool:
        """Whether the connection is in the cache: else it has to be closed."""
        assert (self.connection in self.cache.idle) != self.is_closed
        return self.connection in self.cache.idle

    @property
    def is_closed(self) -> bool:
        return stream(self.connection).is_closed

    def body(self) -> bytes:
        """All of it, as it is read by who sends it on."""
        body = self.answer.first
        while piece := self.answer.read():
            body += piece
        assert self.request.deadline.at == NEVER
        return body

    def refusal(self) -> str:
        """Why the body cannot be had."""
        with pytest.raises(Aborted) as caught:
            self.body()
        assert self.request.deadline.at == NEVER
        assert self.is_closed
        assert self.cache.idle == []
        return caught.value.reason


def length(number: int) -> bytes:
    return b"Content-Length: %d" % number


# --- where it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "here", "then"),
    [
        (length(5), b"hello", ()),
        (length(5), b"", (b"hello",)),
        (length(5), b"he", (b"l", b"lo")),
        (length(0), b"", ()),
        (CHUNKED, b"5\r\nhello\r\n" + LAST, ()),
        (CHUNKED, b"", (b"5\r\nhel", b"lo\r\n", LAST)),
        (CHUNKED, b"2\r\nhe\r\n3\r", (b"\nllo\r\n0\r\n", b"\r\n")),
        (CHUNKED, LAST, ()),
    ],
)
def test_a_body_that_ends_leaves_a_connection_for_the_next(
    field: bytes, here: bytes, then: tuple[bytes, ...]
) -> None:
    """Before whoever reads has it: a client that asks again at once finds the connection free."""
    answered = Answered(field, here=here, then=then)
    assert answered.body() in {b"hello", b""}
    assert answered.answer.complete
    assert answered.is_kept
    assert answered.answer.read() == b""


def test_the_connection_is_back_with_the_last_byte() -> None:
    """Not only when somebody asks what comes behind it."""
    answered = Answered(length(5), then=(b"hello",))
    assert answered.answer.read() == b"hello"
    assert answered.answer.complete
    assert answered.is_kept


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    answered = Answered(here=b"he", then=(b"llo", END))
    assert not answered.answer.complete
    assert answered.body() == b"hello"
    assert answered.answer.complete
    assert not answered.is_kept


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        (b"HEAD", b"200 OK", (length(5),)),
        (b"HEAD", b"200 OK", (CHUNKED,)),
        (b"HEAD", b"200 OK", ()),
        (b"GET", b"204 No Content", ()),
        (b"GET", b"304 Not Modified", (length(5),)),
    ],
)
def test_an_answer_that_never_has_a_body_is_complete_at_once(
    method: bytes, status: bytes, fields: tuple[bytes, ...]
) -> None:
    """Whatever its head says of a length: nobody waits for what will not come."""
    answered = Answered(*fields, method=method, status=status)
    assert answered.answer.complete
    assert answered.body() == b""
    assert answered.is_kept


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_what_comes_behind_an_answer_without_a_body_is_nobodys(method: bytes) -> None:
    """A backend that sends a body all the same would answer the next client with it."""
    status = b"200 OK" if method == b"HEAD" else b"204 No Content"
    answered = Answered(here=b"hello", method=method, status=status)
    assert answered.body() == b""
    assert not answered.is_kept


@pytest.mark.parametrize(
    ("field", "here", "then"),
    [
        (length(5), b"helloHTTP/1.1 200 OK\r\n", ()),
        (length(5), b"he", (b"lloH",)),
        (length(0), b"H", ()),
        (CHUNKED, b"5\r\nhello\r\n" + LAST + b"H", ()),
        (CHUNKED, b"5\r\nhel", (b"lo\r\n" + LAST + b"H",)),
    ],
)
def test_bytes_behind_a_body_end_the_connection_and_reach_nobody(
    field: bytes, here: bytes, then: tuple[bytes, ...]
) -> None:
    """They answer no request of ours: kept, the next client would get them."""
    answered = Answered(field, here=here, then=then)
    assert answered.body() in {b"hello", b""}
    assert not answered.is_kept


@pytest.mark.parametrize(
    ("version", "fields", "is_kept"),
    [
        (b"1.1", (), True),
        (b"1.1", (b"Connection: close",), False),
        (b"1.1", (b"connection: Keep-Alive, Close",), False),
        (b"1.0", (), False),
        (b"1.0", (b"Connection: keep-alive",), True),
    ],
)
@pytest.mark.parametrize("here", [b"hello", b"he"])
def test_what_the_backend_says_of_its_connection_is_kept_to(
    version: bytes, fields: tuple[bytes, ...], is_kept: bool, here: bytes
) -> None:
    answered = Answered(
        length(5), *fields, version=version, here=here, then=(b"hello"[len(here) :],)
    )
    assert answered.body() == b"hello"
    assert answered.is_kept == is_kept


def test_trailers_are_there_when_the_body_is_complete() -> None:
    answered = Answered(CHUNKED, then=(b"1\r\nx\r\n0\r\nX-Checksum: 7\r\nVia: 1\r\n", b"\r\n"))
    assert answered.body() == b"x"
    assert answered.answer.trailers == [(b"X-Checksum", b"7")]
    assert Answered(length(0)).answer.trailers == []


# --- where it does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "then", "reason"),
    [
        (length(5), (b"hell", END), "truncated"),
        (length(5), (END,), "truncated"),
        (CHUNKED, (b"5\r\nhello\r\n", END), "truncated"),
        (CHUNKED, (b"5\r\nhello\r\n0\r\n", END), "truncated"),
        (CHUNKED, (b"5\r\nhel", END), "truncated"),
        (CHUNKED, (b"5\r\nhelloX",), "bad_chunk"),
        (CHUNKED, (b"2\r\nhe\r\n", b"-3\r\nllo\r\n"), "bad_chunk"),
        (length(5), (b"he", RESET), "reset_in_body"),
        (CHUNKED, (RESET,), "reset_in_body"),
        (length(5), (b"he", SILENCE), "read_timeout"),
        (CHUNKED, (SILENCE,), "read_timeout"),
    ],
)
def test_a_body_that_is_not_whole_never_ends_well(
    field: bytes, then: tuple[Turn, ...], reason: str
) -> None:
    """The client's connection must break too, or it takes a part for the whole."""
    assert Answered(field, then=then).refusal() == reason


def test_a_reset_is_no_end_of_a_body_without_a_length() -> None:
    assert Answered(then=(b"hel", RESET)).refusal() == "reset_in_body"


@pytest.mark.parametrize("here", [b"x\r\n", b"5\r\nhelloX", b"0\r\nba\nd\r\n\r\n"])
def test_a_bad_chunk_that_came_with_the_head_is_a_bad_response(here: bytes) -> None:
    """Nothing has been sent to the client yet: it gets an answer of ours, or another server is asked."""
    with pytest.raises(BadResponse):
        Answered(CHUNKED, here=here)


def test_each_wait_has_the_read_timeout_and_the_total_bounds_all() -> None:
    waits: list[float] = []

    def look() -> None:
        waits.append(answered.request.deadline.at - monotonic())

    answered = Answered(length(2), then=(look, b"a", look, b"b"), read_timeout=100.0)
    answered.request.expires_at = monotonic() + 1000
    assert answered.answer.read() == b"a"
    answered.request.expires_at = monotonic() + 50
    assert answered.answer.read() == b"b"
    assert 99 < waits[0] <= 100
    assert 49 < waits[1] <= 50
    assert answered.request.deadline.at == NEVER


def test_nothing_is_read_when_the_total_is_over() -> None:
    """A fast server is never waited for: it is the client that took the time."""
    answered = Answered(length(2), then=(b"a", b"b"))
    answered.request.expires_at = monotonic() + 1000
    assert answered.answer.read() == b"a"
    answered.request.expires_at = monotonic()
    with pytest.raises(OutOfTime):
        answered.answer.read()
    assert answered.answer.complete


def test_tiny_chunks_are_read_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that sends thousands at once some are decoded, then others are looked at."""
    taken: list[int] = []
    monkeypatch.setattr(response, "turns", SimpleNamespace(next=lambda: taken.append(1)))
    chunks = b"1\r\na\r\n" * 2000
    answered = Answered(CHUNKED, here=chunks, then=(chunks, LAST))
    assert answered.body() == b"a" * 4000
    assert answered.is_kept
    assert len(taken) == pytest.approx(4000 / CHUNKS_A_TURN, abs=2)


# --- given up ------------------------------------------------------------------------------------


def test_an_answer_that_is_given_up_takes_its_connection_along() -> None:
    """The rest of its body would be the next one's beginning."""
    upload = Upload()
    answered = Answered(length(5), here=b"he", then=(b"llo",), upload=upload)
    answered.answer.close()
    assert answered.answer.complete
    assert upload.is_stopped
    assert not answered.is_kept
    assert answered.answer.read() == b""
    answered.answer.close()


def test_closing_one_that_was_read_leaves_its_connection_alone() -> None:
    """It may be in use for another request by then."""
    answered = Answered(length(5), here=b"hello")
    assert answered.cache.take() is answered.connection
    answered.answer.close()
    assert not answered.is_closed


@pytest.mark.parametrize(
    ("field", "here", "then"),
    [
        (length(5), b"hello", ()),
        (length(5), b"he", (b"llo",)),
        (CHUNKED, b"5\r\nhello\r\n" + LAST, ()),
    ],
)
def test_an_answer_before_the_requests_end_stands_and_ends_the_upload(
    field: bytes, here: bytes, then: tuple[bytes, ...]
) -> None:
    """What was not sent of the body is awaited there: the next request would be taken for it."""
    upload = Upload()
    answered = Answered(field, here=here, then=then, upload=upload)
    assert answered.body() == b"hello"
    assert upload.is_stopped
    assert not answered.is_kept


# --- as requests has it --------------------------------------------------------------------------


def test_what_a_user_of_requests_reads_of_it() -> None:
    answered = Answered(
        b"Set-Cookie: a=1", b"Set-Cookie: b=2", length(5), here=b"he", then=(b"l", b"lo")
    )
    answer = answered.answer
    assert (answer.status_code, answer.reason) == (200, "OK")
    assert answer.headers["set-cookie"] == "a=1, b=2"
    assert list(answer.iter_content()) == [b"he", b"l", b"lo"]
    assert answer.raw is answer
    assert answered.is_kept
