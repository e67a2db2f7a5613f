"""TLS in front: what clients see, who is let in, and certificates that are replaced while serving."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Client,
    Exchange,
    Truncated,
    handlers,
    run,
    seconds,
    streams,
    wait_until,
)

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()


def store(folder: Path, certificate: trustme.LeafCert) -> None:
    """Put certificate and key in the place of those that are there, each in one step."""
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    for name, data in (("crt", chain), ("key", certificate.private_key_pem.bytes())):
        (folder / "new").write_bytes(data)
        os.replace(folder / "new", folder / name)


def settings(folder: Path, **more: str) -> dict[str, str]:
    """The ``tls`` of config.json for the files in ``folder``."""
    return {"certificate": str(folder / "crt"), "key": str(folder / "key"), **more}


PARKED_AFTER = 1.0
"""Seconds after which the worker parks an idle connection: PARK_SECONDS of app.worker.client.contract."""


def trusting() -> ssl.SSLContext:
    """A client's context that knows our authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


class TlsClient(Client):
    """The client over TLS; an end without close_notify is an error."""

    def __init__(self, balancer: Balancer, context: ssl.SSLContext | None = None) -> None:
        super().__init__(balancer.address)
        plain = self.socket
        try:
            self.socket = (context or trusting()).wrap_socket(
                plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise

    @property
    def tls(self) -> ssl.SSLSocket:
        """The socket as what it is."""
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket

    def serial(self) -> str:
        """Which certificate the balancer showed."""
        certificate = self.tls.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    store(folder, AUTHORITY.issue_cert("127.0.0.1"))
    (folder / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    return folder


@pytest.fixture(
    name="secure", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module"
)
def _secure(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Balancer, Backend]]:
    with (
        Backend() as backend,
        Balancer([backend], command=request.param, tls=settings(folder)) as balancer,
    ):
        yield balancer, backend


def test_requests_over_tls(secure: tuple[Balancer, Backend]) -> None:
    """A connection is kept for several requests, and the backend is told that the client spoke https."""
    balancer, backend = secure
    backend.handler = handlers.ok
    backend.clear()
    with TlsClient(balancer) as client:
        assert client.tls.version() == "TLSv1.3"
        for _ in range(3):
            assert client.get("/secure").status == 200
    assert {request.get("X-Forwarded-Proto") for request in backend.requests} == {"https"}


def test_an_idle_connection_is_kept_and_then_closed(folder: Path) -> None:
    """One that has been put aside is served again; at the end of its time it is told so (close_notify)."""
    timeouts = {"keepalive": 2 * PARKED_AFTER}
    with (
        Backend() as backend,
        Balancer([backend], tls=settings(folder), timeouts=timeouts) as balancer,
        TlsClient(balancer) as client,
    ):
        assert client.get("/").status == 200
        time.sleep(1.3 * PARKED_AFTER)  # nothing can be seen of its being put aside
        assert client.get("/again").status == 200
        assert client.tls.recv(1) == b""  # a bare FIN would raise


def test_large_bodies_over_tls(secure: tuple[Balancer, Backend]) -> None:
    """Bodies of many records arrive whole, both ways."""
    balancer, backend = secure
    size = 5 * streams.MIB + 1
    with TlsClient(balancer) as client:
        backend.handler = handlers.echo
        body = b"".join(streams.blocks(size))
        assert client.request("POST", "/up", body=body).text == streams.checksum(size)
        backend.handler = handlers.stream_chunked(size)
        digest = hashlib.sha256()
        client.send_head("GET", "/down")
        client.read_response(sink=digest.update)
        assert digest.hexdigest() == streams.checksum(size)


def test_an_end_and_a_cut_differ(folder: Path) -> None:
    """A body ended by the connection's end has a close_notify behind it; one that was cut has not."""

    def cut(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        exchange.close()

    with (
        Backend(handlers.stream_until_close(300_000)) as backend,
        Balancer([backend], tls=settings(folder)) as balancer,
    ):
        with TlsClient(balancer) as client:
            client.send_head("GET", "/whole", version="HTTP/1.0")
            assert len(client.read_response().body) == 300_000
        backend.handler = cut
        with TlsClient(balancer) as client:
            client.send_head("GET", "/cut", version="HTTP/1.0")
            with pytest.raises(OSError, match=r"EOF|reset"):
                client.read_response()


def test_a_cut_that_its_length_shows_is_told_apart_from_an_attack(
    secure: tuple[Balancer, Backend],
) -> None:
    """All that has come, then close_notify: who cut it is us, and that it was cut the length says."""
    balancer, backend = secure
    backend.handler = handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    with TlsClient(balancer) as client:
        client.send_head("GET", "/short")
        with pytest.raises(Truncated):  # an end without close_notify would be an OSError
            client.read_response()


def test_a_tunnel_over_tls(secure: tuple[Balancer, Backend]) -> None:
    """Bytes move both ways; the backend's end comes as close_notify."""
    balancer, backend = secure

    def echo(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        exchange.send(exchange.connection.socket.recv(100))
        exchange.close()

    backend.handler = echo
    with TlsClient(balancer) as client:
        client.send_head("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket")])
        assert client.read_head().status == 101
        client.send(b"x" * 50)
        assert client.socket.recv(100) == b"x" * 50
        assert client.socket.recv(1) == b"", "an end without close_notify raises"
    assert balancer.access_line(target="/ws")["reason"] == "backend_closed"


def ask(balancer: Balancer, context: ssl.SSLContext) -> None:
    """One request; in TLS 1.3 a client learns only with the answer that it is not let in."""
    with TlsClient(balancer, context) as client:
        client.get("/refused")


def test_old_versions_and_strangers_are_refused(folder: Path) -> None:
    """``minimum_version`` and ``client_ca`` decide who is let in."""
    tls = settings(folder, minimum_version="1.3", client_ca=str(folder / "ca"))
    with Backend() as backend, Balancer([backend], tls=tls) as balancer:
        known = trusting()
        AUTHORITY.issue_cert("client.example").configure_cert(known)
        with TlsClient(balancer, known) as client:
            assert client.get("/known").status == 200
        old = trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        AUTHORITY.issue_cert("client.example").configure_cert(old)
        stranger = trusting()
        STRANGER.issue_cert("client.example").configure_cert(stranger)
        for context in (old, stranger, trusting()):
            with pytest.raises(OSError, match=r"alert|reset|EOF|[Bb]roken"):
                ask(balancer, context)
        assert [request.target for request in backend.requests] == ["/known"]


def test_a_handshake_takes_no_longer_than_the_client_timeout(folder: Path) -> None:
    """Who connects and says nothing, or drips, is cut off; meanwhile others are served."""
    with (
        Backend() as backend,
        Balancer([backend], tls=settings(folder), timeouts={"client": seconds(1)}) as balancer,
        balancer.connect() as silent,
        balancer.connect() as slow,
    ):
        slow.send(b"\x16\x03\x01\x02\x00\x01")
        with TlsClient(balancer) as client:
            assert client.get("/meanwhile").status == 200
        assert silent.is_closed(seconds(3))
        assert slow.is_closed(seconds(3))


@pytest.mark.parametrize("http2", [False, True])
def test_who_shakes_hands_when_a_worker_goes_is_served(folder: Path, http2: bool) -> None:
    """A handshake that has begun is waited for, as a request is; who has said nothing is not."""
    with (
        Backend() as backend,
        Balancer([backend], tls={**settings(folder), "http2": http2}) as balancer,
        balancer.connect(),
        balancer.connect() as slow,
    ):
        context, incoming, outgoing = trusting(), ssl.MemoryBIO(), ssl.MemoryBIO()
        context.set_alpn_protocols(["h2", "http/1.1"])
        hello = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            hello.do_handshake()
        said = outgoing.read()
        slow.send(said[:20])
        time.sleep(0.3)
        balancer.signal(signal.SIGTERM)
        time.sleep(2.5)  # more than what idle clients have
        slow.send(said[20:])
        while True:
            reply = slow.read_some()
            assert reply, "cut in its handshake"
            incoming.write(reply)
            try:
                hello.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        if http2:
            protocol = h2.connection.H2Connection()
            protocol.initiate_connection()
            asked = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "a")]
            protocol.send_headers(1, asked, end_stream=True)
            hello.write(protocol.data_to_send())
        else:
            hello.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.send(outgoing.read())
        assert backend.wait_for_request().target == "/"
        assert balancer.wait_for_exit() == 0
        assert balancer.access_line(target="/")["status"] == 200


