"""Whom to believe about the client, and what a backend is told."""

from __future__ import annotations

import ipaddress
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire import forwarded_syntax
from app.wire.forwarded import (
    Trust,
    client_address,
    connection_lines,
    is_https,
    lines_writer,
    trust_in,
    trusted_request_id,
)
from app.wire.request import RequestHead, read_head

NETWORKS = ("10.0.0.0/8", "2001:db8::/32")
PROXIES = trust_in(NETWORKS)


def trust(mode: str) -> Trust:
    return Trust(NETWORKS, mode)


MODES = ("x-forwarded", "forwarded", "both")


def trusted_lines(request: RequestHead, peer: str, scheme: str, mode: str = "x-forwarded") -> bytes:
    """What is said of a request that a trusted proxy sent."""
    return lines_writer(trust(mode))(request, peer, scheme, True)


def head(*lines: bytes) -> RequestHead:
    """A request with these fields."""
    data = b"\r\n".join((b"GET / HTTP/1.1", b"Host: a.example", *lines, b"", b""))
    found = read_head(data)
    assert found is not None
    return found


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::7", "::ffff:10.1.2.3"])
def test_members_of_the_networks_are_trusted(address: str) -> None:
    """Also an IPv4 address that came in IPv6's clothes."""
    assert PROXIES(address)


@pytest.mark.parametrize(
    "address", ["11.0.0.1", "2001:db9::7", "::ffff:11.0.0.1", "", "unix", "10.1.2.3.4"]
)
def test_others_are_not(address: str) -> None:
    """What is no address is nobody."""
    assert not PROXIES(address)


