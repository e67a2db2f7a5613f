"""Requests and responses byte for byte: what must pass untouched, what must go, what is added."""

from __future__ import annotations

import re

import pytest
from harness import Backend, Balancer, handlers

TARGETS = [
    "/plain",
    "/%7euser/%7Euser/~user",
    "/a%2Fb%2fc",
    "//double//slash",
    "/a/../b/./c",
    "/a;p=1;q?x;y,z",
    "/?a=%41&b=a+b&c=a%20b",
    "/trailing?",
    "/?",
    "/a?b?c=/d/../e",
    "/%00%0d%0a%25",
    "/%zz%",
    "/caf%C3%A9/%e9",
    '/[]{}|^`"<>\\',
    "/@:80//example.org",
    "/" + "long/" * 800,
]


def sent_headers(backend: Backend, position: int = -1) -> list[tuple[str, str]]:
    """What reached the backend, without what the balancer adds and without Host."""
    added = {
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
        "cdn-loop",
    }
    fields = backend.requests[position].headers
    return [(name, value) for name, value in fields if name.lower() not in added]


def sent_names(backend: Backend) -> set[str]:
    """The names of all header fields that reached the backend last, in lower case."""
    return {name.lower() for name, _ in backend.requests[-1].headers}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:24])
def test_target_byte_for_byte(balancer: Balancer, backend: Backend, target: str) -> None:
    """The target that the client wrote is the target that the backend reads, and that is logged."""
    mark = balancer.log_mark
    assert balancer.get(target).status == 200

    assert backend.requests[-1].target == target
    (line,) = balancer.wait_for_access(1, since=mark)
    assert line["target"] == target or line["target"].endswith("…")


def test_asterisk_target(balancer: Balancer, backend: Backend) -> None:
    """OPTIONS * asks about the server as a whole."""
    with balancer.connect() as client:
        assert client.request("OPTIONS", "*").status == 200
    assert backend.requests[-1].target == "*"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "QUERY"]
)
def test_any_method(balancer: Balancer, backend: Backend, method: str) -> None:
    """Methods are passed on, registered with HTTP or not."""
    with balancer.connect() as client:
        assert client.request(method, "/method").status == 200
    assert backend.requests[-1].method == method


def test_request_headers_keep_order_case_and_repetition(
    balancer: Balancer, backend: Backend
) -> None:
    """Fields arrive as sent: spelling, order, repeated ones apart, values byte for byte."""
    fields = [
        ("x-b", "1"),
        ("X-A", "first"),
        ("aCCEPT", "text/html, */*;q=0.1"),
        ("X-A", "second"),
        ("x-a", "third, with a comma"),
        ("Cookie", "a=1; b=2"),
        ("User-Agent", "raw/1.0 (caf\xe9)"),
        ("X-Empty", ""),
        ("If-None-Match", '"a", W/"b"'),
        ("Authorization", "Basic dTpw"),
        ("x-b", "2"),
    ]
    with balancer.connect() as client:
        assert client.get("/", fields).status == 200

    assert sent_headers(backend) == fields


def test_nothing_is_added_behind_the_clients_back(balancer: Balancer, backend: Backend) -> None:
    """No User-Agent, Accept, Accept-Encoding or Connection of requests' own."""
    assert balancer.get("/").status == 200
    assert sent_headers(backend) == []


def test_response_headers_keep_order_case_and_repetition(
    balancer: Balancer, backend: Backend
) -> None:
    """Fields come back as the backend sent them, Server and Date included."""
    fields = [
        ("x-b", "1"),
        ("SERVER", "scripted/1"),
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("X-A", "first"),
        ("X-a", "second, with a comma"),
        ("WWW-Authenticate", "Basic"),
        ("WWW-Authenticate", 'Digest realm="a, b"'),
        ("X-Latin", "caf\xe9"),
        ("X-Empty", ""),
    ]
    backend.handler = handlers.answer(401, b"no", *fields, phrase="Go Away")
    response = balancer.get("/")

    assert (response.status, response.phrase) == (401, "Go Away")
    kept = [(n, v) for n, v in response.headers if n in {name for name, _ in fields}]
    assert kept == fields


def test_repeated_set_cookie_survives(balancer: Balancer, backend: Backend) -> None:
    """Each Set-Cookie stays a field of its own: its dates hold commas."""
    cookies = [
        "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Path=/",
        "b=2; HttpOnly",
        "a=1; Path=/other",
    ]
    backend.handler = handlers.answer(200, b"", *(("Set-Cookie", cookie) for cookie in cookies))
    assert balancer.get("/").get_all("Set-Cookie") == cookies


