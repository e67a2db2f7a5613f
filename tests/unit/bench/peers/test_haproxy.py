"""HAProxy, as the bench sets it up."""

from __future__ import annotations

from pathlib import Path

from bench.peers.candidate import Setup
from bench.peers.haproxy import HAProxy, HAProxyCopying

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")


def config(setup: Setup, kind: type[HAProxy] = HAProxy) -> list[str]:
    """Its lines."""
    text = kind(Path(), Path()).config(setup, 8080, Path("/run"))
    return [line.strip() for line in text.splitlines()]


def test_a_pool_beyond_its_limit_is_walked_statically() -> None:
    """Its round robin takes 4,095 servers."""
    assert "balance roundrobin" in config(Setup(("127.1.0.1:80",) * 4095))
    assert "balance static-rr" in config(Setup(("127.1.0.1:80",) * 4096))


def test_splicing_is_what_the_two_forms_differ_in() -> None:
    """And nothing else."""
    with_it, without = config(Setup(TWO)), config(Setup(TWO), HAProxyCopying)
    assert set(with_it) - set(without) == {"option splice-request", "option splice-response"}
    assert set(without) <= set(with_it)


def test_checks_are_on_each_server() -> None:
    """Off in the pool cases; where servers fail they are the defaults of all servers."""
    assert "server s0 127.0.0.1:7001 check inter 5s" in config(Setup(TWO))
    assert "server s0 127.0.0.1:7001" in config(Setup(TWO, health=False))
    safe = config(Setup(TWO, servers_fail=True))
    assert "server s0 127.0.0.1:7001" in safe
    assert "default-server check inter 1s observe layer7 on-error mark-down" in safe


def test_timeouts() -> None:
    """Those of everybody where servers fail."""
    assert {"timeout connect 3s", "timeout server 60s"} <= set(config(Setup(TWO)))
    safe = config(Setup(TWO, servers_fail=True))
    assert {"timeout connect 1s", "timeout server 2s", "timeout check 1s"} <= set(safe)


def test_certificate_and_key_are_put_into_one_file(tmp_path: Path) -> None:
    """As it wants them; the configuration names that file."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text("certificate\n")
    key.write_text("key\n")
    folder = tmp_path / "run"
    folder.mkdir()
    setup = Setup(TWO, tls=(certificate, key), http2=True)
    HAProxy(Path(), Path()).launch(setup, 8080, folder)
    assert (folder / "tls.pem").read_text() == "certificate\nkey\n"
    assert f"ssl crt {folder}/tls.pem alpn h2,http/1.1" in (folder / "haproxy.cfg").read_text()
