"""What is fuzzed, as functions of bytes that raise AssertionError (or anything else) on a finding.

Refusing is always fine; what is taken must have one reading: the same in pieces as whole, the same for
gunicorn's parser, and nothing but plain fields in what would be forwarded. A stream of HTTP/2 becomes exactly
one request of HTTP/1.1. Heads are read over both of our
parsers, the one in C and the one in Python: taken, refused or incomplete, they agree about every input.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from gunicorn.http.unreader import IterUnreader
from replay import others, parsers

from app.errors import BadRequest, BadResponse
from app.wire import (
    chunked,
    fields,
    forwarded,
    forwarded_syntax,
    h2,
    proxy_protocol,
    request,
    response,
    via,
)
from app.wire.trailers import is_safe
from app.worker.client.http2.stream import Http2Stream

_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n")
_TARGET = re.compile(rb"\*|/[\x21-\x7e]*")
_HOST = re.compile(rb"[\x21-\x7e]+")
METHODS = (b"GET", b"HEAD", b"POST", b"OPTIONS")


def _check_parsers(agree: Callable[..., object], data: bytes, *more: object) -> None:
    """Whole, and in pieces: the places are the input's own, and the last of its bytes."""
    if not parsers.HAS_C:
        return
    agree(data, 0, *more)
    size = len(data)
    for seen in {size // 2, data.find(b"\n") + 1, sum(data[:8]) % (size + 1), max(0, size - 1)}:
        agree(data[:seen], 0, *more)
        agree(data, seen, *more)


def _check_lines(lines: list[bytes]) -> None:
    assert len(lines) % 4 == 0
    for at in range(0, len(lines), 4):
        line = b"".join(lines[at : at + 4])
        assert _LINE.fullmatch(line), line


def fuzz_request(data: bytes) -> None:
    """A request head; also with limits as small as its bytes say."""
    _check_parsers(parsers.agree_on_request, data)
    if data:
        limits = {"line": data[-1], "fields": data[-1] % 8, "field": data[len(data) // 2]}
        _check_parsers(parsers.agree_on_request, data, limits)
    try:
        head = request.read_head(data)
    except BadRequest as error:
        if not 400 <= error.status <= 505 or not re.fullmatch("[a-z_]+", error.reason):
            raise AssertionError(f"{error.status} {error.reason}") from error
        return
    if head is None:
        return
    assert 0 < head.consumed <= len(data)
    assert _TARGET.fullmatch(head.target), head.target
    assert b"#" not in head.target
    assert head.method not in (b"CONNECT", b"TRACE")
    assert head.minor == 0 or _HOST.fullmatch(head.host)
    _check_lines(head.lines)
    names = [head.lines[at].lower() for at in range(0, len(head.lines), 4)]
    assert names.count(b"host") == (1 if head.host else 0)
    for name in (
        "content-length",
        "transfer-encoding",
        "connection",
        "x-forwarded-for",
        "x-request-id",
    ):
        assert name.encode() not in names
    for end in (head.consumed - 1, head.consumed // 2):
        assert request.read_head(data[:end]) is None, "a part is taken for the whole"
    again = request.read_head(data[: head.consumed], head.consumed // 2)
    assert again is not None
    assert (again.lines, again.length, again.host) == (head.lines, head.length, head.host)
    alone = data[: head.consumed]
    body = b"x" * head.length if 0 <= head.length < 1000 else b"0\r\n\r\n"
    if head.length < 1000:
        for parser in others.PARSERS:
            assert others.by_gunicorn(others.without_forgiven(alone + body), parser) is not None, (
                f"gunicorn refuses ({parser})"
            )


def fuzz_response(data: bytes) -> None:
    """A response head; the first byte chooses the method that was asked with."""
    method, data = METHODS[data[0] % len(METHODS) if data else 0], data[1:]
    _check_parsers(parsers.agree_on_response, data, method)
    try:
        head = response.read_head(data, method)
    except BadResponse:
        return
    if head is None:
        return
    assert 0 < head.consumed <= len(data)
    assert 100 <= head.status <= 999
    assert re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", head.reason), head.reason
    _check_lines(head.lines)
    names = [head.lines[at].lower() for at in range(0, len(head.lines), 4)]
    assert names.count(b"content-length") <= 1
    for name in (b"transfer-encoding", b"keep-alive"):
        assert name not in names
    if b"connection" in names:
        assert head.status == 426
        assert b"".join(head.lines).endswith(b"\r\nConnection: Upgrade\r\n")
    assert head.length >= response.UNTIL_CLOSE
    if method == b"HEAD" or head.status in (204, 304) or head.status < 200:
        assert head.length == 0
    assert not (head.keep_alive and head.length == response.UNTIL_CLOSE)
    assert response.read_head(data[: head.consumed - 1], method) is None, (
        "a part is taken for the whole"
    )


def _decode(pieces: list[bytes]) -> tuple[object, ...] | None:
    decoder = chunked.ChunkedDecoder()
    out = b""
    try:
        for number, piece in enumerate(pieces):
            if decoder.done:
                return out, True, decoder.rest + b"".join(pieces[number:]), decoder.trailers
            out += decoder.feed(piece)
    except chunked.ChunkedError:
        return None
    return out, decoder.done, decoder.rest if decoder.done else b"", decoder.trailers


class _Anything:
    """Stands in for the request that gunicorn's reader belongs to."""

    limit_request_field_size = 8190
    max_buffer_headers = 65536

    def parse_headers(self, data: bytes, from_trailer: bool) -> list[tuple[str, str]]:
        return []


def fuzz_chunked(data: bytes) -> None:
    """A chunked body; the first two bytes say where it is cut."""
    if len(data) < 2:
        return
    first, second, data = data[0], data[1], data[2:]
    whole = _decode([data])
    cuts = sorted({first % (len(data) + 1), second % (len(data) + 1)})
    edges = [0, *cuts, len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges) if b > a]
    parts = _decode(pieces)
    bytewise = _decode([data[at : at + 1] for at in range(len(data))])
    for other in (parts, bytewise):
        if whole is not None and whole[1]:
            assert other == whole
        if other is not None and other[1]:
            assert other == whole
    if whole is not None and whole[1]:
        from gunicorn.http.body import Body, ChunkedReader

        body = Body(ChunkedReader(_Anything(), IterUnreader([data]))).read()
        assert body == whole[0], "gunicorn reads another body"
        trailers = whole[3]
        assert isinstance(trailers, list)
        assert all(is_safe(name) for name, _ in trailers)


def fuzz_proxy(data: bytes) -> None:
    """A header of the PROXY protocol."""
    try:
        header = proxy_protocol.read_header(data)
    except proxy_protocol.BadProxyHeader:
        return
    if header is None:
        assert len(data) < proxy_protocol.MAX_V2_BYTES
        return
    assert 0 < header.consumed <= min(len(data), proxy_protocol.MAX_V2_BYTES)
    assert proxy_protocol.read_header(data[: header.consumed]) == header
    for end in (header.consumed - 1, header.consumed // 2):
        assert proxy_protocol.read_header(data[:end]) is None, "a part is taken for the whole"
    if header.source:
        # Our spelling of it, and of IPv4 in IPv6; gunicorn keeps the sender's.
        theirs = ipaddress.ip_address(others.client_by_gunicorn(data[: header.consumed]))
        ours = ipaddress.ip_address(header.source)
        assert ours in (theirs, getattr(theirs, "ipv4_mapped", None)), "gunicorn reads another"


_MODES = (forwarded.X_FORWARDED, forwarded.FORWARDED, forwarded.BOTH)
_PROXIES = ("10.0.0.0/8", "2001:db8::/32")
_MARK = via.mark(0x1234)


def fuzz_forwarded(data: bytes) -> None:
    """Claims of a client or a proxy: the first byte chooses how they are judged, lines are fields."""
    if not data:
        return
    mode, believed = _MODES[data[0] % 3], bool(data[0] & 4)
    names = (b"Forwarded", b"X-Forwarded-For", b"CDN-Loop", b"X-Forwarded-Proto", b"Host")
    claims = [
        (name, value.strip(b" \t"))
        for name, value in zip(names, data[1:].split(b"\n"), strict=False)
        if value and fields.VALUE.fullmatch(value)
    ]
    if b"Host" not in dict(claims):
        claims.append((b"Host", b"a.example"))
    try:
        head = request.head_from(b"GET", b"/", 1, claims)
    except BadRequest:
        return
    peer = "10.0.0.1"
    trust = forwarded.Trust(_PROXIES, mode)
    address = trust.client_of(head, peer)
    ipaddress.ip_address(address)
    lines = forwarded.lines_writer(trust)(head, peer, "https", believed)
    written = {}
    for line in lines.splitlines(keepends=True):
        assert _LINE.fullmatch(line), line
        name, _, value = line[:-2].partition(b": ")
        assert name not in written, f"{name!r} twice"
        written[name] = value
    assert (b"X-Forwarded-For" in written) == (mode != forwarded.FORWARDED)
    if mode != forwarded.X_FORWARDED:
        last = forwarded_syntax.last(written[b"Forwarded"])
        assert last is not None, "nobody reads our own element"
        host = head.host if head.host.count(b",") < 256 else None
        assert last[0] == (peer, b"https", host)
    if not believed:
        for name, own in ((b"X-Forwarded-For", peer.encode()), (b"X-Forwarded-Proto", b"https")):
            assert written.get(name, own) == own, "a stranger is believed"
    line = via.loop_line(head.cdn_loop, _MARK)
    assert _LINE.fullmatch(line), line
    assert via.is_loop(line[10:-2], _MARK), "our own mark is not found again"


class _Carrier:
    """What a stream needs of its connection, and what becomes of nothing here."""

    peer, scheme, is_trusted, forwarded = "203.0.113.9", "https", False, b""
    timeout, body_limit, body_rate = 60.0, 0, 0

    def __init__(self) -> None:
        self.sender = self

    def addresses(self) -> tuple[object, object]:
        return None, None

    def open_window(self, stream: object, size: int) -> None:
        """Anything may be sent."""


_SECOND = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
_ENDINGS = ("head", "data", "empty", "trailers")


def fuzz_stream(data: bytes) -> None:
    """A stream of HTTP/2, and what a server of HTTP/1.1 is sent for it: one request, as long as the stream's.

    The first byte says how it ends and in how many pieces its body comes; fields, a line each, follow up to a
    NUL, then the body.
    """
    if not data:
        return
    ending, count = _ENDINGS[data[0] % 4], data[0] // 4 % 5 + 1
    lines, _, body = data[1:].partition(b"\0")
    more = [tuple(line.split(b": ", 1)) for line in lines.split(b"\n") if b": " in line]
    start = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
    connection: Any = _Carrier()
    stream = Http2Stream(connection, 1, ending == "head")
    try:
        stream.head_in(h2.read_request([*start, *more], ending == "head", request.STANDARD))
        if ending != "head":
            step = max(1, -(-len(body) // count))
            for at in range(0, len(body), step):
                stream.take_in(body[at : at + step], step)
            if ending == "trailers":
                stream.trailers_in(h2.read_trailers([(b"x-sum", body[:9])]))
            stream.end_in()
    except BadRequest:
        return
    stream.begin()
    assert stream.failure is None
    assert stream.read_body is None
    given = b"" if ending == "head" else body
    assert stream.body == (given if stream.head.length else b"")
    assert stream.body == given, "a part of the body is left out"
    head = stream.head
    framed = stream.body
    if head.length == request.CHUNKED:
        trailers = stream.request_trailers()
        framed = (chunked.encode_chunk(framed) if framed else b"") + chunked.last_chunk(trailers)
    sent = b"POST / HTTP/1.1\r\n" + b"".join(head.lines) + head.framing + b"\r\n" + framed
    assert others.two_by_gunicorn(sent + _SECOND) == (given, b"/second"), sent


TARGETS = {
    "request": fuzz_request,
    "response": fuzz_response,
    "chunked": fuzz_chunked,
    "forwarded": fuzz_forwarded,
    "proxy": fuzz_proxy,
    "stream": fuzz_stream,
}
