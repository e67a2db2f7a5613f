"""What is read from a request head beyond what the wire cases can show: its facts, and the early refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire import request
from app.wire.request import CHUNKED, STANDARD, HeadLimits, RequestHead, head_from, read_head


def read(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> RequestHead:
    """A request with a Host and these fields."""
    head = read_head(b"\r\n".join((start, b"Host: a.example", *lines, b"", b"")))
    assert head is not None
    return head


def refused(data: bytes) -> tuple[int, str]:
    """Status and reason."""
    with pytest.raises(BadRequest) as caught:
        read_head(data)
    return caught.value.status, caught.value.reason


def test_the_facts_of_a_head() -> None:
    """Everything the layers above ask for."""
    data = (
        b"PUT /a?b HTTP/1.1\r\nHost: a.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n"
        b"X-Request-Id: abc\r\nContent-Length: 3\r\n\r\n"
    )
    head = read_head(data + b"xyz")
    assert head is not None
    assert (head.method, head.target, head.minor, head.host) == (b"PUT", b"/a?b", 1, b"a.example")
    assert (head.user_agent, head.accept, head.request_id) == (b"curl/8", b"*/*", b"abc")
    assert (head.length, head.framing) == (3, b"Content-Length: 3\r\n")
    assert b"".join(head.lines) == b"Host: a.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n"
    assert head.consumed == len(data)


def test_no_fact_is_left_from_the_request_before() -> None:
    """Facts have defaults on the class: one head must not see another's."""
    read(
        b"TE: trailers",
        b"Expect: 100-continue",
        b"Upgrade: x",
        b"Connection: upgrade, te",
        b"Trailer: x",
    )
    head = read()
    assert (head.te_trailers, head.expect_continue, head.upgrade, head.trailer) == (
        False,
        False,
        None,
        None,
    )
    assert (head.user_agent, head.accept, head.request_id, head.forwarded_for) == (None,) * 4


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"Close, x", False),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"Keep-Alive, close", False),
    ],
)
def test_persistence(version: bytes, connection: bytes | None, expected: bool) -> None:
    """RFC 9112 §9.3."""
    lines = () if connection is None else (b"Connection: " + connection,)
    assert read(*lines, start=b"GET / HTTP/" + version).keep_alive is expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((b"Connection: upgrade", b"Upgrade: websocket"), b"websocket"),
        ((b"Connection: Upgrade", b"Upgrade: a", b"Upgrade: b"), b"a, b"),
        ((b"Upgrade: websocket",), None),
        ((b"Connection: close", b"Upgrade: websocket"), None),
    ],
)
def test_upgrade_needs_connection(lines: tuple[bytes, ...], expected: bytes | None) -> None:
    """RFC 9110 §7.8."""
    assert read(*lines).upgrade == expected


def test_an_expectation_of_http_1_0_is_ignored() -> None:
    """RFC 9110 §10.1.1."""
    assert read(b"Expect: 100-continue").expect_continue
    assert not read(b"Expect: 100-continue", start=b"GET / HTTP/1.0").expect_continue


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((b"Expect:",), False),
        ((b"Expect: ,",), False),
        ((b"Expect: 100-Continue,100-continue",), True),
        ((b"Expect:", b"Expect: 100-continue", b"Expect:"), True),
    ],
)
def test_an_expectation_is_a_list(lines: tuple[bytes, ...], expected: bool) -> None:
    """RFC 9110 §10.1.1."""
    assert read(*lines).expect_continue is expected


@pytest.mark.parametrize("value", [b"x", b"100-continue, x", b"100-continue;q=1", b'""', b"100"])
def test_what_else_is_expected_is_refused(value: bytes) -> None:
    """Somebody relies on it, and it is not for us to say that nobody does it."""
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: %b\r\n\r\n" % value) == (
        417,
        "expectation_failed",
    )


@pytest.mark.parametrize("method", [b"x", b"Get", b"a" * 200, b"!#$%&'*+-.^_`|~0z"])
def test_any_token_is_a_method(method: bytes) -> None:
    """RFC 9110 §9.1: of any length, and as it is spelt."""
    assert read(start=method + b" / HTTP/1.1").method == method


