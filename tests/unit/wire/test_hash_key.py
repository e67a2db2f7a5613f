"""The key of a request: what hashing goes by, for every ``hash_on``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.wire.forwarded import Trust
from app.wire.hash_key import key_reader
from app.wire.request import read_head


def key(hash_on: str, *lines: str, target: str = "/", peer: str = "192.0.2.7") -> bytes | None:
    head = read_head(
        "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")
    )
    trust = Trust(("10.0.0.0/8",), "x-forwarded")
    request = SimpleNamespace(head=head, peer=peer, is_trusted=trust.is_trusted(peer))
    return key_reader(hash_on, trust.client_of)(request)


def test_client_address() -> None:
    """The peer's, whatever it claims."""
    assert key("client_ip", "X-Forwarded-For: 198.51.100.1") == b"192.0.2.7"


def test_client_address_behind_a_trusted_proxy() -> None:
    """The client's, not the proxy's: else all clients of one proxy would share a server."""
    line = "X-Forwarded-For: 1.1.1.1, 198.51.100.1"
    assert key("client_ip", line, peer="10.1.1.1") == b"198.51.100.1"


def test_client_of_a_unix_socket_has_no_address() -> None:
    """The key is missing."""
    assert key("client_ip", peer="") is None


def test_path_is_without_the_query() -> None:
    """And as it came, not decoded."""
    assert key("path", target="/a%2fb?x=1") == b"/a%2fb"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("x-user: ann",), b"ann"),
        (("X-USER: ann", "Other: b", "x-User: bob"), b"ann, bob"),
        (("X-User:",), None),
        ((), None),
    ],
)
def test_header(lines: tuple[str, ...], expected: bytes | None) -> None:
    """In any spelling; repeated ones together; an empty one is missing."""
    assert key("header:X-User", *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("Cookie: a=1; sid=x=y; b=2",), b"x=y"),
        (("Cookie: sidx=1;sid=2",), b"2"),
        (("Cookie: a=1", "cookie: sid=3; sid=4"), b"3"),
        (("Cookie: SID=1; sid",), None),
        (("Cookie: sid=",), None),
        (("X-Cookie: sid=1",), None),
    ],
)
def test_cookie(lines: tuple[str, ...], expected: bytes | None) -> None:
    """The first of exactly that name, wherever it stands."""
    assert key("cookie:sid", *lines) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/?id=7", b"7"),
        ("/?a=1&id=7&id=8", b"7"),
        ("/?xid=1&id=a+b%20c", b"a+b%20c"),
        ("/?id=", None),
        ("/?id", None),
        ("/&id=7", None),
        ("/?idx=1", None),
    ],
)
def test_query_parameter(target: str, expected: bytes | None) -> None:
    """The first of exactly that name, after the question mark."""
    assert key("query:id", target=target) == expected


def test_query_parameter_with_special_characters() -> None:
    """A name is a name, not a pattern."""
    assert key("query:a.b[]", target="/?axb[]=1&a.b[]=2") == b"2"
