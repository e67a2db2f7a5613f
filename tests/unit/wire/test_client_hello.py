"""The first message of a TLS client, as OpenSSL writes it and as nobody should."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire.client_hello import is_http, offered_protocols


def hello(protocols: list[str], padding: int = 0) -> bytes:
    """What a client sends first that offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a" * padding + "a.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("protocols", [[], ["h2"], ["spdy/1", "http/1.1"]])
def test_protocols_are_found(protocols: list[str]) -> None:
    """In the order in which they are offered."""
    assert offered_protocols(hello(protocols)) == tuple(name.encode() for name in protocols)


def test_a_message_in_several_records_is_one() -> None:
    """A client may cut it where it likes."""
    whole = hello(["spdy/1"])
    message = whole[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (message[at : at + 50] for at in range(0, len(message), 50))
    )
    assert offered_protocols(records) == (b"spdy/1",)


@given(st.integers(0, 600), st.binary(max_size=8))
def test_nothing_raises(cut: int, noise: bytes) -> None:
    """A message that ends too early, or has other bytes in it, offers something or nothing."""
    whole = hello(["spdy/1"])
    offered_protocols(whole[:cut])
    offered_protocols(whole[:cut] + noise + whole[cut + len(noise) :])


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"PROPFI", b"get /", b"PRI * HTTP/2.0\r\n"]
)
def test_requests_are_known(data: bytes) -> None:
    """Whatever the method, and before all of the line is here."""
    assert is_http(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01", b"\x80\x2e\x01", b"SSH-2.0-x\r\n", b"\r\nGET /"]
)
def test_all_else_is_none(data: bytes) -> None:
    """TLS, old TLS, other protocols."""
    assert not is_http(data)
