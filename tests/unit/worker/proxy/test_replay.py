"""A request body that is kept while it is read, to be read again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import ClientGone
from app.wire.request import CHUNKED
from app.worker.net.deadlines import Deadline
from app.worker.proxy.replay import Replay, replay_of

DEADLINE = Deadline()


def replay(
    *pieces: bytes | Exception, first: bytes = b"", limit: int = 10, resumes: bool = True
) -> Replay:
    """Of a client that sends these pieces; an exception cuts a read short."""
    left = list(pieces)

    def read_body(_deadline: Deadline) -> bytes:
        if not left:
            return b""
        piece = left.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    exchange: Any = SimpleNamespace(
        body=first, read_body=read_body, resumes_body=resumes, head=SimpleNamespace(length=-1)
    )
    made = replay_of(exchange, read_body, limit)
    assert made is not None
    return made


def test_what_was_read_is_kept() -> None:
    """The first part and all pieces, in their order, and then there is nothing to read."""
    body = replay(b"bc", b"def", first=b"a")
    assert (body.body, body.has_begun) == (b"a", False)
    assert [body.read(DEADLINE) for _ in range(3)] == [b"bc", b"def", b""]
    assert body.body == b"abcdef"
    assert (body.is_whole, body.is_ended) == (True, True)
    assert body.read(DEADLINE) == b""


def test_a_second_reader_goes_on_where_the_first_stopped() -> None:
    """What was read stands in ``body``, the rest is still to come."""
    body = replay(b"a", b"b")
    body.read(DEADLINE)
    assert (body.body, body.is_ended) == (b"a", False)
    assert body.read(DEADLINE) == b"b"
    assert body.body == b"ab"


@pytest.mark.parametrize(("size", "is_whole"), [(10, True), (11, False)])
def test_no_more_is_kept_than_the_limit(size: int, is_whole: bool) -> None:
    """Beyond it nothing is kept at all, and reading goes on."""
    body = replay(b"b" * (size - 1), b"", first=b"a")
    assert body.read(DEADLINE) == b"b" * (size - 1)
    assert body.is_whole is is_whole
    assert len(body.body) == (size if is_whole else 1)


def test_what_was_dropped_does_not_come_back() -> None:
    """A small piece after a large one is no whole body."""
    body = replay(b"b" * 20, b"c")
    body.read(DEADLINE)
    body.read(DEADLINE)
    assert not body.is_whole
    assert body.body == b""


@pytest.mark.parametrize("resumes", [True, False])
def test_a_read_that_is_cut_short_loses_bytes_only_where_it_can(resumes: bool) -> None:
    """A server's own input may have taken bytes off the connection that nobody got."""
    body = replay(b"a", ClientGone(), b"b", resumes=resumes)
    body.read(DEADLINE)
    with pytest.raises(ClientGone):
        body.read(DEADLINE)
    assert body.is_whole is resumes


def test_what_is_known_to_be_longer_is_not_kept() -> None:
    """By its Content-Length."""
    exchange: Any = SimpleNamespace(
        body=b"", read_body=lambda _: b"", resumes_body=True, head=SimpleNamespace(length=11)
    )
    assert replay_of(exchange, exchange.read_body, 10) is None
    assert replay_of(exchange, exchange.read_body, 11) is not None


@pytest.mark.parametrize("length", [CHUNKED, 11])
def test_where_nothing_may_be_kept_there_is_no_replay(length: int) -> None:
    """What is not kept need not come past us: it may be spliced."""
    exchange: Any = SimpleNamespace(
        body=b"", resumes_body=True, head=SimpleNamespace(length=length)
    )
    assert replay_of(exchange, lambda _: b"", 0) is None


def test_nothing_is_kept_once_the_answer_is_known() -> None:
    """The upload may go on, its pieces are not kept any more."""
    body = replay(b"a", b"b")
    body.read(DEADLINE)
    body.release()
    assert body.read(DEADLINE) == b"b"
    assert (body.body, body.is_whole) == (b"", False)
