"""What a request is about: every form of a target, and which hosts have one reading."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire.target import is_authority, is_same_authority, origin_form


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"/a//../b?c=%2e&d", (b"/a//../b?c=%2e&d", None)),
        (b"GET", b"//evil.example/", (b"//evil.example/", None)),
        (b"OPTIONS", b"*", (b"*", None)),
        (b"GET", b"http://a.example/b?c", (b"/b?c", b"a.example")),
        (b"GET", b"HTTPS://A.example:8443/b", (b"/b", b"A.example:8443")),
        (b"GET", b"http://[2001:db8::1]:80/", (b"/", b"[2001:db8::1]:80")),
        # RFC 9112 §3.2.2, §3.2.4: without a path it is "/", and for OPTIONS the server itself.
        (b"GET", b"http://a.example", (b"/", b"a.example")),
        (b"GET", b"http://a.example?b", (b"/?b", b"a.example")),
        (b"OPTIONS", b"http://a.example", (b"*", b"a.example")),
        (b"OPTIONS", b"http://a.example/", (b"/", b"a.example")),
    ],
)
def test_each_form_of_a_target(
    method: bytes, target: bytes, expected: tuple[bytes, bytes | None]
) -> None:
    """What the backend gets, and the host that wins over Host; nothing in a path is decoded or resolved."""
    assert origin_form(method, target) == expected


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"*"),
        (b"OPTIONS", b"**"),
        (b"GET", b"/a#b"),
        (b"GET", b"http://a.example/#b"),
        (b"GET", b"/\xc3\xa4"),
        (b"GET", b"a.example:80"),
        (b"GET", b"a"),
        (b"GET", b""),
        (b"GET", b"ftp://a.example/"),
        (b"GET", b"http:/a.example/"),
        (b"GET", b"http:///a"),
        (b"GET", b"http://"),
        (b"GET", b"http://user@a.example/"),
        (b"GET", b"http://a.example@evil.example/"),
        (b"GET", b"http://a.example\\@evil.example/"),
        (b"GET", b"http://a.example:80:80/"),
    ],
)
def test_a_target_with_two_readings_is_refused(method: bytes, target: bytes) -> None:
    """With a slug that the log and the tests have."""
    with pytest.raises(BadRequest) as caught:
        origin_form(method, target)
    assert (caught.value.status, caught.value.reason) == (400, "bad_target")


@pytest.mark.parametrize(
    "host",
    [
        b"a.example",
        b"a-b_c.example:0",
        b"a.example:65535",
        b"a.example:",
        b"192.0.2.1:80",
        b"[::1]",
        b"[::ffff:192.0.2.1]:8080",
        b"localhost",
        b"xn--bcher-kva.example",
    ],
)
def test_a_host_with_an_optional_port(host: bytes) -> None:
    assert is_authority(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a.example:65536",
        b"a.example:123456",
        b"a.example:-1",
        b"a.example:8o",
        b"a.example:80:80",
        b"::1",
        b"[::1",
        b"[]",
        b"[::g]",
        b"[1.2.3.4]",
        b"[::1]a",
        b"[1:2:3:4:5:6:7:8:9]",
        b"a b",
        b"a.example/",
        b"a.example\\",
        b"user@a.example",
        b"a%2fb.example",
        b"a.example,b.example",
        b"a.example\r\n",
        b"a.example\n",
        b"\xe4.example",
        b"a?b",
    ],
)
def test_what_is_no_host_or_has_two_readings(host: bytes) -> None:
    """A backend that decodes or splits it would see another host than we did."""
    assert not is_authority(host)


@given(target=st.text(alphabet="htps:/\\@?#%[]*.a1 ", max_size=30))
@example(target="http://a@b/")
@example(target="http://a/?http://b/")
def test_any_target_has_the_host_that_others_read_in_it(target: str) -> None:
    """Or is refused; what is passed on begins with a slash, so that it never adds to a host."""
    try:
        form, authority = origin_form(b"GET", target.encode())
    except BadRequest:
        return
    assert form.startswith(b"/")
    if authority is not None:
        assert urlsplit(target).netloc.encode() == authority
        assert b"@" not in authority


@pytest.mark.parametrize(
    ("is_https", "one", "other", "expected"),
    [
        (False, b"a", b"A", True),
        (False, b"a:80", b"a", True),
        (False, b"a", b"A:80", True),
        (False, b"a:", b"a:80", True),
        (True, b"a:443", b"a", True),
        (True, b"[::1]:443", b"[::1]", True),
        (False, b"a:443", b"a", False),
        (True, b"a:80", b"a", False),
        (False, b"a:80", b"a:443", False),
        (False, b"a", b"b", False),
        (False, b"a80", b"a", False),
        (False, b"a::80", b"a", False),
        (False, b"[::80]", b"[:", False),
        (False, b"a.", b"a", False),
    ],
)
def test_the_port_of_a_scheme_may_be_left_out(
    is_https: bool, one: bytes, other: bytes, expected: bool
) -> None:
    """RFC 9110 §4.2.3: and nothing else may differ but case."""
    assert is_same_authority(is_https, one, other) is expected
    assert is_same_authority(is_https, other, one) is expected
