"""TLS towards backends: who is trusted, under which name, who we are, and sessions that are resumed."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from harness import (
    GUNICORN,
    PATIENT,
    STOCK_WORKER,
    Backend,
    Balancer,
    Exchange,
    Truncated,
    handlers,
    health_check,
    run,
    seconds,
    wait_until,
)
from harness.backend import Connection, PeerGone

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
LEAF = AUTHORITY.issue_cert("127.0.0.1", "app.internal")

Configure = Callable[[ssl.SSLContext], Any]


class SecureBackend(Backend):
    """A scripted backend behind TLS; it notes the names asked for, and which sessions were resumed."""

    def __init__(
        self,
        handler: Callable[[Exchange], None] = handlers.ok,
        leaf: trustme.LeafCert = LEAF,
        configure: Configure = lambda _: None,
    ) -> None:
        self.names: list[str | None] = []
        self.resumed: list[bool] = []
        self.failures: list[OSError] = []
        self.use(leaf, configure)
        super().__init__(handler)

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def use(self, leaf: trustme.LeafCert, configure: Configure = lambda _: None) -> None:
        """Show this certificate from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
        context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        configure(context)
        self.context = context

    def opened(self, connection: Connection) -> None:
        try:
            secure = self.context.wrap_socket(
                connection.socket, server_side=True, suppress_ragged_eofs=False
            )
        except OSError as error:
            self.failures.append(error)
            raise PeerGone(str(error)) from None
        connection.socket = secure
        self.resumed.append(bool(secure.session_reused))


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> dict[str, str]:
    """The authority, and a certificate of ours with its key, as files."""
    client = AUTHORITY.issue_cert("balancer.internal")
    store(tmp_path / "ca", AUTHORITY.cert_pem.bytes())
    store(tmp_path / "crt", b"".join(pem.bytes() for pem in client.cert_chain_pems))
    store(tmp_path / "key", client.private_key_pem.bytes())
    return {name: str(tmp_path / name) for name in ("ca", "crt", "key")}


def store(path: Path, data: bytes) -> None:
    """Put ``data`` into the place of what is there, in one step."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)


def wants_certificate(context: ssl.SSLContext) -> None:
    """Let in only who has a certificate of the authority."""
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED


def only_tls_1_2(context: ssl.SSLContext) -> None:
    """As servers of ten years ago."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])
def test_an_authority_of_ones_own(files: dict[str, str], command: tuple[str, ...]) -> None:
    """A server with a certificate of ``ca`` is healthy and answers, over connections that are kept."""
    with (
        SecureBackend() as backend,
        Balancer(
            [backend],
            command=command,
            backend_tls={"ca": files["ca"]},
            health_check=health_check(),
        ) as balancer,
    ):
        assert balancer.get("/one").status == 200
        assert balancer.get("/two").status == 200
        assert {request.connection for request in backend.requests} == {
            backend.requests[0].connection
        }
        assert backend.probes


def test_a_stranger_is_refused_and_why_is_said_once(files: dict[str, str]) -> None:
    """502 with a reason; the log has the library's words, once for a worker and not once a request."""
    with (
        SecureBackend(leaf=STRANGER.issue_cert("127.0.0.1")) as backend,
        Balancer([backend], backend_tls={"ca": files["ca"]}) as balancer,
    ):
        for target in ("/one", "/two"):
            response = balancer.get(target, [("Accept", "application/json")])
            assert (response.status, response.json()["reason"]) == (502, "certificate_invalid")
            assert "issuer" not in response.text
            assert balancer.access_line(target=target)["reason"] == "certificate_invalid"
        (line,) = balancer.log.select("tls")
        assert (line["backend"], line["reason"]) == (backend.address, "certificate_invalid")
        assert "unable to get local issuer certificate" in line["detail"]
        assert not backend.requests


def test_a_stranger_is_unhealthy_and_the_check_says_why(files: dict[str, str]) -> None:
    """Checks trust whom requests trust: a server that no request could reach is not healthy."""
    with (
        SecureBackend(leaf=STRANGER.issue_cert("127.0.0.1")) as backend,
        Balancer(
            [backend], backend_tls={"ca": files["ca"]}, health_check=health_check()
        ) as balancer,
    ):
        (line,) = balancer.log.wait_for(1, "health", backend=backend.address)
        assert (line["healthy"], line["reason"]) == (False, "certificate_invalid")
        assert "unable to get local issuer certificate" in line["detail"]
        assert balancer.get("/").status == 503


def test_public_authorities_are_the_default() -> None:
    """Without ``ca`` a certificate of an authority that nobody knows is refused."""
    with SecureBackend() as backend, Balancer([backend]) as balancer:
        assert balancer.get("/").json()["reason"] == "certificate_invalid"


