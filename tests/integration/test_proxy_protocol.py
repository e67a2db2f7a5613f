"""PROXY protocol in front: who is believed, what becomes of the address, and what ends a connection."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from harness import (
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Response,
    handlers,
    seconds,
    wait_until,
)

PROXY, STRANGER = "127.0.0.8", "127.0.0.9"
ADDRESSES = socket.inet_pton(socket.AF_INET, "192.0.2.77") + bytes(4) + b"\xdc\x04\x01\xbb"
V1 = b"PROXY TCP4 192.0.2.77 198.51.100.2 56324 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + ADDRESSES
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
GET = b"GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(name="proxied", scope="module")
def _proxied() -> Iterator[tuple[Balancer, Backend]]:
    with (
        Backend(handlers.ok) as backend,
        Balancer(
            [backend],
            proxy_protocol=[PROXY],
            timeouts={"head": seconds(0.5)},
            limits={"connections_per_client": 3},
        ) as balancer,
    ):
        yield balancer, backend


def ask(balancer: Balancer, data: bytes, source: str = PROXY) -> Response:
    """What the bytes get, sent from an address."""
    with Client(balancer.address, source=source) as client:
        client.send(data)
        return client.read_response()


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_client_is_the_one_in_the_header(
    proxied: tuple[Balancer, Backend], header: bytes
) -> None:
    """In X-Forwarded-For and in the log; for every request of the connection."""
    balancer, backend = proxied
    backend.clear()
    mark = balancer.log_mark
    with Client(balancer.address, source=PROXY) as client:
        client.send(header + GET)
        assert client.read_response().status == 200
        client.send(GET)
        assert client.read_response().status == 200
    assert [r.get("X-Forwarded-For") for r in backend.requests] == ["192.0.2.77"] * 2
    lines = balancer.wait_for_access(2, since=mark, target="/proxied")
    assert [line["client_ip"] for line in lines] == ["192.0.2.77"] * 2


def test_a_header_in_small_pieces(proxied: tuple[Balancer, Backend]) -> None:
    """A byte at a time, the request behind it in the same segment as its last."""
    balancer, backend = proxied
    backend.clear()
    with Client(balancer.address, source=PROXY) as client:
        for at in range(len(V2) - 1):
            client.send(V2[at : at + 1])
        client.send(V2[-1:] + GET)
        assert client.read_response().status == 200
    assert backend.requests[0].get("X-Forwarded-For") == "192.0.2.77"


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["v2", "v1"])
def test_a_proxy_that_speaks_for_itself(proxied: tuple[Balancer, Backend], header: bytes) -> None:
    """LOCAL and UNKNOWN: the client is whoever connected."""
    balancer, backend = proxied
    backend.clear()
    assert ask(balancer, header + GET).status == 200
    assert backend.requests[0].get("X-Forwarded-For") == PROXY


@pytest.mark.parametrize(
    "data",
    [
        GET,
        b"PROXY TCP4 999.0.2.77 198.51.100.2 56324 443\r\n" + GET,
        V2[:12] + b"\x31" + V2[13:] + GET,
    ],
    ids=["missing", "v1", "v2"],
)
def test_a_bad_header_ends_the_connection(proxied: tuple[Balancer, Backend], data: bytes) -> None:
    """Closed without an answer, said in the log, nothing forwarded."""
    balancer, backend = proxied
    backend.clear()
    mark = balancer.log_mark
    with Client(balancer.address, source=PROXY) as client:
        client.send(data)
        assert client.is_closed()
    (line,) = balancer.log.wait_for(1, "proxy_protocol", since=mark)
    assert (line["level"], line["peer"], line["reason"]) == ("warning", PROXY, "bad_proxy_header")
    assert not backend.requests


def test_a_header_that_does_not_come(proxied: tuple[Balancer, Backend]) -> None:
    """The time for the head covers it: a byte now and then does not hold the connection."""
    balancer, _ = proxied
    started = time.monotonic()
    with Client(balancer.address, source=PROXY) as client:
        try:
            for byte in V1:
                client.send(bytes((byte,)))
                time.sleep(0.1)
        except OSError:
            pass
        else:
            pytest.fail("the connection was held")
    assert time.monotonic() - started < seconds(2.5)


def test_checks_that_only_connect_are_not_logged(proxied: tuple[Balancer, Backend]) -> None:
    """A connection that ends without a word is no fault."""
    balancer, _ = proxied
    mark = balancer.log_mark
    for _ in range(3):
        Client(balancer.address, source=PROXY).close()
    with Client(balancer.address, source=PROXY) as client:
        client.send(b"x")
        assert client.is_closed()
    assert len(balancer.log.wait_for(1, "proxy_protocol", since=mark)) == 1


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_stranger_is_never_believed(proxied: tuple[Balancer, Backend], header: bytes) -> None:
    """From another address it is a malformed request; without a header it is served as ever."""
    balancer, backend = proxied
    backend.clear()
    assert ask(balancer, header + GET, STRANGER).status == 400
    assert ask(balancer, GET, STRANGER).status == 200
    assert [r.get("X-Forwarded-For") for r in backend.requests] == [STRANGER]


def test_limits_count_the_client_in_the_header(proxied: tuple[Balancer, Backend]) -> None:
    """Three connections of one client behind the proxy; other clients of it are not affected."""
    balancer, _ = proxied
    held = [Client(balancer.address, source=PROXY) for _ in range(3)]
    try:
        for client in held:
            client.send(V1 + GET)
            assert client.read_response().status == 200
        assert ask(balancer, V1 + GET).status == 429
        assert ask(balancer, V1.replace(b".77", b".78") + GET).status == 200
    finally:
        for client in held:
            client.close()
    wait_until(lambda: ask(balancer, V1 + GET).status == 200)


def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    """The handshake follows it, in the same segment or later; the access line has the client."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    tls = {"certificate": str(tmp_path / "crt"), "key": str(tmp_path / "key")}
    with (
        Backend(handlers.ok) as backend,
        Balancer([backend], tls=tls, proxy_protocol=[PROXY]) as balancer,
    ):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            secure.do_handshake()
        with Client(balancer.address, source=PROXY) as client:
            client.send(V2 + outgoing.read())
            while True:
                incoming.write(client.socket.recv(65536))
                try:
                    secure.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                break
            secure.write(GET)
            client.send(outgoing.read())
            line = balancer.access_line(target="/proxied")
        assert (line["client_ip"], line["status"]) == ("192.0.2.77", 200)
        assert backend.requests[0].get("X-Forwarded-Proto") == "https"


