"""The cookie of sticky sessions: what it says, how it is taken out of a request, how it is set."""

from __future__ import annotations

import pytest
from fakes.pool_bench import STICKY, PoolBench

from app.config import Sticky
from app.wire.request import RequestHead, read_head
from app.worker.balance.sticky import StickyCookie, whole_cookies, without_cookie

URL = "http://10.0.0.3:8000"


def sticky(secret: str = "0123456789abcdef", path: str = "/", max_age: int = 0) -> StickyCookie:
    return StickyCookie(Sticky("lb", secret, None, path, max_age))


def head(*lines: str) -> RequestHead:
    made = read_head("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1"))
    assert made is not None
    return made


def forwarded(of: RequestHead) -> bytes:
    return b"".join(of.lines)


def test_value_is_the_same_for_everybody_with_the_secret() -> None:
    """HMAC-SHA256 of the URL, 128 bits in hex: fixed here, since other machines and versions rely on it."""
    # printf http://10.0.0.3:8000 | openssl dgst -sha256 -hmac 0123456789abcdef
    assert sticky().value_of(URL) == b"986496d5ae5c94ace71bc1a3bf0b0235"


def test_value_depends_on_server_and_secret() -> None:
    """Nothing else would be an HMAC."""
    values = {
        sticky().value_of(URL),
        sticky().value_of("http://10.0.0.3:8001"),
        sticky(secret="another secret of enough length").value_of(URL),
    }
    assert len(values) == 3


def test_value_names_no_address() -> None:
    """Not even encoded: what is not keyed could be found by trying all addresses."""
    value = sticky().value_of(URL)
    assert len(value) == 32
    assert set(value) <= set(b"0123456789abcdef")


def test_secret_is_not_shown() -> None:
    """A repr ends up in logs."""
    assert "0123456789abcdef" not in repr(sticky())


@pytest.mark.parametrize(
    ("lines", "value", "kept"),
    [
        ((), None, ()),
        (("Cookie: a=1; b=2",), None, ("Cookie: a=1; b=2",)),
        (("Cookie: lb=xyz",), b"xyz", ()),
        (("Cookie: a=1; lb=xyz; b=2",), b"xyz", ("Cookie: a=1; b=2",)),
        (("cookie: lb=xyz;a=1",), b"xyz", ("cookie: a=1",)),
        # The first counts, none is passed on.
        (("Cookie: lb=1; a=lb; lb=2", "Cookie: lb=3"), b"1", ("Cookie: a=lb",)),
        (("Cookie: alb=1; lbx=2",), None, ("Cookie: alb=1; lbx=2",)),
        (("Cookie: lb=x", "X-Lb: lb=x"), b"x", ("X-Lb: lb=x",)),
    ],
)
def test_cookie_is_taken(
    lines: tuple[str, ...], value: bytes | None, kept: tuple[str, ...]
) -> None:
    """Its value is known, the server never sees it, and all others stay as they came."""
    request = head(*lines)
    assert sticky().take(request) == value
    assert forwarded(request) == "".join(f"{line}\r\n" for line in ("Host: a", *kept)).encode()


def test_other_fields_are_not_touched() -> None:
    """A Cookie field without ours stays to the byte."""
    lines = [b"Cookie", b": ", b"a=1;b=2 ;c", b"\r\n"]
    assert without_cookie(lines, whole_cookies(b"lb")) == lines


@pytest.mark.parametrize(
    ("path", "target", "is_covered"),
    [
        ("/", "/", True),
        ("/", "/a?b", True),
        ("/", "*", True),
        ("/shop", "/shop", True),
        ("/shop", "/shop?id=/1", True),
        ("/shop", "/shop/cart", True),
        ("/shop", "/shopping", False),
        ("/shop", "/", False),
        ("/shop", "/img?/shop/", False),
        ("/shop/", "/shop/cart", True),
        ("/shop/", "/shop", False),
    ],
)
def test_it_is_set_only_where_clients_send_it(path: str, target: str, is_covered: bool) -> None:
    """Else every picture outside of the path would move the client to another server."""
    assert sticky(path=path).covers(target.encode()) is is_covered


def test_fields_that_set_it() -> None:
    """A cookie of the session, out of reach for scripts, not sent along from other sites' forms."""
    assert b"".join(sticky().lines(b"v", is_secure=False)) == (
        b"Set-Cookie: lb=v; Path=/; HttpOnly; SameSite=Lax\r\nCache-Control: private\r\n"
    )


def test_fields_that_set_it_under_https() -> None:
    """Never sent in the clear then; lifetime and path as configured."""
    lines = sticky(path="/shop", max_age=3600).lines(b"v", is_secure=True)
    assert lines[2] == b"lb=v; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"


def test_cookies_differ_and_do_not_depend_on_the_order_of_servers() -> None:
    """Another machine may list them otherwise."""
    one, other = PoolBench(1, 2, 3, sticky=STICKY), PoolBench(3, 1, sticky=STICKY)
    assert len({backend.cookie for backend in one.pool.backends}) == 3
    assert one.backend(3).cookie == other.backend(3).cookie