def test_cookies_of_one_client_never_reach_another(balancer: Balancer, backend: Backend) -> None:
    """A cookie set for one client is not sent along with anybody's next request."""
    backend.handler = handlers.answer(200, b"", ("Set-Cookie", "session=alice; Path=/"))
    with balancer.connect() as alice, balancer.connect() as bob:
        alice.get("/login")
        bob.get("/")
        alice.get("/", [("Cookie", "mine=1")])
        bob.get("/")

    assert [request.get("Cookie") for request in backend.requests] == [None, None, "mine=1", None]


def test_credentials_of_the_machine_are_not_sent(tmp_path: object) -> None:
    """Neither .netrc nor proxy variables of the balancer's environment change what is sent."""
    home = str(tmp_path)
    with open(f"{home}/.netrc", "w", encoding="utf-8") as file:
        file.write("default login root password secret\n")
    env = {"HOME": home, "NETRC": f"{home}/.netrc"}
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        env[name] = "http://127.0.0.1:9"
    with Backend() as backend, Balancer([backend], env=env) as balancer:
        assert balancer.get("/").status == 200
        assert "authorization" not in sent_names(backend)


def test_hop_by_hop_fields_of_the_request_are_removed(balancer: Balancer, backend: Backend) -> None:
    """Fields about one connection, and those that Connection names, stay on that connection."""
    fields = [
        ("Connection", "keep-alive, X-Private"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("X-Private", "1"),
        ("X-Public", "2"),
        ("connection", "x-also-private"),
        ("X-Also-Private", "3"),
    ]
    with balancer.connect() as client:
        assert client.get("/", fields).status == 200

    assert sent_headers(backend) == [("X-Public", "2")]


def test_connection_cannot_name_what_must_stay(balancer: Balancer, backend: Backend) -> None:
    """A client cannot have Host or the forwarding fields removed by naming them in Connection."""
    fields = [("Connection", "close, Host, X-Forwarded-For, X-Request-Id, Content-Length")]
    with balancer.connect() as client:
        assert client.request("POST", "/", fields, b"abc").status == 200

    request = backend.requests[-1]
    assert request.get("Host") == balancer.connect_host
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    assert request.get("X-Request-Id")
    assert request.length == 3


def test_hop_by_hop_fields_of_the_response_are_removed(
    balancer: Balancer, backend: Backend
) -> None:
    """The backend's Connection, Keep-Alive and what Connection names do not reach the client."""
    backend.handler = handlers.answer(
        200,
        b"body",
        ("Connection", "close, X-Private"),
        ("Keep-Alive", "timeout=5"),
        ("X-Private", "1"),
        ("X-Public", "2"),
    )
    with balancer.connect() as client:
        response = client.get("/")
        names = {name.lower() for name, _ in response.headers}
        assert not names & {"keep-alive", "x-private"}
        assert response.get("X-Public") == "2"
        assert not response.will_close
        assert client.get("/").status == 200


def test_host_is_kept(balancer: Balancer, backend: Backend) -> None:
    """The backend sees the Host that the client asked for, once, port and case included."""
    with balancer.connect() as client:
        client.get("/", [("Host", "Shop.Example:8443")])

    assert backend.requests[-1].get("Host") == "Shop.Example:8443"


def test_forwarding_fields_are_added(balancer: Balancer, backend: Backend) -> None:
    """X-Forwarded-For, -Proto, -Host, X-Request-Id and CDN-Loop tell the backend who asked for what."""
    mark = balancer.log_mark
    with balancer.connect() as client:
        client.get("/forwarded", [("Host", "shop.example")])

    request = backend.requests[-1]
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    assert request.get("X-Forwarded-Proto") == "http"
    assert request.get("X-Forwarded-Host") == "shop.example"
    assert re.fullmatch(r"load-balancer-[0-9a-f]{16}", request.get("CDN-Loop") or "")
    line = balancer.access_line(since=mark, target="/forwarded")
    assert line["request_id"] == request.get("X-Request-Id")
    assert line["client_ip"] == "127.0.0.1"


def test_the_id_of_a_request_is_given_back(balancer: Balancer, backend: Backend) -> None:
    """In the server's answer, where it is ours and no other, and in each of our own."""
    mark = balancer.log_mark
    backend.handler = handlers.raw(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nContent-Length: 0\r\n\r\n"
    )
    with balancer.connect() as client:
        answers = [client.get("/id"), client.request("OPTIONS", "/id", [("Max-Forwards", "0")])]
    with balancer.connect() as client:
        answers.append(client.request("TRACE", "/id"))
    ids = [line["request_id"] for line in balancer.wait_for_access(3, since=mark)]

    assert [answer.status for answer in answers] == [200, 200, 405]
    assert [answer.get_all("X-Request-Id") for answer in answers] == [[one] for one in ids]
    assert answers[0].interim[0].get("X-Request-Id") is None


FORGED = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("x-forwarded-for", "203.0.113.8"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "bank.example"),
    ("X-Request-Id", "forged-id"),
    ("Via", "1.1 forged"),
    ("Remote-User", "forged-user"),
    ("remote_user", "forged-user"),
    ("Remote.User", "forged-user"),
    ("X-SSL-Client-S-DN", "CN=forged-user"),
    ("X-Original-URL", "/forged-path"),
]


