"""app.worker.client.proxy_header: the PROXY header is taken from a connection, and not a byte more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import gevent
import pytest

from app.wire.proxy_protocol import BadProxyHeader, read_header
from app.worker.client.proxy_header import receive_header
from app.worker.net.deadlines import deadlines
from app.worker.net.stream import RawSocket, Stream

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
Pair = tuple[Stream, socket.socket]


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    """Our end, and the other one."""
    ours, theirs = socket.socketpair()
    stream = Stream(RawSocket(fileno=ours.detach()))
    deadlines.start()
    yield stream, theirs
    deadlines.stop()
    stream.close()
    theirs.close()


def far() -> float:
    """A time that no test reaches."""
    return time.monotonic() + 60


def test_what_follows_stays_in_the_socket(pair: Pair) -> None:
    """A TLS handshake is somebody else's to read."""
    stream, theirs = pair
    theirs.sendall(HEADER + b"\x16\x03\x01")
    assert receive_header(stream, far()) == read_header(HEADER)
    assert stream.read() == b"\x16\x03\x01"


def test_a_header_in_parts(pair: Pair) -> None:
    """Each part is waited for without taking what comes behind the last."""
    stream, theirs = pair
    reader = gevent.spawn(receive_header, stream, far())
    for part in (HEADER[:1], HEADER[1:20], HEADER[20:-1], HEADER[-1:] + b"GET"):
        theirs.sendall(part)
        gevent.sleep(0)
        gevent.idle()
    assert reader.get(timeout=5) == read_header(HEADER)
    assert stream.read() == b"GET"


def test_who_leaves_without_a_word(pair: Pair) -> None:
    """None: a check that only connects is no fault."""
    stream, theirs = pair
    theirs.close()
    assert receive_header(stream, far()) is None


@pytest.mark.parametrize("sent", [HEADER[:10], b"GET / HTTP/1.1\r\n"])
def test_a_header_that_is_not_one(pair: Pair, sent: bytes) -> None:
    """Cut off, or something else."""
    stream, theirs = pair
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(BadProxyHeader):
        receive_header(stream, far())


@pytest.mark.parametrize("sent", [b"", HEADER[:10]])
def test_a_header_that_does_not_come(pair: Pair, sent: bytes) -> None:
    """The time given is for all of it."""
    stream, theirs = pair
    theirs.sendall(sent)
    with pytest.raises(BadProxyHeader, match="in time"):
        receive_header(stream, time.monotonic())