def test_what_is_sent_on_is_what_was_received() -> None:
    """Towards a backend that wants the header: both ends with their ports, as the proxy in front saw them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            Balancer([url], proxy_protocol=[PROXY], send_proxy="v1") as balancer,
            Client(balancer.address, source=PROXY) as client,
        ):
            client.send(V1 + GET)
            backend, _ = listener.accept()
            with backend:
                assert backend.recv(65536).startswith(V1)
                backend.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert client.read_response().status == 204


def test_a_header_that_is_awaited_is_taken_by_a_worker_that_goes() -> None:
    """Its connection was accepted: it counts, and has the time that idle clients have."""
    with (
        Backend(handlers.ok) as backend,
        Balancer([backend], proxy_protocol=[PROXY]) as balancer,
        Client(balancer.address, source=PROXY) as client,
    ):
        assert ask(balancer, V1 + GET).status == 200  # by then the one before is the worker's
        balancer.signal(signal.SIGTERM)
        time.sleep(0.5)
        client.send(V1 + GET)
        response = client.read_response()
        assert (response.status, response.get("Connection")) == (200, "close")
        assert balancer.wait_for_exit() == 0


def test_under_the_stock_worker() -> None:
    """gunicorn reads the header then; a stranger's is refused."""
    with (
        Backend(handlers.ok) as backend,
        Balancer([backend], command=STOCK_WORKER, proxy_protocol=[PROXY]) as balancer,
    ):
        assert ask(balancer, V1 + GET).status == 200
        assert ask(balancer, V2 + GET).status == 200
        assert ask(balancer, V1 + GET, STRANGER).status in (400, 403)
        assert [r.get("X-Forwarded-For") for r in backend.requests] == ["192.0.2.77"] * 2