def test_replaced_certificates_are_used_without_a_reload(tmp_path: Path) -> None:
    """New connections see the new certificate, old ones go on; a bad new one is refused, said once."""
    store(tmp_path, AUTHORITY.issue_cert("127.0.0.1"))
    with Backend() as backend, Balancer([backend], tls=settings(tmp_path)) as balancer:
        workers = balancer.worker_pids()
        with TlsClient(balancer) as old:
            assert old.get("/before").status == 200
            store(tmp_path, AUTHORITY.issue_cert("127.0.0.1"))

            def serial() -> str:
                with TlsClient(balancer) as client:
                    assert client.get("/").status == 200
                    return client.serial()

            wait_until(lambda: serial() != old.serial(), PATIENT, "the new certificate", poll=0.1)
            assert old.get("/after").status == 200
            new = serial()
            (tmp_path / "key").write_bytes(b"no key at all")
            lines = balancer.log.wait_for(1, "tls", level="error")
            assert "holds no private key" in lines[0]["problems"][0]
            assert serial() == new
            store(tmp_path, AUTHORITY.issue_cert("127.0.0.1"))
            wait_until(lambda: serial() != new, PATIENT, "the third certificate", poll=0.1)
            assert old.get("/still").status == 200
        assert len(balancer.log.select("tls", level="error")) == 1
        assert balancer.worker_pids() == workers


