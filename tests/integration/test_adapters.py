"""Another transport adapter in the place of ours: messages stay what they are, and its mistakes its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import GUNICORN, PATIENT, STOCK_WORKER, Backend, Balancer, Truncated, handlers

PLACE = ("--pythonpath", str(Path(__file__).parent), "harness.adapters:application")


@pytest.fixture(
    name="running", params=[GUNICORN, STOCK_WORKER], ids=["ours", "stock"], scope="module"
)
def _running(request: pytest.FixtureRequest) -> Iterator[tuple[Balancer, Backend]]:
    """One worker in front of one server with one place, through requests' own adapter."""
    with Backend() as backend:
        server = {"url": backend.url, "max_connections": 1}
        command = (*request.param[:-1], *PLACE)
        with Balancer([server], command=command, queue=False) as balancer:
            balancer.may_raise = True
            yield balancer, backend


@pytest.fixture(name="both")
def _both(running: tuple[Balancer, Backend]) -> tuple[Balancer, Backend]:
    balancer, backend = running
    backend.handler = handlers.echo
    backend.clear()
    return balancer, backend


@pytest.mark.parametrize("target", ["/raise", "/no-text"])
def test_whatever_it_raises_the_client_is_told(both: tuple[Balancer, Backend], target: str) -> None:
    """With 500, one access line, the traceback in the log; and the place at the server is free again."""
    balancer, _ = both
    for _ in range(3):
        since = balancer.log_mark
        answer = balancer.get(target)
        assert answer.status == 500
        assert answer.json()["reason"] == "internal_error"
        lines = balancer.log.wait_for(1, "access", since, target=target)
        assert [(line["status"], line["reason"]) for line in lines] == [(500, "internal_error")]
        assert [attempt["reason"] for attempt in lines[0]["attempts"]] == ["internal_error"]
        failures = balancer.log.wait_for(1, "proxy", since)
        assert lines[0]["request_id"] in failures[0]["message"]
        assert "Error" in failures[0]["exception"]
    assert balancer.get("/").status == 200


def test_a_failure_in_the_body_never_looks_whole(both: tuple[Balancer, Backend]) -> None:
    """The connection is cut; one line says so."""
    balancer, _ = both
    since = balancer.log_mark
    with balancer.connect() as client, pytest.raises(Truncated):
        client.get("/raise-in-body")
    (line,) = balancer.log.wait_for(1, "access", since, target="/raise-in-body")
    assert line["reason"] == "reset_in_body"
    assert balancer.get("/").status == 200


def test_what_lies_behind_a_body_is_not_the_next_answer(both: tuple[Balancer, Backend]) -> None:
    """A body longer than its Content-Length ends where that says."""
    balancer, _ = both
    with balancer.connect() as client:
        answer = client.get("/too-long")
        assert len(answer.body) == int(answer.get("content-length") or 0)
        assert set(answer.body) == {ord("o")}
        assert not client.has_input()
        assert client.get("/next").status == 200


@pytest.mark.parametrize("pieces", [[], [b"one"], [b"one", b"two" * 9], [b"x" * 70000] * 3])
def test_a_chunked_body_arrives_as_it_is(
    both: tuple[Balancer, Backend], pieces: list[bytes]
) -> None:
    """Framed once, by whoever sends it; also an empty one, and one that is here with its head."""
    balancer, backend = both
    checksum = hashlib.sha256(b"".join(pieces)).hexdigest()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    for parts in ([head + chunks], [head, chunks]):
        with balancer.connect(timeout=PATIENT) as client:
            for part in parts:
                client.send(part)
            answer = client.read_response("POST")
            assert (answer.status, answer.text) == (200, checksum)
    assert all(request.is_complete for request in backend.requests)


@pytest.mark.parametrize("size", [0, 3, 200_000])
def test_a_body_of_known_length_arrives_as_it_is(both: tuple[Balancer, Backend], size: int) -> None:
    """By its Content-Length."""
    balancer, backend = both
    body = b"y" * size
    with balancer.connect() as client:
        answer = client.request("PUT", "/", body=body)
        assert answer.text == hashlib.sha256(body).hexdigest()
    assert backend.requests[0].get("content-length") == str(size)
    assert backend.requests[0].get_all("transfer-encoding") == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_its_connection_serves_one_answer_after_the_other(
    both: tuple[Balancer, Backend], method: str
) -> None:
    """Also where an answer has no body that could be read to its end."""
    balancer, backend = both
    with balancer.connect() as client:
        for _ in range(10):
            assert client.request(method, "/").status == 200
    assert len({request.connection for request in backend.requests}) == 1
