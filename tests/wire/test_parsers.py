"""The parser in Python reads every head as the C parser does, bytes of no kind excepted.

tests/fuzz compares them over mutated messages. Here: each byte at each place, each truncation, each limit.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import pytest
from replay import corpus, parsers

from app.wire import python_parser
from app.wire.parser import choose

needs_c = pytest.mark.skipif(not parsers.HAS_C, reason=parsers.NO_C)

# Every position of the grammar, with one of each kind of field that the parsers look at themselves.
REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nPOST /a?b HTTP/1.0\r\nHost:a\r\nContent-Length: 3\r\nA: \t b c \t\r\n\r\nabc",
    b"PUT http://a/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nB:\r\n C\r\nHost: a\r\n\r\n",
    b"OPTIONS  *  HTTP/1.1\nHost: a\nContent-Type: b\n\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
    b"HTTP/1.0  404  Not found \r\nContent-Length:3\r\nA: \t b c \t\r\n\r\nabc",
    b"HTTP/1.1 204\r\nB:\r\n C\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 \nA: b\n\nHTTP/1.1 200 OK\n\n",
)
EVERY_BYTE = [bytes((value,)) for value in range(256)]

CODINGS = (b"chunked", b"Chunked", b"identity", b"gzip", b"compress", b"deflate", b"br", b" ", b"")
LENGTHS = (
    b"",
    b"0",
    b"+1",
    b"1 1",
    b"9" * 18,
    str(2**63 - 1).encode(),
    str(2**63).encode(),
    str(2**64).encode(),
    str(2**64 + 2**63).encode(),
    b"9" * 65,
    b"1" * 5000,
    b"\xb2",
)


def changed(data: bytes, at: int) -> Iterator[bytes]:
    """Each byte put in, put in twice, and put in the place of what is there."""
    for byte in EVERY_BYTE:
        yield data[:at] + byte + data[at:]
        yield data[:at] + byte + byte + data[at:]
        yield data[:at] + byte + data[at + 1 :]


@needs_c
@pytest.mark.parametrize("data", REQUESTS)
def test_each_byte_at_each_place_of_a_request(data: bytes) -> None:
    """Whole, and as if all but a part had been seen already."""
    for at in range(len(data) + 1):
        for changed_data in changed(data, at):
            parsers.agree_on_request(changed_data)
            parsers.agree_on_request(changed_data, at)


@needs_c
@pytest.mark.parametrize("data", RESPONSES)
def test_each_byte_at_each_place_of_a_response(data: bytes) -> None:
    """Likewise; the health checks' reader and the forgiving ones too."""
    for at in range(len(data) + 1):
        for changed_data in changed(data, at):
            parsers.agree_on_response(changed_data)
            parsers.agree_on_response(changed_data, at, b"HEAD")


@needs_c
@pytest.mark.parametrize("data", [*REQUESTS, *RESPONSES])
def test_each_truncation(data: bytes) -> None:
    """The same moment is the first at which there is a verdict, and a part is whole to both or to neither."""
    agree = parsers.agree_on_response if data in RESPONSES else parsers.agree_on_request
    parsers.agree_in_pieces(agree, data)
    for end in range(len(data) + 1):
        for seen in range(end + 1):
            agree(data[:end], seen)


@needs_c
@pytest.mark.parametrize("case", corpus.load(), ids=str)
def test_each_wire_case(case: corpus.Case) -> None:
    """Whole, and byte by byte to the first verdict."""
    for data, agree in (
        (case.request, parsers.agree_on_request),
        (case.response, parsers.agree_on_response),
    ):
        if data:
            agree(data)
            parsers.agree_in_pieces(agree, data, 1 if len(data) < 4096 else 97)


@needs_c
@pytest.mark.parametrize("name", ["line", "fields", "field", "all_fields"])
@pytest.mark.parametrize("start", [b"", b"\r\n", b"\n"])
def test_limits(name: str, start: bytes) -> None:
    """Below, at and above each limit, for heads that are whole, unfinished and wrong behind it."""
    for head in (
        b"GET /aaaaaaaa HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbb\r\nC: d\r\n\r\n",
        b"GET /aaaaaaaa HTTP/1.1\r\nHost: a\r\nA:bbbbbbbbbb   \r\nC: d\r\n\r\n",
        b"GET /aaaaaaaa HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbb\r\nC: d",
        b"GET /aaaaaaaa HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbb\r\nC : d\r\n\r\n",
        b"GET /aaaaaaaa HTTP/1.1\nHost: a\nA: bbbbbbbbbb\n C: d\n\n",
        b"GET  /aaaaaaaa  HTTP/1.2\r\nHost: a\r\nHost: b\r\nC: d\r\n\r\n",
    ):
        for limit in range(80):
            parsers.agree_on_request(start + head, 0, {name: limit})
            parsers.agree_on_request(start + head, 20, {name: limit})


@needs_c
@pytest.mark.parametrize("count", [255, 256, 257, 400])
@pytest.mark.parametrize(
    "end", [b"\r\n", b"", b"a", b"a:", b"a:b", b" ", b":", b"\r", b"a\0", b"\n"]
)
def test_more_fields_than_a_head_may_have(count: int, end: bytes) -> None:
    """256, whatever the limit says; what follows the last line is looked at in the same order."""
    for line in (b"A: b\r\n", b"A: b\n", b"A:b \r\n"):
        parsers.agree_on_request(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + line * (count - 1) + end, 0, {"fields": 1000}
        )
        parsers.agree_on_response(b"HTTP/1.1 200 OK\r\n" + line * count + end)


