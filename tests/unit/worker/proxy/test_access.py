"""The access line: whose values it has, and what it hides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fakes.exchange import ClientSide
from fakes.pool import Pool
from fakes.session import Answer

from app import config as configuration
from app.errors import BadRequest, ConnectFailed
from app.wire.forwarded import Trust
from app.worker.proxy.access import AccessLine
from app.worker.proxy.attempt import Attempt

LINES: list[dict[str, Any]] = []


def access() -> AccessLine:
    log: Any = SimpleNamespace(write=LINES.append)
    config = configuration.parse('{"logging": {"redact": ["token"]}}')
    return AccessLine(config, Trust(("10.0.0.0/8",), "x-forwarded"), log)


def line(request: bytes, attempts: list[Attempt], answer: Attempt | None, **more: Any) -> Any:
    access().write(ClientSide(request, **more), "id", 0.0, 200, None, attempts, answer)
    return LINES.pop()


def test_a_line_tells_of_the_attempt_that_answered() -> None:
    """Which need not be the last; without any it has no backend."""
    pool: Any = Pool(2)
    first, second = (Attempt(pool, pool.pick(()), None) for _ in range(2))  # type: ignore[arg-type]
    first.response = Answer(503)
    first.response.first_byte_at = 0.5
    second.fail(ConnectFailed())
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    found = line(request, [first, second], first)
    assert (found["backend"], found["first_byte_ms"]) == ("server 0", 500.0)
    assert [one["server"] for one in found["attempts"]] == ["server 0", "server 1"]
    found = line(request, [], None)
    assert (found["backend"], found["connect_ms"], found["attempts"]) == (None, None, [])


def test_secrets_in_the_query_are_hidden() -> None:
    found = line(b"GET /a?token=s3cret&b=1 HTTP/1.1\r\nHost: a\r\n\r\n", [], None)
    assert found["target"] == "/a?token=***&b=1"


def test_the_client_is_found_behind_a_trusted_proxy() -> None:
    """Not behind a stranger."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    assert line(request, [], None, peer="10.0.0.1", is_trusted=True)["client_ip"] == "203.0.113.9"
    assert line(request, [], None, peer="192.0.2.1")["client_ip"] == "192.0.2.1"


def test_the_line_of_a_head_that_could_not_be_read() -> None:
    """It has the same fields as any other, in the same order."""
    access().write_refused("id", "192.0.2.1", 0.0, BadRequest())
    refused = LINES.pop()
    assert list(refused) == list(line(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [], None))
    assert (refused["status"], refused["reason"], refused["client_ip"]) == (
        400, "bad_request", "192.0.2.1",
    )  # fmt: skip