def test_bad_files_end_a_start_and_leave_a_reload(tmp_path: Path, folder: Path) -> None:
    """At start: status 78 and the problem by its path; at a reload the last good configuration stays."""
    config = tmp_path / "config.json"
    config.write_text('{"tls": {"certificate": "/none.crt", "key": "/none.key"}}', encoding="utf-8")
    port = str(_free())
    for command in (GUNICORN, ("load_balancer.py", "check")):
        ended = run(command, config, LB_PORT=port)
        assert ended.returncode == 78
        assert "tls.certificate: /none.crt: there is no such file" in ended.stdout + ended.stderr
    with Backend() as backend, Balancer([backend], tls=settings(folder)) as balancer:
        balancer.config["tls"]["key"] = "/none.key"
        balancer.write_config()
        balancer.signal(signal.SIGHUP)
        balancer.log.wait_for(
            1, "config", message="configuration not changed, the last good one stays"
        )
        balancer.wait_for_workers()
        with TlsClient(balancer) as client:
            assert client.get("/").status == 200


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_connection_that_still_shakes_hands_is_served_by_a_worker_that_goes(folder: Path) -> None:
    """It was accepted: nobody else can serve it, and a client that has sent nothing does not try again."""
    with Backend() as backend, Balancer([backend], tls=settings(folder)) as balancer:
        with socket.create_connection(balancer.address, PATIENT) as plain:
            # Accepted behind it: by then the first one is the worker's.
            with TlsClient(balancer) as other:
                assert other.get("/").status == 200
            balancer.signal(signal.SIGTERM)
            time.sleep(0.5)
            with trusting().wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert balancer.wait_for_exit() == 0
