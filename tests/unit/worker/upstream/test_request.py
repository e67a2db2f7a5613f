"""A request to a backend as an adapter that users mount sees it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.util import parse_url

from app.errors import BadRequest
from app.wire.request import CHUNKED, read_head
from app.worker.net.deadlines import NEVER
from app.worker.upstream.request import UpstreamRequest

BASES = ["http://10.0.0.1:8001", "https://app.internal", "http://[::1]:8001"]


def request_for(target: bytes, base: str) -> UpstreamRequest | None:
    """What a client's request for ``target`` becomes; None if it is refused."""
    try:
        head = read_head(b"GET %b HTTP/1.1\r\nHost: front.example\r\n\r\n" % target)
    except BadRequest:
        return None
    assert head is not None
    unused: Any = None
    line = b"GET %b HTTP/1.1\r\nHost: front.example\r\n\r\n" % head.target
    request = UpstreamRequest(b"GET", line, b"", unused, unused, NEVER, NEVER)
    request.base_url = base
    return request


@pytest.mark.parametrize("base", BASES)
@given(target=st.text(alphabet="/\\@:?#%.*[]-ahtp127 ", max_size=30))
@example(target="@evil.example/")
@example(target=":80@evil.example/")
@example(target=".evil.example/")
@example(target="//evil.example/")
@example(target="///evil.example/")
@example(target="/\\evil.example/")
@example(target="http://front.example@evil.example/")
@example(target="http://front.example/")
@example(target="?@evil.example/")
@example(target="#@evil.example/")
def test_its_url_names_the_server_whatever_the_target(base: str, target: str) -> None:
    """Two readers of URLs, requests' own among them, find the configured host and port in it."""
    request = request_for(target.encode(), base)
    if request is None:
        return
    for parse in (urlsplit, parse_url):
        url: Any = parse(request.url)
        server: Any = parse(base)
        assert (url.scheme, url.netloc) == (server.scheme, server.netloc)


def test_the_asterisk_is_the_server_without_a_path() -> None:
    """It is neither a path nor part of a host's name."""
    unused: Any = None
    head = b"OPTIONS * HTTP/1.1\r\n\r\n"
    request = UpstreamRequest(b"OPTIONS", head, b"", unused, unused, NEVER, NEVER)
    request.base_url = "http://app.internal"
    assert request.url == "http://app.internal"


def with_body(length: int, here: bytes, rest: list[bytes] | None) -> UpstreamRequest:
    """A request whose head announces ``length``, of whose body something is here and the ``rest`` comes."""
    unused: Any = None
    request = UpstreamRequest(
        b"POST", b"POST / HTTP/1.1\r\n\r\n", here, unused, unused, NEVER, NEVER
    )
    request.length = length
    if rest is not None:
        pieces = [*rest, b""]
        request.read_body = lambda _: pieces.pop(0)
    return request


@pytest.mark.parametrize(
    ("length", "here", "rest"),
    [
        (32, b"", None),
        (32, b"x" * 10, None),
        (0, b"x", None),
        (3, b"xxxx", None),
        (3, b"xxxx", []),
        (0, b"x", [b"x"]),
    ],
)
def test_what_is_here_of_a_body_is_no_other_than_announced(
    length: int, here: bytes, rest: list[bytes] | None
) -> None:
    """Not a byte of such a request is sent, whatever made it."""
    with pytest.raises(BadRequest) as caught:
        with_body(length, here, rest).check_here()
    assert caught.value.reason == "bad_framing"


@pytest.mark.parametrize(
    ("length", "here", "rest", "passes"),
    [
        (32, b"", [b"x" * 10], 10),
        (32, b"", [], 0),
        (32, b"x" * 31, [], 31),
        (4, b"x", [b"x", b"x"], 3),
        (4, b"x", [b"xx", b"xx"], 3),
        (4, b"", [b"x" * 5], 0),
        (4, b"xxxx", [b"x"], 4),
    ],
)
def test_a_rest_of_another_length_ends_with_an_error(
    length: int, here: bytes, rest: list[bytes], passes: int
) -> None:
    """Never with an end, and nothing beyond the length is given out."""
    request = with_body(length, here, rest)
    request.check_here()
    given: list[bytes] = []
    with pytest.raises(BadRequest):
        given.extend(request.body)
    assert len(b"".join(given)) == passes


@pytest.mark.parametrize(
    ("length", "here", "rest"),
    [
        (0, b"", None),
        (3, b"xxx", None),
        (3, b"x", [b"xx"]),
        (3, b"", [b"x", b"x", b"x"]),
        (3, b"xxx", []),
        (CHUNKED, b"", []),
        (CHUNKED, b"xx", [b"x"]),
        (CHUNKED, b"xxx", None),
    ],
)
def test_a_body_as_announced_is_given_whole(
    length: int, here: bytes, rest: list[bytes] | None
) -> None:
    """In pieces or at once; one without a length is left to who asks for it to be framed."""
    request = with_body(length, here, rest)
    request.check_here()
    body = request.body
    assert isinstance(body, bytes | None) == (rest is None and length != CHUNKED)
    given = b"".join([body] if isinstance(body, bytes) else body or ())
    assert len(given) == (length if length != CHUNKED else len(here + b"".join(rest or [])))
