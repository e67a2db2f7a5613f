"""What holds for everybody who is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import peers
from bench.peers.candidate import Candidate, Setup

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")
TLS = (Path("/keys/certificate.pem"), Path("/keys/key.pem"))
FOLDER = Path("/run/bench")
EVERYBODY = tuple(dict.fromkeys((*peers.SPEED, *peers.FAILURES)))


def made(kind: type[Candidate]) -> Candidate:
    return kind(Path("/project"), Path("/project/build"))


def test_names_are_used_once() -> None:
    """They are options on the command line and keys of saved results."""
    assert len({kind.name for kind in EVERYBODY}) == len(EVERYBODY)


@pytest.mark.parametrize("kind", EVERYBODY, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "setup",
    [
        Setup(TWO),
        Setup(TWO, workers=2, health=False),
        Setup(TWO, tls=TLS, http2=True),
        Setup(TWO, workers=2, servers_fail=True),
        Setup(TWO, workers=2, servers_fail=True, algorithm="least_connections"),
    ],
    ids=["fast", "unchecked", "tls", "failing", "by load"],
)
def test_every_setup_names_the_port_and_each_server(kind: type[Candidate], setup: Setup) -> None:
    """And no placeholder of a template is left over."""
    text = made(kind).config(setup, 8080, FOLDER)
    assert "8080" in text
    assert all(f":{port}" in text or f": {port}" in text for port in (7001, 7002))
    assert "{{" not in text.replace('": {', "")
    if setup.tls and kind.tls:
        assert "/keys/certificate.pem" in text or f"{FOLDER}/tls.pem" in text


@pytest.mark.parametrize("kind", peers.SPEED, ids=lambda kind: kind.name)
def test_for_speed_nobody_retries_or_gives_up_early(kind: type[Candidate]) -> None:
    """What is for failing servers must not slow down those that are well."""
    text = made(kind).config(Setup(TWO), 8080, FOLDER)
    words = ("proxy_next_upstream", "redispatch", "retry_policy", "lb_retries", "outlier")
    assert not [word for word in words if word in text]


@pytest.mark.parametrize("kind", peers.FAILURES, ids=lambda kind: kind.name)
def test_where_servers_fail_the_check_path_is_asked(kind: type[Candidate]) -> None:
    """By all but nginx, which has no active checks without a licence."""
    text = made(kind).config(Setup(TWO, servers_fail=True), 8080, FOLDER)
    assert ("/health" in text) == (kind.name != "nginx")


@pytest.mark.parametrize("kind", peers.FAILURES, ids=lambda kind: kind.name)
def test_another_algorithm_changes_the_configuration(kind: type[Candidate]) -> None:
    """Each that it offers; a table of figures would else compare a candidate with itself."""
    candidate = made(kind)
    names = ("round_robin", *candidate.algorithms)
    texts = {
        candidate.config(Setup(TWO, servers_fail=True, algorithm=name), 8080, FOLDER)
        for name in names
    }
    assert len(texts) == len(names)