@pytest.mark.parametrize("method", [b"CONNECT", b"connect", b"TRACE", b"tRaCe"])
def test_no_spelling_of_connect_or_trace_is_forwarded(method: bytes) -> None:
    """Servers that take small letters for large ones would tunnel, or show what fields they got."""
    assert refused(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n") == (405, "method_not_allowed")


def test_equal_content_types_are_one() -> None:
    """Whoever splits the head; the limits hold for it as for any other."""
    head = read(b"Content-Type: a", b"X-A: 1", b"content-type: a", b"Content-Type:a")
    assert b"".join(head.lines) == b"Host: a.example\r\nContent-Type: a\r\nX-A: 1\r\n"
    pairs = [(b"Host", b"a"), (b"Content-Type", b"a"), (b"Content-Type", b"a")]
    assert head_from(b"POST", b"/", 1, pairs).lines.count(b"Content-Type") == 1
    data = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n"
    with pytest.raises(BadRequest) as caught:
        read_head(data, 0, HeadLimits(fields=2))
    assert caught.value.status == 431


def test_chunked_is_framed_as_chunked() -> None:
    """The length is unknown, and the line that says so is ours."""
    head = read(b"Transfer-Encoding: CHUNKED")
    assert (head.length, head.framing) == (CHUNKED, b"Transfer-Encoding: chunked\r\n")


def test_repeated_claims_are_joined() -> None:
    """Lists over several lines are one list (RFC 9110 §5.3)."""
    head = read(
        b"X-Forwarded-For: a", b"X-Forwarded-For: b", b"Forwarded: for=a", b"Forwarded: for=b"
    )
    assert (head.forwarded_for, head.forwarded) == (b"a, b", b"for=a, for=b")


@pytest.mark.parametrize(
    ("minor", "fields", "reason"),
    [
        (1, [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")], "bad_framing"),
        (0, [(b"Transfer-Encoding", b"chunked")], "bad_framing"),
        (
            1,
            [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
            "bad_framing",
        ),
        (1, [(b"Content-Length", b"1"), (b"Content-Length", b"1")], "bad_framing"),
        (1, [(b"Content-Length", b"-1")], "bad_framing"),
        (1, [(b"Host", b"a.example")], "bad_host"),
        (1, [(b"Content-Type", b"a"), (b"Content-Type", b"b")], "bad_header"),
        (1, [(b"", b"folded")], "bad_header"),
    ],
)
def test_a_head_split_by_another_is_checked_as_well(
    minor: int, fields: list[tuple[bytes, bytes]], reason: str
) -> None:
    """Under another worker a WSGI server has parsed it; the rules do not lean on our parser's own."""
    with pytest.raises(BadRequest) as caught:
        head_from(b"POST", b"/", minor, [(b"Host", b"a.example"), *fields])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /" + b"a" * 9000, (414, "target_too_long")),
        (b"\r\nGET /" + b"a" * 9000, (414, "target_too_long")),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 32768, (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\nHost: a\n", (400, "bad_line_ending")),
        (b"GET / HTTP/1.1\n", (400, "bad_line_ending")),
    ],
)
def test_what_can_never_be_good_is_refused_at_once(data: bytes, expected: tuple[int, str]) -> None:
    """An unfinished head over a limit or with a bare LF is not waited for."""
    assert refused(data) == expected


@pytest.mark.parametrize(
    "data", [b"", b"G", b"\r", b"\r\n", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r\n\r"]
)
def test_the_beginning_of_a_good_head_is_waited_for(data: bytes) -> None:
    """None, not an error."""
    assert read_head(data) is None


def sized(*, line: int = 30, fields: int = 4, field: int = 20, all_fields: int = 60) -> bytes:
    """A head of exactly these sizes: its request line, how many fields, the largest, all of them."""
    start = b"GET /" + b"a" * (line - 14) + b" HTTP/1.1\r\nHost: a\r\n"
    large = b"X: " + b"a" * (field - 5) + b"\r\n"
    rest = all_fields - len(b"Host: a\r\n") - len(large)
    each = [rest // (fields - 2)] * (fields - 3)
    each.append(rest - sum(each))
    return start + large + b"".join(b"Y:" + b"a" * (size - 4) + b"\r\n" for size in each) + b"\r\n"


SMALL = HeadLimits(line=40, fields=5, field=25, all_fields=70)


@pytest.mark.parametrize("empty_line", [b"", b"\r\n"], ids=["", "behind an empty line"])
@pytest.mark.parametrize(
    ("at", "over", "expected"),
    [
        ({"line": 40}, {"line": 41}, (414, "target_too_long")),
        ({"fields": 5}, {"fields": 6, "all_fields": 60}, (431, "head_too_large")),
        ({"field": 25}, {"field": 26}, (431, "head_too_large")),
        ({"all_fields": 70}, {"all_fields": 71}, (431, "head_too_large")),
    ],
)
def test_each_limit_is_exact(
    at: dict[str, int], over: dict[str, int], expected: tuple[int, str], empty_line: bytes
) -> None:
    """At the limit it is read, one more is refused, in one piece and in every two."""
    data = empty_line + sized(**at)
    for end in range(len(data)):
        assert read_head(data[:end], 0, SMALL) is None
    head = read_head(data, 0, SMALL)
    assert head is not None
    assert head.consumed == len(data)
    with pytest.raises(BadRequest) as caught:
        read_head(empty_line + sized(**over), 0, SMALL)
    assert (caught.value.status, caught.value.reason) == expected


def test_what_grows_over_a_limit_is_refused_before_its_end() -> None:
    """Neither the end of the line nor that of the head is waited for."""
    for data, status in (
        (b"GET /" + b"a" * 37, 414),
        (b"\r\nGET /" + b"a" * 37, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X" * 64, 431),
    ):
        assert read_head(data[:-1], 0, SMALL) is None
        with pytest.raises(BadRequest) as caught:
            read_head(data, 0, SMALL)
        assert caught.value.status == status


def test_the_standard_limits() -> None:
    """8 KiB a line, 100 fields, 32 KiB of them: what nginx and gunicorn allow."""
    assert HeadLimits(8190, 100, 8190, 32768) == STANDARD


def test_good_hosts_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client can invent hosts without end."""
    monkeypatch.setattr(request, "_known_hosts", known := set())
    for number in range(2000):
        read_head(b"GET / HTTP/1.1\r\nHost: h%d.example\r\n\r\n" % number)
    read_head(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"a" * 5000))
    assert len(known) == 1024
    assert max(map(len, known)) < 256


def test_a_remembered_host_is_checked_against_the_target_still() -> None:
    """Being well-formed is remembered, not being right."""
    read()
    assert refused(b"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n") == (
        400,
        "bad_host",
    )


@settings(derandomize=True, max_examples=300)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b""]),
)
def test_any_bytes_are_read_refused_or_waited_for(data: bytes, start: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        head = read_head(start + data)
    except BadRequest as error:
        status = error.status
    else:
        status = 400
        assert head is None or head.consumed <= len(start + data)
    assert status in (400, 405, 414, 417, 431, 501, 505)


def test_a_connection_of_more_options_than_can_be_read_is_refused() -> None:
    """What it names would be passed on, or taken for something to keep."""
    options = b",".join(b"x-%d" % number for number in range(100))
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n\r\n" % options
    assert refused(data) == (400, "bad_header")


@pytest.mark.parametrize(
    ("method", "framing"),
    [
        (b"POST", b"Content-Length: 0\r\n"),
        (b"PUT", b"Content-Length: 0\r\n"),
        (b"PATCH", b"Content-Length: 0\r\n"),
        (b"GET", b""),
        (b"DELETE", b""),
        (b"OPTIONS", b""),
    ],
)
def test_where_a_body_would_be_expected_its_absence_is_said(method: bytes, framing: bytes) -> None:
    """Whoever has left it out, as HTTP/2 may: some servers want a length (411)."""
    head = read(start=method + b" / HTTP/1.1")
    assert (head.length, head.framing) == (0, framing)
