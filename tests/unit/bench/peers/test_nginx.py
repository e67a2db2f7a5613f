"""nginx, as the bench sets it up."""

from __future__ import annotations

from pathlib import Path

from bench.peers.candidate import Setup
from bench.peers.nginx import Nginx

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")
TLS = (Path("/keys/certificate.pem"), Path("/keys/key.pem"))


def config(setup: Setup) -> str:
    return Nginx(Path(), Path()).config(setup, 8080, Path("/run"))


def test_braces_and_directives_are_closed() -> None:
    """Of a template with parts from other templates."""
    for setup in (Setup(TWO), Setup(TWO, tls=TLS), Setup(TWO, servers_fail=True)):
        text = config(setup)
        assert text.count("{") == text.count("}")
        lines = [line.strip() for line in text.splitlines()]
        open_ended = [line for line in lines if line and line[-1] not in ";{}'#"]
        assert open_ended == []


def test_each_server_keeps_a_connection_in_a_large_pool() -> None:
    """Else a large pool would mean reconnecting."""
    many = tuple(f"127.1.0.1:{port}" for port in range(5000, 7000))
    assert "keepalive 2000;" in config(Setup(many))
    assert "keepalive 1024;" in config(Setup(TWO))


def test_workers_share_the_port() -> None:
    """With one socket for each, where there are several."""
    assert "listen 127.0.0.1:8080 backlog=4096;" in config(Setup(TWO))
    assert "listen 127.0.0.1:8080 backlog=4096 reuseport;" in config(Setup(TWO, workers=2))


def test_tls_and_http2() -> None:
    """HTTP/2 only where it is asked for."""
    assert "8080 ssl backlog" in config(Setup(TWO, tls=TLS))
    assert "8080 ssl http2 backlog" in config(Setup(TWO, tls=TLS, http2=True))


def test_where_servers_fail_it_goes_to_the_next() -> None:
    """With the timeouts of everybody, and nothing in its log."""
    text = config(Setup(TWO, servers_fail=True, algorithm="least_connections"))
    assert "proxy_next_upstream error timeout http_500 http_502 http_503 http_504;" in text
    assert "proxy_connect_timeout 1s;" in text
    assert "proxy_read_timeout 2s;" in text
    assert "least_conn;" in text
    assert "access_log off;" in text


def test_its_temporary_files_have_their_folder(tmp_path: Path) -> None:
    """It would not start without."""
    launch = Nginx(Path(), Path()).launch(Setup(TWO), 8080, tmp_path)
    assert (tmp_path / "temp").is_dir()
    assert launch.command[-1] == str(tmp_path / "nginx.conf")
    assert (tmp_path / "nginx.conf").read_text() == Nginx(Path(), Path()).config(
        Setup(TWO), 8080, tmp_path
    )
