"""Balancers with TLS in front, for the tests of HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Backend, Balancer, handlers, seconds
from harness.secure import AUTHORITY


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The ``tls`` of config.json."""
    folder = tmp_path_factory.mktemp("http2")
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key")
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(folder / "crt", append=True)
    return {"certificate": str(folder / "crt"), "key": str(folder / "key")}


@pytest.fixture(name="running", scope="module")
def _running(files: dict[str, str]) -> Iterator[tuple[Balancer, Backend]]:
    timeouts = {"client": seconds(10), "read": seconds(10)}
    with (
        Backend() as backend,
        Balancer([backend], tls=files, timeouts=timeouts, limits={"body": 8 << 20}) as balancer,
    ):
        yield balancer, backend


@pytest.fixture(name="secure")
def _secure(running: tuple[Balancer, Backend]) -> tuple[Balancer, Backend]:
    """One worker in front of one backend; shared by most tests."""
    balancer, backend = running
    backend.handler = handlers.ok
    backend.clear()
    return balancer, backend


@pytest.fixture(name="impatient")
def _impatient(files: dict[str, str]) -> Iterator[tuple[Balancer, Backend]]:
    """The same with short timeouts."""
    timeouts = {"client": seconds(1), "keepalive": seconds(1), "read": seconds(10)}
    with Backend() as backend, Balancer([backend], tls=files, timeouts=timeouts) as balancer:
        yield balancer, backend
