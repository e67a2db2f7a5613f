"""app.worker.client.wsgi: the client's side of an exchange as an environ shows it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from app.errors import BadRequest
from app.worker.client.wsgi import WsgiExchange, start_answer
from app.worker.net.deadlines import NEVER, Deadline
from app.worker.net.stream import BODY_READ_SIZE


def exchange(body: bytes = b"", body_limit: int = 0, **environ: Any) -> WsgiExchange:
    shown = {
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "a",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        **environ,
    }
    started: Any = None
    return WsgiExchange(shown, started, lambda peer: False, Deadline(), 60.0, body_limit)


def read_all(one: WsgiExchange) -> bytes:
    body = b""
    while one.read_body is not None and (piece := one.read_body(one.deadline)):
        body += piece
    return body


@pytest.mark.parametrize("size", [0, 1, BODY_READ_SIZE + 1])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_is_read_to_its_end(size: int, is_chunked: bool) -> None:
    """By its length, or until the server's input ends, which has undone the chunks."""
    body = b"x" * size
    framing = {"HTTP_TRANSFER_ENCODING": "chunked"} if is_chunked else {"CONTENT_LENGTH": str(size)}
    one = exchange(body, **framing)
    assert read_all(one) == body
    assert one.bytes_in == size
    assert one.deadline.at == NEVER


@pytest.mark.parametrize(("size", "is_refused"), [(1000, False), (1001, True)])
def test_a_chunked_body_is_held_to_the_limit_too(size: int, is_refused: bool) -> None:
    """As it comes; one that says its length is the handler's to refuse."""
    one = exchange(b"x" * size, 1000, HTTP_TRANSFER_ENCODING="chunked")
    if not is_refused:
        assert len(read_all(one)) == size
        return
    with pytest.raises(BadRequest) as caught:
        read_all(one)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


def test_without_a_socket_in_the_environ_both_ends_are_unknown() -> None:
    """Servers other than gunicorn show none."""
    assert exchange().addresses() == (None, None)


def test_an_answer_of_our_own_leaves_the_server_its_name() -> None:
    """It writes a Server field itself: with the configured one there would be two."""
    told: list[tuple[str, list[tuple[str, str]]]] = []
    start: Any = lambda *answer: told.append(answer)  # noqa: E731
    start_answer(start, 502, [("Content-Type", "text/plain"), ("Server", "ours")], 2)
    fields = [("Content-Type", "text/plain"), ("Content-Length", "2")]
    assert told == [("502 Bad Gateway", fields)]
