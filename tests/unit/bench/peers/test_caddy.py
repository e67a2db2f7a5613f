"""Caddy, as the bench sets it up."""

from __future__ import annotations

from pathlib import Path

from bench.peers.caddy import Caddy
from bench.peers.candidate import Setup

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")
TLS = (Path("/keys/certificate.pem"), Path("/keys/key.pem"))


def config(setup: Setup) -> list[str]:
    """Its lines."""
    text = Caddy(Path(), Path()).config(setup, 8080, Path("/run"))
    assert text.count("{") == text.count("}")
    return [line.strip() for line in text.splitlines()]


def test_the_site_is_bound_to_this_machine() -> None:
    """Under the scheme that clients use."""
    assert {"http://:8080 {", "bind 127.0.0.1"} <= set(config(Setup(TWO)))
    tls = config(Setup(TWO, tls=TLS))
    assert {"https://:8080 {", "tls /keys/certificate.pem /keys/key.pem"} <= set(tls)


def test_http2_only_where_it_is_asked_for() -> None:
    """It is on by default."""
    assert "protocols h1" in config(Setup(TWO, tls=TLS))
    assert "protocols h1 h2" in config(Setup(TWO, tls=TLS, http2=True))


def test_for_speed_it_logs_each_request_into_a_file() -> None:
    """Where servers fail it logs nothing."""
    assert "output file /run/access.log {" in config(Setup(TWO))
    assert not [line for line in config(Setup(TWO, servers_fail=True)) if "output file" in line]


def test_its_policy_is_never_the_default() -> None:
    """Which is random."""
    least = Setup(TWO, servers_fail=True, algorithm="least_connections")
    assert "lb_policy round_robin" in config(Setup(TWO))
    assert "lb_policy round_robin" in config(Setup(TWO, servers_fail=True))
    assert "lb_policy least_conn" in config(least)


def test_it_has_as_many_threads_as_others_have_workers(tmp_path: Path) -> None:
    """And leaves nothing in anybody's home."""
    launch = Caddy(Path(), tmp_path).start(Setup(TWO, workers=2), 8080, Path("/run/Caddyfile"))
    assert launch.command[0] == str(tmp_path / "venv" / "bin" / "caddy")
    assert launch.env == {"GOMAXPROCS": "2", "XDG_DATA_HOME": "/run", "HOME": "/run"}
