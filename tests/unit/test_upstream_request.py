"""A request to a backend as an adapter that users mount sees it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.util import parse_url

from app.deadlines import NEVER
from app.errors import BadRequest
from app.upstream.request import UpstreamRequest
from app.wire.request import read_head

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