def test_forged_forwarding_fields_are_dropped(balancer: Balancer, backend: Backend) -> None:
    """Nothing that an unknown client claims about itself reaches the backend or the log."""
    mark = balancer.log_mark
    with balancer.connect() as client:
        client.get("/forged", FORGED)

    request = backend.requests[-1]
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    assert request.get("X-Forwarded-Proto") == "http"
    assert request.get("X-Forwarded-Host") == request.get("Host")
    for forged in (b"203.0.113.", b"https", b"bank.example", b"1.1 forged", b"forged-"):
        assert forged not in request.head
    line = balancer.access_line(since=mark, target="/forged")
    assert line["client_ip"] == "127.0.0.1"
    assert line["request_id"] != "forged-id"


def test_trusted_proxies_are_believed() -> None:
    """What a trusted proxy says is passed on, and the client is the last address nobody trusts."""
    with Backend() as backend:
        with Balancer([backend], trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"]) as balancer:
            with balancer.connect() as client:
                fields = [
                    ("X-Forwarded-For", "198.51.100.1, 203.0.113.9, 10.1.2.3"),
                    ("X-Forwarded-Proto", "https"),
                    ("X-Forwarded-Host", "shop.example"),
                    ("X-Request-Id", "abc-123"),
                    ("X-SSL-Client-S-DN", "CN=ann"),
                ]
                client.get("/", fields)
            line = balancer.access_line()

        request = backend.requests[-1]
        addresses = [part.strip() for part in (request.get("X-Forwarded-For") or "").split(",")]
        assert addresses == ["198.51.100.1", "203.0.113.9", "10.1.2.3", "127.0.0.1"]
        assert request.get("X-Forwarded-Proto") == "https"
        assert request.get("X-Forwarded-Host") == "shop.example"
        assert request.get("X-SSL-Client-S-DN") == "CN=ann"
        assert request.get("X-Request-Id") == line["request_id"] == "abc-123"
        assert line["client_ip"] == "203.0.113.9"


def test_path_prefix_of_a_server() -> None:
    """A prefix in a server's URL goes before the target, which stays as it was written."""
    with Backend() as backend, Balancer([backend.url + "/base"]) as balancer:
        assert balancer.get("/%7ea//b?q").status == 200
        assert backend.requests[-1].target == "/base/%7ea//b?q"
        assert balancer.access_line()["target"] == "/%7ea//b?q"


REFUSED = {
    "two-lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "both-framings": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "length-in-words": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3x\r\n\r\nabc",
    "signed-length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "chunked-twice": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "hidden-chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "nul": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
    "bare-cr": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-B: c\r\n\r\n",
    "no-target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "no-http": b"hello\r\n\r\n",
    "bad-chunk-size": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_requests_are_refused(balancer: Balancer, backend: Backend, data: bytes) -> None:
    """What two servers could read in two ways gets 4xx or 501 and ends the connection."""
    with balancer.connect() as client:
        client.send(data)
        response = client.read_response()
        assert response.status in (400, 501), response
        assert client.is_closed()
    assert not [request for request in backend.requests if request.is_complete]


def test_header_fields_have_limits(balancer: Balancer, backend: Backend) -> None:
    """A field of 100 KiB or a thousand fields: refused with 4xx, and nothing reaches the backend."""
    big = [("X-Big", "a" * 100_000)]
    many = [(f"X-{number}", "a") for number in range(1000)]
    for fields in (big, many):
        with balancer.connect() as client:
            try:
                client.send_head("GET", "/", fields)
            except OSError:
                pass
            assert client.read_response().status in (400, 431)
    assert not backend.requests


def test_too_long_target(balancer: Balancer, backend: Backend) -> None:
    """A target of 100 KiB is refused with 4xx."""
    with balancer.connect() as client:
        try:
            client.send_head("GET", "/" + "a" * 100_000)
        except OSError:
            pass
        assert client.read_response().status in (400, 414, 431)
    assert not backend.requests
