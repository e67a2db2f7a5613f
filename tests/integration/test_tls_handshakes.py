"""Handshakes in front: sessions that go on at any worker, and clients that come to nothing."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from harness import PATIENT, PROMPT, Backend, Balancer, handlers, run, wait_until

AUTHORITY = trustme.CA()
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
ROUNDS = 24
# As app/tls/openssl.py finds none: it is imported by all of the balancer's processes.
UNREACHABLE = "import app.tls.openssl as openssl\nopenssl._control = None\n"


def store(folder: Path, certificate: trustme.LeafCert | None = None) -> dict[str, str]:
    """Put certificate and key in place; the ``tls`` of config.json for them."""
    certificate = certificate or AUTHORITY.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    for name, data in (("crt", chain), ("key", certificate.private_key_pem.bytes())):
        (folder / "new").write_bytes(data)
        os.replace(folder / "new", folder / name)
    (folder / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    return {"certificate": str(folder / "crt"), "key": str(folder / "key")}


class Visitor:
    """A client that brings its session along, as browsers do."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(self.context)
        self.context.maximum_version = version
        self.session: ssl.SSLSession | None = None
        self.serial = ""

    def visit(self, balancer: Balancer) -> bool:
        """One request on a connection of its own; whether the session was resumed."""
        with (
            socket.create_connection(balancer.address, PATIENT) as plain,
            self.context.wrap_socket(
                plain, server_hostname="127.0.0.1", session=self.session
            ) as client,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = client.recv(100)
            assert answer.startswith(b"HTTP/1.1 200 ")
            while client.recv(65536):
                pass
            certificate = client.getpeercert()
            self.serial = str(certificate and certificate["serialNumber"])
            self.session = client.session
            return bool(client.session_reused)

    def resumed(self, balancer: Balancer) -> int:
        """Of ROUNDS visits, more than one of them at each worker."""
        return sum(self.visit(balancer) for _ in range(ROUNDS))


@pytest.fixture(name="backend")
def _backend() -> Iterator[Backend]:
    with Backend(handlers.ok) as backend:
        yield backend


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_session_goes_on_at_every_worker(
    tmp_path: Path, backend: Backend, version: ssl.TLSVersion
) -> None:
    """Also at those of a reload, of an upgrade, and with a certificate that was replaced."""
    tls, visitor = store(tmp_path), Visitor(version)
    with Balancer([backend], workers=3, tls=tls) as balancer:
        assert not visitor.visit(balancer)
        assert visitor.resumed(balancer) == ROUNDS
        balancer.reload()
        assert visitor.resumed(balancer) == ROUNDS
        serial = visitor.serial
        store(tmp_path)
        fresh = Visitor(version)

        def is_replaced() -> bool:
            fresh.session = None
            fresh.visit(balancer)
            return fresh.serial != serial

        wait_until(is_replaced, PATIENT, "the new certificate", poll=0.1)
        assert visitor.resumed(balancer) == ROUNDS
        old = balancer.upgrade()
        balancer.signal(signal.SIGTERM, old)
        wait_until(
            lambda: balancer.master != old and not _runs(old), PATIENT, "the old master gone"
        )
        balancer.forget(old)
        assert visitor.resumed(balancer) == ROUNDS


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_who_demands_certificates_resumes_nothing(
    tmp_path: Path, backend: Backend, version: ssl.TLSVersion
) -> None:
    """Above all no session of before, when nobody had to show one."""
    tls, visitor = store(tmp_path), Visitor(version)
    AUTHORITY.issue_cert("client.example").configure_cert(visitor.context)
    with Balancer([backend], workers=2, tls=tls) as balancer:
        visitor.visit(balancer)
        assert visitor.visit(balancer)
        balancer.config["tls"]["client_ca"] = str(tmp_path / "ca")
        balancer.write_config()
        balancer.reload()
        assert visitor.resumed(balancer) == 0


def test_sessions_go_on_where_openssl_is_not_reachable(tmp_path: Path, backend: Backend) -> None:
    """The context that all workers inherit does it, with new certificates in it too."""
    (tmp_path / "sitecustomize.py").write_text(UNREACHABLE)
    tls, visitor = store(tmp_path), Visitor(ssl.TLSVersion.TLSv1_3)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    with Balancer([backend], workers=3, tls=tls, env=env) as balancer:
        visitor.visit(balancer)
        assert visitor.resumed(balancer) == ROUNDS
        serial = visitor.serial
        store(tmp_path)
        balancer.reload()
        assert visitor.resumed(balancer) == ROUNDS
        fresh = Visitor(ssl.TLSVersion.TLSv1_3)
        fresh.visit(balancer)
        assert fresh.serial != serial


def test_plain_http_is_told_so(tmp_path: Path, backend: Backend) -> None:
    """With 400 in the clear, for every method; others are served, and the log says how many there were."""
    with Balancer([backend], tls=store(tmp_path)) as balancer:
        for method in (b"GET", b"DELETE", b"PRI"):
            with socket.create_connection(balancer.address, PROMPT) as plain:
                plain.sendall(b"%b /plain HTTP/1.1\r\nHost: a\r\n\r\n" % method)
                answer = b""
                while piece := plain.recv(65536):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"Content-Type: text/plain" in answer
            assert b"reason: plain_http" in answer
        assert not Visitor(VERSIONS[1]).visit(balancer)
        line = balancer.log.wait_for(1, "tls", reason="plain_http")[0]
        assert line["client"] == "127.0.0.1"
        lines = balancer.wait_for_access(3, reason="plain_http")
        assert {line["status"] for line in lines} == {400}
        balancer.signal(signal.SIGTERM)
        assert balancer.wait_for_exit() == 0
        counts = [line["count"] for line in balancer.log.select("tls", reason="plain_http")]
        assert sum(counts) == 3


def test_what_is_not_agreed_on_is_said(tmp_path: Path, backend: Backend) -> None:
    """No protocol in common is an alert; CBC is not spoken; both are counted."""
    with Balancer([backend], tls=store(tmp_path)) as balancer:
        visitor = Visitor(VERSIONS[0])
        visitor.context.set_alpn_protocols(["spdy/1"])
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            visitor.visit(balancer)
        visitor = Visitor(VERSIONS[0])
        visitor.context.set_ciphers("ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA256:AES128-SHA")
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            visitor.visit(balancer)
        balancer.log.wait_for(1, "tls", reason="no_application_protocol")
        line = balancer.log.wait_for(1, "tls", reason="tls_error")[0]
        assert line["detail"] == "no shared cipher"
        for protocols in (["http/1.1"], ["http/1.0"], ["spdy/1", "http/1.1"]):
            visitor = Visitor(VERSIONS[1])
            visitor.context.set_alpn_protocols(protocols)
            assert not visitor.visit(balancer)


def test_files_are_found_beside_the_configuration(tmp_path: Path, backend: Backend) -> None:
    """By ``check`` and by ``run``, wherever they are called."""
    with Balancer([backend], is_ready_when_entered=False) as balancer:
        folder = balancer.config_path.parent
        balancer.config["tls"] = store(folder) and {"certificate": "crt", "key": "key"}
        balancer.write_config()
        checked = run(("load_balancer.py", "check", "-q"), balancer.config_path)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        balancer.wait_until_ready()
        balancer.reload()
        assert not Visitor(VERSIONS[1]).visit(balancer)
