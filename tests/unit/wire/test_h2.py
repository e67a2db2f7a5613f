"""HTTP/2's fields as a request head: what is taken, what is refused, and that nothing is smuggled."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire import h2
from app.wire.h2 import MalformedError, lower, read_trailers, response_fields
from app.wire.parser import parse_request
from app.wire.request import CHUNKED, STANDARD

Fields = list[tuple[bytes, bytes]]

read_request = partial(h2.read_request, limits=STANDARD)


def fields(*more: tuple[bytes, bytes], **pseudo: bytes | None) -> Fields:
    """A good request's fields, some pseudo-header fields replaced or left out, and ``more``."""
    start = {
        "method": b"GET",
        "scheme": b"https",
        "authority": b"a.example",
        "path": b"/",
        **pseudo,
    }
    named = [(b":" + name.encode(), value) for name, value in start.items() if value is not None]
    return [*named, *more]


def test_the_head_is_that_of_http_1_1() -> None:
    """The authority is the Host, cookies are one field again, and the rest is as it came."""
    head = read_request(
        fields(
            (b"cookie", b"a=1"),
            (b"x-some", b"one"),
            (b"cookie", b"b=2"),
            (b"te", b"trailers"),
            (b"user-agent", b"me"),
            authority=b"a.example:8443",
            path=b"/p?q=%20",
        ),
        is_whole=True,
    )
    assert (head.method, head.target, head.host) == (b"GET", b"/p?q=%20", b"a.example:8443")
    assert b"".join(head.lines) == (
        b"host: a.example:8443\r\nx-some: one\r\nuser-agent: me\r\ncookie: a=1; b=2\r\n"
    )
    assert (head.length, head.framing, head.minor) == (0, b"", 2)
    assert head.te_trailers
    assert head.upgrade is None


def test_the_body_is_framed_by_what_the_stream_says() -> None:
    """A length is kept; without one a body is chunked; a stream that has ended has none."""
    length = (b"content-length", b"5")
    assert read_request(fields(length, method=b"POST"), False).framing == b"Content-Length: 5\r\n"
    head = read_request(fields(method=b"POST"), False)
    assert (head.length, head.framing) == (CHUNKED, b"Transfer-Encoding: chunked\r\n")
    assert read_request(fields(method=b"POST"), True).length == 0


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize("length", [b"1", b"32", b"032", b"999999999999999999"])
def test_a_body_that_does_not_come_is_not_announced(method: bytes, length: bytes) -> None:
    """The stream ends with its head: a server would make that body of the next client's request."""
    with pytest.raises(MalformedError) as caught:
        read_request(fields((b"content-length", length), method=method), is_whole=True)
    assert caught.value.reason == "malformed_request"


@pytest.mark.parametrize("length", [b"0", b"000"])
def test_no_body_may_be_announced_as_none(length: bytes) -> None:
    """A length of 0 says what is."""
    head = read_request(fields((b"content-length", length), method=b"POST"), is_whole=True)
    assert (head.length, head.framing) == (0, b"Content-Length: 0\r\n")


def test_a_host_field_alone_is_enough() -> None:
    """As in requests that were translated from HTTP/1.1 (RFC 9113 §8.3.1); with both, once."""
    assert read_request(fields((b"host", b"b.example"), authority=None), True).host == b"b.example"
    head = read_request(fields((b"host", b"A.example")), True)
    assert b"".join(head.lines) == b"host: a.example\r\n"
    head = read_request(fields((b"host", b"a.example:443")), True)
    assert b"".join(head.lines) == b"host: a.example\r\n"


@pytest.mark.parametrize(
    "bad",
    [
        fields((b"x", b"a\r\nHost: evil")),
        fields((b"x", b"a\nb")),
        fields((b"x", b"a\rb")),
        fields((b"x", b"a\x00b")),
        fields((b"x", b"\x7f")),
        fields((b"x", b" a")),
        fields((b"x", b"a\t")),
        fields((b"x: y\r\nz", b"a")),
        fields((b"x:y", b"a")),
        fields((b"x y", b"a")),
        fields((b"X-Upper", b"a")),
        fields((b"", b"a")),
        fields((b"x\xff", b"a")),
        fields((b"transfer-encoding", b"chunked")),
        fields((b"transfer-encoding", b"identity")),
        fields((b"connection", b"x-forwarded-for")),
        fields((b"proxy-connection", b"keep-alive")),
        fields((b"keep-alive", b"timeout=5")),
        fields((b"upgrade", b"websocket")),
        fields((b"te", b"trailers, chunked")),
        fields((b"te", b"gzip")),
        fields(path=b"/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /"),
        fields(path=b"/a b"),
        fields(path=b"/a\tb"),
        fields(path=b""),
        fields(path=None),
        fields(path=b"http://evil/"),
        fields(path=b"evil"),
        fields(path=b"*evil"),
        fields(method=b"GET / HTTP/1.1\r\nX: y"),
        fields(method=b"GET /x"),
        fields(method=b""),
        fields(method=None),
        fields(scheme=None),
        fields(scheme=b"gopher"),
        fields(authority=b"a\r\nx: y"),
        fields(authority=b" a"),
        fields((b":path", b"/again")),
        fields((b":status", b"200")),
        fields((b":protocol", b"websocket")),
        [*fields((b"x", b"y"), path=None), (b":path", b"/")],
        [*fields((b"host", b"a.example"), path=None), (b":path", b"/")],
        [*fields((b"cookie", b"a"), path=None), (b":path", b"/")],
    ],
)
def test_what_is_no_message_is_malformed(bad: Fields) -> None:
    """RFC 9113 §8.2 and §8.3; whole or not."""
    for is_whole in (True, False):
        with pytest.raises(MalformedError):
            read_request(bad, is_whole)


