"""The answers of adapters that users mount: read as strictly as our own."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from app.errors import Aborted, BadResponse
from app.worker.net.deadlines import NEVER
from app.worker.upstream.adapted_response import AdaptedResponse, adapted
from app.worker.upstream.request import UpstreamRequest

FIELDS = {"Content-Type": "text/plain"}


def request(method: bytes = b"GET") -> UpstreamRequest:
    unused: Any = None
    return UpstreamRequest(method, b"", b"", unused, unused, NEVER, NEVER)


class Given(requests.Response):
    """Notes in ``ends`` when its last piece was asked for, and when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    def close(self) -> None:
        self.ends.append("closed")


def response(pieces: list[Any], fields: dict[str, str] | None = None, status: int = 200) -> Given:
    """As requests makes one; an exception among the pieces is raised there."""

    def stream(_size: int, decode_content: bool) -> Iterator[bytes]:
        assert not decode_content, "it is passed on as it came"
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        made.ends.append("exhausted")

    made = Given()
    made.status_code = status
    made.reason = "Fine"
    made.headers.update(FIELDS if fields is None else fields)
    made.raw = SimpleNamespace(stream=stream, close=lambda: None, release_conn=lambda: None)
    return made


def body(answer: Any) -> bytes:
    return b"".join(iter(answer.read, b""))


def test_head_and_body_come_as_they_are() -> None:
    answer = adapted(
        response([b"one", b"", b"two"], {"X-A": "1", "Content-Length": "6"}), request()
    )
    assert isinstance(answer, AdaptedResponse)
    assert (answer.head.status, answer.head.reason) == (200, b"Fine")
    assert answer.head.fields == [(b"X-A", b"1"), (b"Content-Length", b"6")]
    assert not answer.complete
    assert body(answer) == b"onetwo"
    assert answer.complete


def test_what_it_dechunked_has_no_chunked_any_more() -> None:
    """The body lasts until it ends: its length is not known."""
    answer = adapted(response([b"x"], {"Transfer-Encoding": "chunked"}), request())
    assert answer.head.fields == []
    assert body(answer) == b"x"


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"ab", b"cd"], [b"abc", b"d"]])
def test_what_lies_behind_the_announced_length_is_cut_off(pieces: list[bytes]) -> None:
    assert body(adapted(response(pieces, {"Content-Length": "3"}), request())) == b"abc"


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [([b"ab"], "truncated"), ([], "truncated"), ([b"a", OSError("gone")], "reset_in_body")],
)
def test_a_body_that_is_not_whole_never_ends_well(pieces: list[Any], reason: str) -> None:
    answer = adapted(response(pieces, {"Content-Length": "3"}), request())
    with pytest.raises(Aborted) as caught:
        body(answer)
    assert caught.value.reason == reason
    assert not answer.complete


@pytest.mark.parametrize(
    ("method", "fields"), [(b"HEAD", {"Content-Length": "3"}), (b"GET", {"Content-Length": "0"})]
)
def test_one_without_a_body_is_complete_at_once(method: bytes, fields: dict[str, str]) -> None:
    assert adapted(response([], fields), request(method)).complete


@pytest.mark.parametrize(
    ("method", "fields", "pieces"),
    [
        (b"HEAD", {"Content-Length": "3"}, []),
        (b"GET", {"Content-Length": "0"}, []),
        (b"GET", {"Content-Length": "3"}, [b"ab", b"c"]),
        (b"GET", {}, [b"ab", b"c"]),
    ],
)
def test_one_that_is_complete_was_exhausted_and_then_closed(
    method: bytes, fields: dict[str, str], pieces: list[bytes]
) -> None:
    """Only in this order does urllib3 keep its connection."""
    given = response(pieces, fields)
    answer = adapted(given, request(method))
    if pieces:
        assert not given.ends
        body(answer)
    assert answer.complete
    assert given.ends == ["exhausted", "closed"]


@pytest.mark.parametrize("behind", [b"more", OSError("gone")])
def test_what_its_adapter_does_behind_the_end_is_nobodys_affair(behind: Any) -> None:
    """It was given all the same: it is closed."""
    given = response([b"abc", behind], {"Content-Length": "3"})
    answer = adapted(given, request())
    assert body(answer) == b"abc"
    assert answer.complete
    assert given.ends == ["closed"]


def test_one_that_was_never_read_need_not_be_fit_for_it() -> None:
    """requests itself cannot close a response without ``raw``; a status alone is an answer all the same."""
    made = requests.Response()
    made.status_code = 204
    assert adapted(made, request()).complete


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Content-Length": "x"}, 200),
        ({"Bad Name": "1"}, 200),
        ({"X": "a\r\nInjected: 1\r\n\r\n"}, 100),
        ({}, 103),
        ({}, 99),
    ],
)
def test_a_head_that_has_no_one_reading_is_a_bad_response(
    fields: dict[str, str], status: int
) -> None:
    given = response([], fields, status)
    with pytest.raises(BadResponse):
        adapted(given, request())
    assert given.ends == ["closed"]
