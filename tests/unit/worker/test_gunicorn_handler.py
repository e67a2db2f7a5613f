"""app.worker.gunicorn_handler: the step from an accepted socket to gunicorn's own handler."""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import ssl as gevent_ssl

from app.tls.failures import HandshakeFailures
from app.worker.admission import Admission
from app.worker.gunicorn_handler import GunicornHandler, seconds_until
from app.worker.net.deadlines import NEVER
from app.worker.net.stream import RawSocket, Stream


class Gunicorn:
    """gunicorn's worker: closes what it is given, as it does."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.handled: list[tuple[Any, Any, int, bool]] = []

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        count, is_arriving = self.admission.count, self.admission.only_arriving()
        self.handled.append((listener, address, count, is_arriving))
        client.close()


def pair() -> tuple[Any, Any]:
    near, far = socket.socketpair()
    return near, RawSocket(fileno=far.detach())


def test_a_plain_connection_is_gunicorn_s_at_once() -> None:
    """Counted while it serves it, and not as one that arrives."""
    admission = Admission()
    worker: Any = Gunicorn(admission)
    near, far = pair()
    with near:
        GunicornHandler(worker, admission, lambda: None, HandshakeFailures()).accepted(
            "listener", far, "address"
        )
        assert near.recv(10) == b""
    assert worker.handled == [("listener", "address", 1, False)]
    assert admission.count == 0


class Failures(HandshakeFailures):
    """What was counted, as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[tuple[str, str]] = []

    def count(self, reason: str, client: str, detail: str = "") -> None:
        self.counted.append((reason, client))


@pytest.mark.parametrize(
    ("said", "counted"),
    [(b"", []), (b"GET / HTTP/1.1\r\n\r\n", [("plain_http", "192.0.2.1")])],
)
def test_a_handshake_is_counted_and_one_that_fails_handed_to_nobody(
    said: bytes, counted: list[tuple[str, str]]
) -> None:
    """gunicorn's own has no time limit: a drain has to know of it. Who only leaves may be a probe."""
    failures = Failures()
    admission = Admission()
    worker: Any = Gunicorn(admission)
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # what it is in a worker
    near, far = pair()
    handler = GunicornHandler(worker, admission, lambda: context, failures)
    greenlet = gevent.spawn(handler.accepted, None, far, ("192.0.2.1", 1000))
    gevent.sleep(0)
    assert (admission.count, admission.only_arriving()) == (1, True)
    near.sendall(said)
    near.close()
    greenlet.join(5)
    assert greenlet.successful()
    assert (worker.handled, admission.count) == ([], 0)
    assert failures.counted == counted


def test_a_drain_waits_for_a_handshake_that_has_begun() -> None:
    """As for those that our loop makes: who has said nothing yet is waited for no longer."""
    admission = Admission()
    worker: Any = Gunicorn(admission)
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    near, far = pair()
    handler = GunicornHandler(worker, admission, lambda: context, HandshakeFailures())
    greenlet = gevent.spawn(handler.accepted, None, far, ("192.0.2.1", 1000))
    with near:
        gevent.sleep(0)
        assert admission.only_arriving()
        near.sendall(bytes((22, 3, 1)))
        with gevent.Timeout(5):
            while admission.only_arriving():
                gevent.sleep(0)
        assert admission.count == 1
    greenlet.join(5)
    assert greenlet.successful()


@pytest.mark.parametrize(("protocol", "is_served_by_it"), [("h2", True), ("http/1.1", False)])
def test_http2_by_its_own_tls_is_gunicorn_s(
    monkeypatch: pytest.MonkeyPatch, protocol: str, is_served_by_it: bool
) -> None:
    """All of that connection; any other is ours, behind its TLS."""
    admission = Admission()
    worker: Any = Gunicorn(admission)
    encrypted = SimpleNamespace(close=lambda: None, selected_alpn_protocol=lambda: protocol)
    handler = GunicornHandler(worker, admission, lambda: None, HandshakeFailures())
    monkeypatch.setattr(handler, "_shake_hands", lambda raw, address, by: raw.close() or encrypted)
    monkeypatch.setattr(
        "app.worker.gunicorn_handler.gunicorn_sock.is_http2_negotiated",
        lambda client: client.selected_alpn_protocol() == "h2",
    )
    near, far = pair()
    with near:
        place = admission.enter()
        stream = handler.secure(Stream(far), place, "listener", "address", NEVER)
    assert (stream is None) is is_served_by_it
    assert len(worker.handled) == is_served_by_it
    assert admission.count == 1, "leaving is the caller's"


def test_time_that_is_over_is_none() -> None:
    """gevent.Timeout takes no negative number: a PROXY header may have used all of it up."""
    assert seconds_until(NEVER) is None
    assert seconds_until(monotonic() - 5) == 0.0
    assert seconds_until(monotonic() + 5) == pytest.approx(5, abs=0.5)