def test_the_name_is_verified(files: dict[str, str]) -> None:
    """A certificate for another name is refused; ``server_name`` says which one is meant, to both sides."""
    leaf = AUTHORITY.issue_cert("app.internal")
    trusting = {"ca": files["ca"]}
    with SecureBackend(leaf=leaf) as backend:
        with Balancer([backend], backend_tls=trusting) as balancer:
            assert balancer.get("/").json()["reason"] == "certificate_invalid"
        backend.names.clear()
        named = {**trusting, "server_name": "app.internal"}
        with Balancer([backend], backend_tls=named, health_check=health_check()) as balancer:
            assert balancer.get("/").status == 200
        assert set(backend.names) == {"app.internal"}


def test_without_verification_anybody_will_do_and_a_warning_is_said() -> None:
    """``verify: false`` is for tests; whoever sets it is told."""
    with (
        SecureBackend(leaf=STRANGER.issue_cert("elsewhere.example")) as backend,
        Balancer([backend], backend_tls={"verify": False}, health_check=health_check()) as balancer,
    ):
        assert balancer.get("/").status == 200
        (line,) = balancer.log.select("config", level="warning", path="backend_tls.verify")
        assert "not verified" in line["message"]


@pytest.mark.parametrize(
    "configure",
    [wants_certificate, lambda context: (wants_certificate(context), only_tls_1_2(context))],
    ids=["1.3", "1.2"],
)
def test_a_server_that_asks_for_a_certificate(files: dict[str, str], configure: Configure) -> None:
    """With ours it answers. Without, that is a failed handshake: 502, and a request nobody has read."""
    trusting = {"ca": files["ca"]}
    with SecureBackend(configure=configure) as backend:
        ours = {**trusting, "certificate": files["crt"], "key": files["key"]}
        with Balancer([backend], backend_tls=ours, health_check=health_check()) as balancer:
            assert balancer.get("/known").status == 200
        with Balancer([backend], backend_tls=trusting) as balancer:
            reasons = []
            for _ in range(2):
                with balancer.connect() as client:
                    response = client.request("POST", "/unknown", body=b"x")
                assert response.status == 502
                reasons.append(response.json()["reason"])
            # The server's RST can overtake its alert.
            assert set(reasons) <= {"tls_error", "reset_before_head"}
            lines = balancer.log.select("tls")
            assert len(lines) == ("tls_error" in reasons)
            assert all("alert" in line["detail"] for line in lines)
        assert [request.target for request in backend.requests] == ["/known"]


def test_old_versions_are_refused(files: dict[str, str]) -> None:
    """``minimum_version`` holds for servers too."""
    with (
        SecureBackend(configure=only_tls_1_2) as backend,
        Balancer([backend], backend_tls={"ca": files["ca"], "minimum_version": "1.3"}) as balancer,
    ):
        assert balancer.get("/").json()["reason"] == "tls_error"