@needs_c
@pytest.mark.parametrize(
    "version", [b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/2.0", b"FTP/1.1"]
)
@pytest.mark.parametrize(
    "method", [b"GET", b"CONNECT", b"OPTIONS", b"get", b"G#T", b"GE", b"A" * 21, b""]
)
def test_targets_methods_and_versions(method: bytes, version: bytes) -> None:
    """Every form of a target with every kind of method."""
    targets = (
        b"/",
        b"*",
        b"**",
        b"a",
        b"a:80",
        b"http://a/",
        b"://",
        b":/",
        b"?",
        b"/\xe9",
        b"/#a",
    )
    for target in targets:
        for rest in (
            b"\r\nHost: a\r\n\r\n",
            b"\nHost: a\n\n",
            b" \r\n\r\n",
            b"\r\n",
            b"\r\nA\r\n\r\n",
        ):
            parsers.agree_on_request(method + b" " + target + b" " + version + rest)


@needs_c
def test_framing(rng: random.Random) -> None:
    """Every pair of fields that frame or may be there once, and codings in any number of fields."""
    fields = [b"Content-Length: " + value for value in LENGTHS]
    fields += [b"TRANSFER-Encoding:" + value for value in CODINGS]
    fields += [b"host: a", b"HOST:b", b"Content-Type: a", b"content-typE: b", b"Connection: close"]
    for first in fields:
        for second in fields:
            for version in (b"1.0", b"1.1"):
                parsers.agree_on_request(
                    b"POST / HTTP/%b\r\nHost: a\r\n%b\r\n%b\r\n\r\n" % (version, first, second)
                )
            parsers.agree_on_response(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n\r\n" % (first, second))
    for _ in range(2000):
        several = b"".join(rng.choice(fields) + b"\r\n" for _ in range(rng.randrange(3, 7)))
        parsers.agree_on_request(b"POST / HTTP/1.1\r\n%b\r\n" % several)
        value = b",".join(rng.choice(CODINGS) for _ in range(rng.randrange(5)))
        more = b"Transfer-Encoding: %b\r\n" % rng.choice(CODINGS) if rng.random() < 0.5 else b""
        head = b"Host: a\r\nTransfer-Encoding: %b\r\n%b\r\n" % (value, more)
        parsers.agree_on_request(b"POST / HTTP/1.1\r\n" + head)
        parsers.agree_on_response(b"HTTP/1.1 200 OK\r\n" + head)


HOSTILE = (
    b"GET / HTTP/1.1\r\nA:" + b" " * 60_000,
    b"GET / HTTP/1.1\r\nA:" + b" " * 60_000 + b"\0",
    b"GET / HTTP/1.1\r\nA: " + b"a " * 30_000 + b"\0\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"a" * 60_000 + b"\r\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a" * 60_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 15_000,
    b"GET / HTTP/1.1\r\n" + b"a:\n" * 20_000 + b"\n",
    b"GET / HTTP/1.1\r\nA: b\r\n" + b" \r\n" * 20_000 + b"\r\n",
    b"GET" + b" " * 60_000 + b"/ HTTP/1.1\r\n\r\n",
    b"GET " + b"/" * 60_000 + b"\r\n\r\n",
    b"A" * 60_000,
    b"\r\n" * 30_000,
    b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 60_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: " + b"," * 60_000 + b"\r\n\r\n",
)


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_no_head_takes_long(data: bytes) -> None:
    """60 kB that were chosen to be slow take milliseconds: what takes a square of that takes seconds."""
    response = b"HTTP/1.1 200 OK" + data[data.find(b"\r\n") :]
    started = time.process_time()
    parsers.split(python_parser, "parse_request", data, 0, 10**6, 10**6, 10**6)
    parsers.split(python_parser, "parse_response", response)
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n" + b"A: bcdefgh\r\n" * 2500, b"GET /" + b"a" * 8000],
    ids=["fields", "line"],
)
def test_byte_by_byte_costs_the_last_bytes_only(data: bytes) -> None:
    """Of a head that grows, only what is new is looked at."""
    started = time.process_time()
    for end in range(1, len(data) + 1):
        parsers.split(python_parser, "parse_request", data[:end], end - 1)
    assert (time.process_time() - started) / len(data) < 50e-6


def test_who_is_asked() -> None:
    """auto takes the C parser where it is; a word that is none is refused."""
    module, is_python, problem = choose("auto")
    assert (module is python_parser) == is_python == bool(problem) == (not parsers.HAS_C)
    assert choose("python") == (python_parser, True, "")
    with pytest.raises(ImportError, match="LB_PARSER must be auto, c or python, got 'fast'"):
        choose("fast")


def test_without_the_c_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be imported the one in Python is taken, unless it may not be."""
    monkeypatch.setitem(sys.modules, "gunicorn_h1c", None)
    module, is_python, problem = choose("auto")
    assert module is python_parser
    assert is_python
    assert "gunicorn_h1c" in problem
    with pytest.raises(ImportError, match=r"LB_PARSER=c, but .*gunicorn_h1c.*: make parser"):
        choose("c")
