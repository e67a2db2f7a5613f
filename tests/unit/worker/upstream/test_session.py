"""The session: which adapter carries a request, and what becomes of what a foreign one raises."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest
import requests
from requests import exceptions
from requests.adapters import BaseAdapter

from app.errors import BackendReset, BadRequest, BadResponse, ConnectTimeout, ResponseTimeout
from app.worker.net.deadlines import NEVER, TICK
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.session import Session


class Mounted(BaseAdapter):
    """A user's adapter that raises, and remembers how it was called."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure
        self.options: dict[str, Any] = {}

    def send(self, request: Any, **options: Any) -> requests.Response:
        self.options = options
        raise self.failure

    def close(self) -> None:
        pass


def request_by(
    adapter: Any, body: bytes = b"", connect: float = 3.0, read: float = NEVER
) -> UpstreamRequest:
    unused: Any = None
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    request = UpstreamRequest(b"GET", head, body, unused, unused, connect, read)
    request.adapter = adapter
    return request


@pytest.mark.parametrize(
    ("raised", "meaning"),
    [
        (
            exceptions.ConnectTimeout,
            ConnectTimeout,
        ),  # also a ConnectionError: the nearer one counts
        (exceptions.ReadTimeout, ResponseTimeout),
        (exceptions.Timeout, ResponseTimeout),
        (exceptions.ConnectionError, BackendReset),
        (exceptions.SSLError, BackendReset),
        (exceptions.ProxyError, BackendReset),
        (exceptions.ChunkedEncodingError, BadResponse),
        (exceptions.InvalidURL, BadResponse),
        (exceptions.RequestException, BadResponse),
    ],
)
def test_what_requests_raises_is_an_error_of_ours(raised: Any, meaning: type[Exception]) -> None:
    """With its words, and itself as the cause."""
    failure = raised("in its words")
    with pytest.raises(meaning, match="in its words") as caught:
        Session().send(request_by(Mounted(failure)))
    assert type(caught.value) is meaning
    assert caught.value.__cause__ is failure


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    """It is answered further up, with its traceback in the log."""
    with pytest.raises(ZeroDivisionError):
        Session().send(request_by(Mounted(ZeroDivisionError())))


def test_it_is_called_as_requests_calls_it() -> None:
    """For no limit requests says None; urllib3 would give infinity to the socket, which refuses it."""
    adapter = Mounted(exceptions.Timeout())
    with pytest.raises(ResponseTimeout):
        Session().send(request_by(adapter, connect=NEVER, read=9.0))
    assert adapter.options == {
        "stream": True,
        "timeout": (None, 9.0),
        "verify": True,
        "cert": None,
        "proxies": {},
    }


def test_it_is_given_no_longer_than_what_is_left_of_the_total() -> None:
    """For either; a tick at least, since zero is no timeout to many."""
    adapter = Mounted(exceptions.Timeout())
    for left, timeouts in ((4.0, (3.0, 4.0)), (-1.0, (TICK, TICK))):
        request = request_by(adapter, connect=3.0, read=9.0)
        request.expires_at = monotonic() + left
        with pytest.raises(ResponseTimeout):
            Session().send(request)
        assert adapter.options["timeout"] == pytest.approx(timeouts, abs=1)


def test_a_body_that_was_not_announced_reaches_no_adapter() -> None:
    adapter = Mounted(exceptions.Timeout())
    with pytest.raises(BadRequest):
        Session().send(request_by(adapter, body=b"x"))
    assert adapter.options == {}


def test_the_adapter_of_a_server_is_that_of_the_longest_prefix_at_once() -> None:
    """Who has asked before is told to ask again."""
    session = Session()
    told: list[bool] = []
    session.on_mount = lambda: told.append(True)
    mine = Mounted(exceptions.Timeout())
    session.mount("http://10.0.0.1:8001", mine)
    assert told == [True]
    assert session.get_adapter("http://10.0.0.1:8001/") is mine
    assert isinstance(session.get_adapter("http://10.0.0.2:8001/"), Adapter)
    assert isinstance(session.get_adapter("unix:/run/app.sock"), Adapter)


def test_nothing_of_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert not Session().trust_env