def test_nobody_is_trusted_by_default() -> None:
    """Without trusted_proxies every claim is dropped."""
    assert not trust_in(())("127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded_for", "expected"),
    [
        (None, "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b"203.0.113.9", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (b"198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
        (b"203.0.113.9:4711", "203.0.113.9"),
        (b"[2001:db9::7]:4711,10.0.0.2", "2001:db9::7"),
        (b"[2001:db9::7", "2001:db9::7"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (b",,", "10.0.0.1"),
        (b"203.0.113.9 , <script>", "10.0.0.1"),
    ],
)
def test_the_client_is_found_from_the_right(forwarded_for: bytes | None, expected: str) -> None:
    """The first address that is not a trusted proxy's; what stands left of it counts for nothing."""
    assert client_address(forwarded_for, "10.0.0.1", PROXIES) == expected


def test_an_untrusted_peer_is_the_client() -> None:
    """Whatever it says."""
    assert client_address(b"203.0.113.9", "192.0.2.1", PROXIES) == "192.0.2.1"


@settings(derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_address(forwarded_for: bytes) -> None:
    """What goes into the log is an address, never the client's text."""
    address = client_address(forwarded_for, "10.0.0.1", PROXIES)
    ipaddress.ip_address(address)


def test_no_more_proxies_are_looked_up_than_anybody_has() -> None:
    """Each of 3,000 in a head took 20 µs. With that many trusted in a row nothing is believed."""
    asked: list[str] = []

    def is_trusted(address: str) -> bool:
        asked.append(address)
        return True

    chain = b",".join([b"203.0.113.9", *[b"10.0.0.2"] * 3000])
    assert client_address(chain, "10.0.0.1", is_trusted) == "10.0.0.1"
    assert len(asked) <= 65
    assert client_address(b"203.0.113.9" + b",10.0.0.2" * 60, "10.0.0.1", PROXIES) == "203.0.113.9"
    assert client_address(b"1" * 5000, "10.0.0.1", PROXIES) == "10.0.0.1"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [b"X-Forwarded-For: ", b"Forwarded: for="])
def test_no_more_proxies_are_passed_on_than_anybody_has(mode: str, name: bytes) -> None:
    """The latest; not three times a head of 32 KiB because it has 16,000."""
    separator = b", for=" if name.startswith(b"F") else b","
    request = head(*[name + separator.join([b"10.0.0.2"] * 400) + b"" for _ in range(3)])
    lines = trusted_lines(request, "10.0.0.1", "http", mode)
    assert lines.count(b"10.0.0.2") <= 128
    assert lines.count(b"10.0.0.1") == (2 if mode == "both" else 1)
    assert len(lines) < 3000


def test_lines_for_a_stranger() -> None:
    """The address and the scheme we know; the host follows."""
    assert connection_lines("192.0.2.1", "https") == (
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: "
    )


def test_lines_for_a_trusted_proxy() -> None:
    """What it says is passed on, its own address added."""
    request = head(
        b"X-Forwarded-For: 203.0.113.9",
        b"X-Forwarded-For: 198.51.100.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.example",
        b"Forwarded: for=203.0.113.9",
    )
    assert trusted_lines(request, "10.0.0.1", "http") == (
        b"Forwarded: for=203.0.113.9\r\n"
        b"X-Forwarded-For: 203.0.113.9, 198.51.100.1, 10.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example\r\n"
    )


def test_lines_for_a_trusted_proxy_that_says_nothing() -> None:
    """Then it is the client."""
    assert trusted_lines(head(), "10.0.0.1", "http") == (
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n"
    )


def test_other_claims_of_a_trusted_proxy() -> None:
    """X-Forwarded-Port and its like are passed on from it, and from nobody else."""
    request = head(b"X-Forwarded-Port: 8443", b"X-A: 1", b"X-Real-IP: 203.0.113.9")
    assert b"Forwarded-Port" not in b"".join(request.lines)
    assert b"Real-IP" not in b"".join(request.lines)
    assert trusted_lines(request, "10.0.0.1", "http").endswith(
        b"X-Forwarded-Port: 8443\r\nX-Real-IP: 203.0.113.9\r\n"
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_trusted", [False, True])
def test_who_a_client_is_only_a_trusted_proxy_says(mode: str, is_trusted: bool) -> None:
    """In every mode; Connection cannot take it away."""
    request = head(b"Connection: Remote-User", b"Remote-User: ann", b"X-SSL-Client-Verify: SUCCESS")
    assert b"".join(request.lines) == b"Host: a.example\r\n"
    lines = lines_writer(trust(mode))(request, "10.0.0.1", "http", is_trusted)
    claims = b"Remote-User: ann\r\nX-SSL-Client-Verify: SUCCESS\r\n"
    assert (claims in lines) == is_trusted
    assert (b"Remote-User" in lines) == is_trusted


@pytest.mark.parametrize("mode", MODES)
def test_what_a_stranger_claims_is_dropped(mode: str) -> None:
    """In every mode."""
    request = head(b"X-Forwarded-For: 203.0.113.9", b"Forwarded: for=203.0.113.9", b"X-Real-IP: 1")
    lines = lines_writer(trust(mode))(request, "192.0.2.1", "http", False)
    assert b"203.0.113.9" not in lines
    assert b"Real-IP" not in lines
    assert lines.count(b"192.0.2.1") == (2 if mode == "both" else 1)


def test_forwarded_for_a_stranger() -> None:
    """RFC 7239 §4: for, host, proto, by."""
    assert lines_writer(trust("forwarded"))(head(), "192.0.2.1", "https", False) == (
        b"Forwarded: for=192.0.2.1;host=a.example;proto=https;by=_load-balancer\r\n"
    )


def test_both_for_a_stranger() -> None:
    """Both families say the same."""
    assert lines_writer(trust("both"))(head(), "192.0.2.1", "http", False) == (
        b"Forwarded: for=192.0.2.1;host=a.example;proto=http;by=_load-balancer\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n"
    )


def test_a_trusted_chain_is_continued() -> None:
    """Ours comes last; X-Forwarded-* are not mixed in where only Forwarded is asked for."""
    request = head(
        b"Forwarded: for=203.0.113.9", b"Forwarded: for=10.0.0.2", b"X-Forwarded-For: 1.1.1.1"
    )
    assert trusted_lines(request, "10.0.0.1", "http", "forwarded") == (
        b"Forwarded: for=203.0.113.9, for=10.0.0.2, "
        b"for=10.0.0.1;host=a.example;proto=http;by=_load-balancer\r\n"
    )


def test_a_chain_that_cannot_be_read_is_not_continued() -> None:
    """Nobody would read ours behind an open quote."""
    request = head(b'Forwarded: for="203.0.113.9')
    assert trusted_lines(request, "10.0.0.1", "http", "forwarded") == (
        b"Forwarded: for=10.0.0.1;host=a.example;proto=http;by=_load-balancer\r\n"
    )


def test_one_family_is_made_from_the_other() -> None:
    """RFC 7239 §7.4: the proxy in front may speak the one, the servers the other."""
    request = head(b"X-Forwarded-For: 2001:db9::7, bogus", b"X-Forwarded-Proto: https")
    assert trusted_lines(request, "10.0.0.1", "http", "forwarded") == (
        b'Forwarded: for="[2001:db9::7]";proto=https, for=unknown, '
        b"for=10.0.0.1;host=a.example;proto=http;by=_load-balancer\r\n"
    )
    request = head(b'Forwarded: for="[2001:db9::7]:99";proto=https;host="shop.example:8443"')
    assert trusted_lines(request, "10.0.0.1", "http").endswith(
        b"X-Forwarded-For: 2001:db9::7, 10.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example:8443\r\n"
    )


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (b"for=203.0.113.9", "203.0.113.9"),
        (b"FOR=203.0.113.9;proto=http", "203.0.113.9"),
        (b"for=198.51.100.1, for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
        (b'for="[2001:db9::7]:4711"', "2001:db9::7"),
        (b'for="203.0.113.9:4711";host="a,b;c"', "203.0.113.9"),
        (b"for=_hidden, for=10.0.0.2", "10.0.0.2"),
        (b"for=unknown", "10.0.0.1"),
        (b"for=203.0.113.9;for=203.0.113.8", "10.0.0.1"),
        (b'for="x, for=203.0.113.9', "203.0.113.9"),
        (b'for=198.51.100.1;x=", for=203.0.113.9;host=";a=b"', "203.0.113.9"),
        (b"proto=https", "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b", ".join([b"for=10.0.0.2"] * 100), "10.0.0.1"),
    ],
)
def test_the_client_is_found_from_the_right_in_forwarded(forwarded: bytes, expected: str) -> None:
    """As in X-Forwarded-For; an open quote on the left swallows nothing of a trusted proxy's."""
    request = head(b"Forwarded: " + forwarded)
    for mode in MODES:
        assert trust(mode).client_of(request, "10.0.0.1") == expected


def test_which_field_is_believed() -> None:
    """The one that the configuration names; the other may be what a client sent through the proxy."""
    request = head(b"X-Forwarded-For: 203.0.113.8", b"Forwarded: for=203.0.113.9")
    found = [trust(mode).client_of(request, "10.0.0.1") for mode in MODES]
    assert found == ["203.0.113.8", "203.0.113.9", "203.0.113.8"]


@settings(derandomize=True)
@given(st.text(alphabet='for=,;" \\1.[]:', max_size=80))
def test_any_forwarded_gives_an_address(value: str) -> None:
    """What goes into the log is an address."""
    request = head(b"Forwarded: " + value.strip().encode())
    ipaddress.ip_address(trust("forwarded").client_of(request, "10.0.0.1"))


@settings(derandomize=True)
@given(
    st.ip_addresses(),
    st.sampled_from(["a.example", "a.example:80", "[::1]:80", "a;b=c,d", "," * 99]),
)
def test_what_is_written_is_read(address: object, host: str) -> None:
    """Also an IPv6 address, and a host that has to be quoted."""
    written = forwarded_syntax.written(str(address), "https", host.encode(), b"x")
    for before in (b"", b'for="', b"for=1.1.1.1, "):
        element, rest = forwarded_syntax.last(before + b"," + written) or (None, None)
        assert element == (str(address), b"https", host.encode())
        assert rest == before


@pytest.mark.parametrize("tail", [b"; " * 4000, b" ;\t" * 2600, b",a=b" * 2000, b";a=b" * 2000])
def test_a_long_one_is_read_in_a_moment(tail: bytes) -> None:
    """No expression goes back and forth over what a client invents."""
    started = process_time()
    forwarded_syntax.last(b"a=b" + tail + b'"')
    assert process_time() - started < 0.5


@pytest.mark.parametrize("given", [b"abc-123", b"1:2/3+4=5@6.7_8", b"x" * 128])
def test_a_request_id_that_is_fit(given: bytes) -> None:
    """Printable, without quotes or spaces, at most 128 bytes."""
    assert trusted_request_id(head(b"X-Request-Id: " + given)) == given


@pytest.mark.parametrize("given", [b"", b"a b", b'"a"', b"<a>", b"x" * 129, b"caf\xe9", b"a,b"])
def test_a_request_id_that_is_not(given: bytes) -> None:
    """It would go into logs and other services' headers."""
    assert trusted_request_id(head(b"X-Request-Id: " + given)) is None


@pytest.mark.parametrize(
    ("lines", "scheme", "is_trusted", "expected"),
    [
        ((), "http", True, False),
        ((), "https", False, True),
        ((b"X-Forwarded-Proto: https",), "http", True, True),
        ((b"X-Forwarded-Proto: HTTPS, http",), "http", True, True),
        ((b"X-Forwarded-Proto: http",), "https", True, False),
        ((b"X-Forwarded-Proto: https",), "http", False, False),
        ((b"Forwarded: for=192.0.2.1;proto=https",), "http", True, True),
        ((b"Forwarded: for=192.0.2.1;proto=http",), "https", True, False),
        ((b"Forwarded: for=192.0.2.1",), "https", True, True),
        ((b"Forwarded: for=192.0.2.1;proto=https",), "http", False, False),
    ],
)
def test_whether_the_client_speaks_https(
    lines: tuple[bytes, ...], scheme: str, is_trusted: bool, expected: bool
) -> None:
    """Of a trusted proxy's word the first scheme, of a stranger's nothing, and else our own connection."""
    assert is_https(head(*lines), scheme, is_trusted) is expected