@pytest.mark.parametrize(
    ("bad", "status", "reason"),
    [
        (fields((b"host", b"b.example")), 400, "bad_host"),
        (fields((b"host", b"a.example:80")), 400, "bad_host"),
        (fields((b"host", b"a.example"), (b"host", b"a.example")), 400, "bad_host"),
        (fields(authority=None), 400, "bad_host"),
        (fields(authority=b""), 400, "bad_host"),
        (fields(authority=b"user@a.example"), 400, "bad_host"),
        (fields(authority=b"a.example/x"), 400, "bad_host"),
        (fields(path=b"*"), 400, "bad_target"),
        (fields(path=b"/a#b"), 400, "bad_target"),
        (fields(path=b"/\xff"), 400, "bad_target"),
        (fields(path=b"/" + b"a" * 9000), 414, "target_too_long"),
        (fields((b"x", b"a" * 9000)), 431, "head_too_large"),
        (fields(*[(b"x", b"a")] * 101), 431, "head_too_large"),
        (fields(*[(b"x%d" % n, b"a" * 8000) for n in range(6)]), 431, "head_too_large"),
        (fields((b"content-length", b"5"), (b"content-length", b"5")), 400, "bad_framing"),
        (fields((b"content-length", b"+5")), 400, "bad_framing"),
        (fields((b"expect", b"magic")), 417, "expectation_failed"),
        (fields(method=b"TRACE"), 405, "method_not_allowed"),
        (fields(method=b"CONNECT", path=None, scheme=None), 405, "method_not_allowed"),
    ],
)
def test_what_http_1_1_refuses_is_refused_alike(bad: Fields, status: int, reason: str) -> None:
    """With the status and reason that the same request gets there."""
    with pytest.raises(BadRequest) as caught:
        read_request(bad, True)
    assert not isinstance(caught.value, MalformedError)
    assert (caught.value.status, caught.value.reason) == (status, reason)


_bytes = st.one_of(
    st.from_regex(rb"[!-~]{0,12}", fullmatch=True), st.binary(max_size=12), st.sampled_from([b"*"])
)
_name = st.one_of(
    st.sampled_from(
        [b"host", b"cookie", b"te", b"content-length", b"transfer-encoding", b"connection", b"x_y"]
    ),
    st.from_regex(rb"[a-z-]{1,8}", fullmatch=True),
    st.binary(max_size=6),
)


@settings(derandomize=True, max_examples=600)
@given(
    st.lists(st.tuples(_name, _bytes), max_size=5),
    st.sampled_from([b"GET", b"POST", b"OPTIONS"]) | _bytes,
    st.just(b"/") | _bytes,
    st.just(b"a.example") | _bytes,
    st.booleans(),
)
def test_what_passes_is_one_message_of_as_many_fields(
    more: Fields, method: bytes, path: bytes, authority: bytes, is_whole: bool
) -> None:
    """What a backend gets of it, parsed by gunicorn's parser, holds these fields and nothing else."""
    asked = fields(*more, method=method, path=path, authority=authority)
    try:
        head = read_request(asked, is_whole)
    except BadRequest:
        return
    message = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        *(head.method, head.target),
        *(b"".join(head.lines), head.framing),
    )
    parsed = parse_request(message, 0, 8190, 100, 8190, True)
    assert (parsed["method"], parsed["path"], parsed["consumed"]) == (method, path, len(message))
    sent = [field for field in parsed["headers"] if field[0].lower() not in (b"host", b"cookie")]
    known = [(name, value) for name, value in more if name not in (b"host", b"cookie")]
    if not is_whole and head.length == CHUNKED:
        known.append((b"Transfer-Encoding", b"chunked"))
    assert set(sent) <= {
        (b"Content-Length" if name == b"content-length" else name, value) for name, value in known
    } | {(b"Content-Length", b"%d" % head.length)}


def test_trailers_are_checked_as_in_a_chunked_body() -> None:
    """What is not safe is discarded; what is no field, or a connection's, is malformed."""
    more = [(b"grpc-x_y", b"1"), (b"host", b"x"), (b"content-length", b"1"), (b"x-user", b"a")]
    assert read_trailers([(b"grpc-status", b"0"), *more]) == [(b"grpc-status", b"0")]
    for bad in (
        (b"connection", b"x"),
        (b":path", b"/"),
        (b"x", b"a\r\nb"),
        (b"X", b"a"),
        (b"x", b"a "),
    ):
        with pytest.raises(MalformedError):
            read_trailers([bad])


def test_a_response_is_written_in_small_letters() -> None:
    """Status first; values as they are, repeated fields in order."""
    lines = [b"Set-Cookie", b": ", b"a=1", b"\r\n", b"SET-cookie", b": ", b"b=\xff", b"\r\n"]
    assert response_fields(200, lines) == [
        (b":status", b"200"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=\xff"),
    ]
    assert lower(b"X" * 100) == b"x" * 100


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"x-forwarded-port", b"early-data", b"via"])
def test_a_trailer_that_says_who_the_client_is_goes_no_further(name: bytes) -> None:
    """As in a chunked body."""
    assert read_trailers([(name, b"1"), (b"etag", b"a")]) == [(b"etag", b"a")]


def test_a_426_has_no_fields_of_a_connection() -> None:
    """Upgrade and its option are for HTTP/1.1 (RFC 9113 §8.2.2)."""
    lines = [b"X-A", b": ", b"1", b"\r\n", b"Upgrade", b": ", b"websocket", b"\r\n"]
    lines += [b"Connection", b": ", b"Upgrade", b"\r\n"]
    assert response_fields(426, lines) == [(b":status", b"426"), (b"x-a", b"1")]