@pytest.mark.parametrize("configure", [lambda _: None, only_tls_1_2], ids=["1.3", "1.2"])
def test_sessions_are_resumed(files: dict[str, str], configure: Configure) -> None:
    """The second connection needs no full handshake, also where each answer ends its connection."""

    def close(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        exchange.close()

    with (
        SecureBackend(close, configure=configure) as backend,
        Balancer([backend], backend_tls={"ca": files["ca"]}) as balancer,
    ):
        for _ in range(3):
            assert balancer.get("/").status == 200
        assert backend.resumed == [False, True, True]


def test_a_session_is_taken_from_a_connection_that_is_in_use(files: dict[str, str]) -> None:
    """Connections that live long do not make others wait for the first of them to end."""
    with (
        SecureBackend() as backend,
        Balancer([backend], backend_tls={"ca": files["ca"]}) as balancer,
    ):
        assert balancer.get("/").status == 200
        backend.handler, (go, *_) = handlers.by_steps(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        with balancer.connect() as first, balancer.connect() as second:
            first.send_head("GET", "/first")
            backend.wait_for_request(2)
            second.send_head("GET", "/second")
            backend.wait_for_request(3)
            go.set()
            assert first.read_response().status == second.read_response().status == 200
        assert backend.resumed == [False, True]


def test_the_client_is_announced_before_the_handshake(files: dict[str, str]) -> None:
    """With ``send_proxy`` the header comes first, in plain text, also from checks."""

    class AnnouncedBackend(SecureBackend):
        said: ClassVar[list[bytes]] = []

        def opened(self, connection: Connection) -> None:
            line = b""
            while not line.endswith(b"\r\n"):
                line += connection.socket.recv(1)
            self.said.append(line)
            super().opened(connection)

    with (
        AnnouncedBackend() as backend,
        Balancer(
            [backend],
            backend_tls={"ca": files["ca"]},
            send_proxy="v1",
            health_check=health_check(),
        ) as balancer,
        balancer.connect() as client,
    ):
        assert client.get("/").status == 200
        port = client.socket.getsockname()[1]
        ours = b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (port, balancer.port)
        assert backend.said.count(ours) == 1
        assert len(backend.said) >= 2


def test_the_connect_timeout_bounds_the_handshake(files: dict[str, str]) -> None:
    """A server that accepts and then says nothing is given up like one that does not accept."""
    with (
        Backend(handlers.ok) as backend,
        Balancer(
            [backend.url.replace("http:", "https:")],
            backend_tls={"ca": files["ca"]},
            timeouts={"connect": seconds(0.5), "read": PATIENT},
        ) as balancer,
    ):
        started = time.monotonic()
        response = balancer.get("/")
        assert (response.status, response.json()["reason"]) == (504, "connect_timeout")
        assert time.monotonic() - started < seconds(5)


def test_an_end_without_close_notify_is_a_truncation(files: dict[str, str]) -> None:
    """A body that the connection's end ends is whole only if TLS says so (RFC 9112 §9.8)."""
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1000

    def whole(exchange: Exchange) -> None:
        exchange.send(answer)
        secure = exchange.connection.socket
        assert isinstance(secure, ssl.SSLSocket)
        exchange.connection.socket = secure.unwrap()
        exchange.close()

    def cut(exchange: Exchange) -> None:
        exchange.send(answer)
        exchange.close()

    with (
        SecureBackend(whole) as backend,
        Balancer([backend], backend_tls={"ca": files["ca"]}) as balancer,
    ):
        assert len(balancer.get("/whole").body) == 1000
        backend.handler = cut
        with balancer.connect() as client:
            client.send_head("GET", "/cut")
            with pytest.raises(Truncated):
                client.read_response()
        assert balancer.access_line(target="/cut")["attempts"][0]["reason"] == "reset_in_body"


def test_a_replaced_authority_is_used_without_a_reload(files: dict[str, str]) -> None:
    """By requests and by checks; a session that the old one vouched for is not resumed."""
    with (
        SecureBackend(handlers.answer(200, b"", ("Connection", "close"))) as backend,
        Balancer(
            [backend], backend_tls={"ca": files["ca"]}, health_check=health_check()
        ) as balancer,
    ):
        assert balancer.get("/").status == 200
        backend.use(STRANGER.issue_cert("127.0.0.1"))
        balancer.log.wait_for(1, "health", healthy=False, reason="certificate_invalid")
        store(Path(files["ca"]), STRANGER.cert_pem.bytes())
        balancer.log.wait_for(2, "health", healthy=True)
        wait_until(lambda: balancer.get("/").status == 200, PATIENT, "the new authority")
        assert balancer.log.select("tls", message="certificate replaced", section="backend_tls")


def test_a_reload_brings_another_authority(files: dict[str, str], tmp_path: Path) -> None:
    """HUP: workers and checks change over together."""
    store(tmp_path / "other", STRANGER.cert_pem.bytes())
    with (
        SecureBackend(leaf=STRANGER.issue_cert("127.0.0.1")) as backend,
        Balancer(
            [backend], backend_tls={"ca": files["ca"]}, health_check=health_check()
        ) as balancer,
    ):
        balancer.log.wait_for(1, "health", healthy=False)
        balancer.config["backend_tls"]["ca"] = str(tmp_path / "other")
        balancer.write_config()
        balancer.signal(signal.SIGHUP)
        balancer.log.wait_for(1, "health", healthy=True)
        wait_until(lambda: balancer.get("/").status == 200, PATIENT, "the new authority")


def test_files_are_checked_before_a_start(files: dict[str, str], tmp_path: Path) -> None:
    """Status 78, with the key, the file and the remedy."""
    config = tmp_path / "config.json"
    wrong = f'"certificate": "{files["crt"]}", "key": "{files["ca"]}"'
    for settings, problem in (
        ('"ca": "/none.pem"', "backend_tls.ca: /none.pem: there is no such file: create it"),
        (wrong, f"backend_tls.key: {files['ca']}: holds no private key in PEM"),
    ):
        config.write_text(
            f'{{"servers": ["https://127.0.0.1:1"], "backend_tls": {{{settings}}}}}', "utf-8"
        )
        ended = run(("load_balancer.py", "check"), config)
        assert ended.returncode == 78
        assert problem in ended.stderr
