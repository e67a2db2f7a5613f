"""The rest of a request's body on its way: how it is framed, and what ends it early. No time passes."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from fakes.stream import ScriptedStream
from fakes.upstream import connection, request_to, stream, with_body

from app.errors import BadRequest, BodyTimeout, ClientGone, InternalError
from app.telemetry import log
from app.wire.request import CHUNKED
from app.worker.net.deadlines import deadlines
from app.worker.upstream import upload as uploads
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.upload import Upload


class Sent:
    """A body that is sent in these pieces, as far as its greenlet comes before a test looks."""

    def __init__(
        self,
        *pieces: bytes | Exception,
        length: int = CHUNKED,
        expects: bool = False,
        here: bytes = b"",
    ) -> None:
        self.cache = ConnectionCache("http", "192.0.2.1", 8000, 60.0)
        self.connection = connection(self.cache)
        self.stream: ScriptedStream = stream(self.connection)
        request = request_to(self.cache, b"POST", read_timeout=9.0)
        self.request = with_body(request, pieces)
        self.request.length = length
        self.request.raw_body = here
        self.request.is_chunked = length == CHUNKED
        self.request.expects_continue = expects

    def start(self) -> Upload:
        upload = Upload(self.request, self.connection)
        go_on()
        return upload


def go_on() -> None:
    """As far as everybody comes without an event from outside."""
    for _ in range(3):
        gevent.sleep(0)


@pytest.fixture(autouse=True)
def _leaves_no_deadline() -> Any:
    """Throwing into a greenlet that has ended would raise in the hub."""
    before = len(deadlines._deadlines)
    yield
    assert len(deadlines._deadlines) == before


# --- framed --------------------------------------------------------------------------------------


def test_a_body_of_unknown_length_is_sent_in_chunks_with_its_trailers() -> None:
    sent = Sent(b"hello", b"world!")
    sent.request.trailers = lambda: [(b"X-Sum", b"7")]
    upload = sent.start()
    assert sent.stream.output == b"5\r\nhello\r\n6\r\nworld!\r\n0\r\nX-Sum: 7\r\n\r\n"
    assert upload.done
    assert upload.error is None


def test_a_body_of_known_length_is_sent_as_it_is() -> None:
    """With what went before it in the same message as the head."""
    sent = Sent(b"ll", b"o", length=5, here=b"he")
    assert sent.start().done
    assert sent.stream.output == b"llo"


def test_what_is_sent_is_counted_where_it_is_asked_for() -> None:
    """The connection's for what a peer's kernel has taken, the request's for its length and its log line."""
    sent = Sent(b"hello", b"!")
    sent.connection.sent = 1000
    before = sent.start().progress_at
    assert sent.connection.sent == 1000 + len(b"5\r\nhello\r\n1\r\n!\r\n")
    assert sent.request.body_sent == sent.connection.sent - 1000
    assert sent.request.began_body
    assert before > 0


# --- offered -------------------------------------------------------------------------------------


def test_a_body_that_was_offered_waits_until_it_is_wanted() -> None:
    """A backend that refuses by the head alone is spared it (RFC 9110 §10.1.1)."""
    sent = Sent(b"hello", expects=True)
    upload = sent.start()
    assert sent.stream.output == b""
    assert upload.was_unasked
    assert not sent.request.began_body
    upload.begin()
    go_on()
    assert upload.done
    assert not upload.was_unasked
    assert sent.stream.output.startswith(b"5\r\nhello")


def test_a_backend_that_does_not_ask_gets_it_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is remembered: what it takes the body for, nobody knows."""
    monkeypatch.setattr(uploads, "CONTINUE_TIMEOUT", 0)
    upload = Sent(b"hello", expects=True).start()
    with gevent.Timeout(5):
        while not upload.done:
            go_on()
    assert upload.was_unasked


def test_a_body_that_was_not_offered_needs_no_asking() -> None:
    """A 100 that nobody waits for does nothing."""
    upload = Sent(b"hello").start()
    upload.begin()
    assert not upload.was_unasked


# --- ended early ---------------------------------------------------------------------------------


def test_one_that_is_stopped_sends_no_more() -> None:
    """The answer has come before its end."""
    sent = Sent(b"one", b"two")
    sent.stream.takes.clear()
    upload = sent.start()
    upload.stop()
    sent.stream.takes.set()
    go_on()
    assert sent.stream.output == b""
    assert not upload.done
    assert upload.error is None
    assert sent.stream.did == []


def test_one_that_is_stopped_while_nobody_wants_it_never_begins() -> None:
    sent = Sent(b"hello", expects=True)
    upload = sent.start()
    upload.stop()
    upload.begin()
    go_on()
    assert sent.stream.output == b""
    assert not sent.request.began_body


def test_stopping_one_that_is_done_changes_nothing() -> None:
    upload = Sent(b"hello").start()
    upload.stop()
    assert upload.done


@pytest.mark.parametrize("failure", [ClientGone(), BodyTimeout(), BadRequest("bad chunk")])
def test_a_client_that_fails_ends_the_wait_for_the_answer(failure: Exception) -> None:
    """Its request is never complete, so no answer comes: whoever reads is told by the connection's end."""
    sent = Sent(b"hello", failure)
    upload = sent.start()
    assert upload.error is failure
    assert not upload.done
    assert sent.stream.did == ["shutdown"]
    assert not sent.stream.output.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("pieces", [[b"he"], [b"hello!"]])
def test_a_body_of_another_length_than_announced_is_the_clients_failure(
    pieces: list[bytes],
) -> None:
    """What is too much would be another request to the backend, what is too little part of the next."""
    sent = Sent(*pieces, length=5)
    upload = sent.start()
    assert isinstance(upload.error, BadRequest)
    assert sent.stream.did == ["shutdown"]
    assert len(sent.stream.output) < 5


def test_a_backend_that_takes_no_more_is_left_to_who_reads_its_answer() -> None:
    """It may have answered already, and that answer stands."""
    sent = Sent(b"hello")
    sent.stream.fails = BrokenPipeError()
    upload = sent.start()
    assert (upload.done, upload.error) == (False, None)
    assert sent.stream.did == []
    assert sent.request.body_sent == 0


def test_a_mistake_of_ours_is_logged_and_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(log, "uncaught", lambda _, __, error: told.append(str(error)))
    sent = Sent(b"hello", ValueError("a mistake"))
    upload = sent.start()
    assert isinstance(upload.error, InternalError)
    assert told == ["a mistake"]
    assert sent.stream.did == ["shutdown"]
