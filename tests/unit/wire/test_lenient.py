"""Heads of responses that are mended where the configuration says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadResponse
from app.wire.lenient import FAULTS, reader
from app.wire.response import MAX_HEAD_BYTES, read_head

BARE = b"HTTP/1.1 200 OK\nA: 1\nContent-Length: 2\n\n"
FOLDED = b"HTTP/1.1 200 OK\r\nA: 1,\r\n\t 2\r\nContent-Length: 2\r\n\r\n"
BOTH = b"HTTP/1.1 200 OK\nA: 1, \n 2\r\nContent-Length: 2\n\r\n"


@pytest.mark.parametrize(
    ("data", "forgiven", "value"),
    [
        (BARE, ["bare_lf"], b"1"),
        (FOLDED, ["obs_fold"], b"1, 2"),
        (BOTH, ["bare_lf", "obs_fold"], b"1, 2"),
    ],
)
def test_a_forgiven_fault_is_mended(data: bytes, forgiven: list[str], value: bytes) -> None:
    """It is found in pieces too, and what is behind the head stays as it came."""
    read = reader(forgiven)
    for size in range(len(data)):
        assert read(data[:size], b"GET", 0) is None
    head = read(data + b"\n \nok", b"GET", 0)
    assert head is not None
    assert (head.status, head.length, head.consumed) == (200, 2, len(data))
    assert head.fields[0] == (b"A", value)


@pytest.mark.parametrize(
    ("data", "forgiven"),
    [
        (BARE, []),
        (BARE, ["obs_fold"]),
        (FOLDED, []),
        (FOLDED, ["bare_lf"]),
        (BOTH, ["bare_lf"]),
        (BOTH, ["obs_fold"]),
        (b"HTTP/1.1 200 OK\r\n A: 1\r\n\r\n", FAULTS),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\n", FAULTS),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n", FAULTS),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n , gzip\r\n\r\n", FAULTS),
        (b"HTTP/1.1 200 OK\r\nA: 1\rB: 2\n\n", FAULTS),
        (b"HTTP/1.1 200 OK\nA : 1\n\n", FAULTS),
        (b"SSH-2.0-OpenSSH\r\n", FAULTS),
        (b"SSH-2.0-OpenSSH\n", FAULTS),
    ],
)
def test_nothing_else_is(data: bytes, forgiven: list[str]) -> None:
    """What is not forgiven, and what has more than one reading when it is mended."""
    with pytest.raises(BadResponse):
        reader(forgiven)(data, b"GET", 0)


def test_a_head_that_never_ends_is_given_up() -> None:
    with pytest.raises(BadResponse):
        reader(FAULTS)(b"HTTP/1.1 200 OK\n" + b"A: 1\n" * (MAX_HEAD_BYTES // 5), b"GET", 0)


@given(
    st.lists(st.sampled_from([b"A: 1", b"\r\n", b"\n", b" ", b"\t", b"B:2", b"\r"]), max_size=12)
)
def test_a_head_without_fault_reads_as_ever(parts: list[bytes]) -> None:
    """Forgiving changes no reading of what is right, and finds the end where it was."""
    data = b"HTTP/1.1 200 OK\r\n" + b"".join(parts)
    try:
        plain = read_head(data, b"GET")
    except BadResponse:
        return
    if plain is None:
        return
    mended = reader(FAULTS)(data, b"GET", 0)
    assert mended is not None
    assert (mended.fields, mended.consumed) == (plain.fields, plain.consumed)
