"""Forwarded, one element: read from the right end, whatever stands left of it, and written."""

from __future__ import annotations

import pytest

from app.wire.forwarded_syntax import Element, last, latest, node, written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"for=192.0.2.1", Element("192.0.2.1", None, None)),
        (b"for=192.0.2.1;proto=https;host=a.example;by=_x", Element("192.0.2.1", b"https", b"a.example")),
        (b'For="[2001:DB8::1]:4711"', Element("2001:db8::1", None, None)),
        (b'for="192.0.2.1:80";host="a.example:8443"', Element("192.0.2.1", None, b"a.example:8443")),
        (b'for="192.0.2.1:_p0rt"', Element("192.0.2.1", None, None)),
        (b" for=192.0.2.1 ; proto=http ;", Element("192.0.2.1", b"http", None)),
        (b'host="a\\"b"', Element(None, None, b'a"b')),
    ],
)  # fmt: skip
def test_what_one_proxy_said(value: bytes, expected: Element) -> None:
    assert last(value) == (expected, b"")


@pytest.mark.parametrize(
    "value",
    [b"for=unknown", b"for=_hidden", b"for=1.2.3", b"for=999.0.0.1", b'for="[::g]"', b"for=2001:db8::1",
     b'for="192.0.2.1:123456"', b"proto=http"],
)  # fmt: skip
def test_who_hides_or_is_no_address_is_nobody(value: bytes) -> None:
    """The element is there all the same: what stands left of it is not believed in its place."""
    found = last(b"for=10.0.0.9, " + value)
    assert found is None or found[0].address is None


def test_a_scheme_that_is_none_is_not_said() -> None:
    found = last(b'for=192.0.2.1;proto="https://evil"')
    assert found == (Element("192.0.2.1", None, None), b"")


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (b"for=10.0.0.1, for=192.0.2.1", b"for=10.0.0.1"),
        (b"for=10.0.0.1,for=192.0.2.1", b"for=10.0.0.1"),
        (b'for="10.0.0.1, for=192.0.2.1', b'for="10.0.0.1'),
        (b'"\\, ;;=, for=192.0.2.1', b'"\\, ;;='),
        (b"\xff\x00, for=192.0.2.1", b"\xff\x00"),
    ],
)
def test_nothing_to_the_left_changes_how_the_last_one_is_read(value: bytes, rest: bytes) -> None:
    """A client can put anything there, an open quote too."""
    assert last(value) == (Element("192.0.2.1", None, None), rest)


def test_a_comma_in_quotes_separates_nothing() -> None:
    found = last(b'for=10.0.0.1, for=192.0.2.1;host="a, for=10.0.0.2"')
    assert found == (Element("192.0.2.1", None, b"a, for=10.0.0.2"), b"for=10.0.0.1")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b",",
        b"192.0.2.1",
        b"for=192.0.2.1,",
        b"for=192.0.2.1 proto=http",
        b"for = 192.0.2.1",
        b'for="192.0.2.1',
        b"for=192.0.2.1;for=10.0.0.1",
        b"for=192.0.2.1;FOR=192.0.2.1",
        b"for=[2001:db8::1]",
    ],
)
def test_what_is_no_element_or_says_a_thing_twice_is_not_read(value: bytes) -> None:
    """Two readers would find two clients."""
    assert last(value) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", b"192.0.2.1"),
        ("2001:db8::1", b'"[2001:db8::1]"'),
        ("fe80::1%eth0", b'"[fe80::1]"'),
        ("unix", b"unknown"),
        ("", b"unknown"),
    ],
)
def test_an_address_as_it_is_written(address: str, expected: bytes) -> None:
    """The zone of an address means nothing elsewhere; who has none is said to be unknown."""
    assert node(address) == expected


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("host", [b"a.example", b"a.example:8443", b"[::1]:80", b""])
def test_what_is_written_is_read(address: str, host: bytes) -> None:
    value = written(address, "https", host, b"x")
    assert last(b"anything, " + value) == (Element(address, b"https", host or None), b"anything")
    assert value.endswith(b";by=_x")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"for=1.1.1.1, for=2.2.2.2", b"for=1.1.1.1, for=2.2.2.2"),
        (b'"', b'"'),
        (b"for=1.1.1.1, for=2.2.2.2, for=3.3.3.3", b"for=2.2.2.2, for=3.3.3.3"),
        (b'for=1.1.1.1;host="a,b,c,d", for=3.3.3.3', b'for=1.1.1.1;host="a,b,c,d", for=3.3.3.3'),
        (b'for=1.1.1.1, for=2.2.2.2;host="a,b", for=3.3.3.3', b'for=2.2.2.2;host="a,b", for=3.3.3.3'),
        (b'x, ", for=2.2.2.2', b"for=2.2.2.2"),
        (b",,,", b""),
    ],
)  # fmt: skip
def test_the_latest_two_elements(value: bytes, kept: bytes) -> None:
    """Never a part of one, whatever is quoted; and nothing from where no element stands."""
    assert latest(value, 2) == kept


def test_commas_in_an_element_have_a_bound() -> None:
    """A field of nothing else is not matched at each of them; we write no such host ourselves."""
    assert last(b'for=1.1.1.1;host="%b"' % (b"," * 300)) is None
    assert written("1.1.1.1", "http", b"," * 300, b"x") == b"for=1.1.1.1;proto=http;by=_x"


def test_an_element_that_nobody_writes_is_not_read_however_it_is_quoted() -> None:
    """Escapes cost the most: 32 KB of them, over several fields, took 16 ms each time."""
    long = b'for="' + b"\\a" * 16_000 + b'"'
    assert last(long) is None
    assert last(b"for=192.0.2.1;ext=" + b"a" * 500) is not None
    assert latest(long + b", for=192.0.2.1" * 40, 32) == b", ".join([b"for=192.0.2.1"] * 32)


def test_a_host_that_would_make_our_element_unreadable_is_left_out_of_it() -> None:
    for size in (10, 500, 513, 8000):
        element = written("192.0.2.1", "http", b"h" * size, b"us")
        found = last(element)
        assert found is not None
        assert found[0].host == (b"h" * size if size <= 512 else None)
