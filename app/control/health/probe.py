"""One health check: a request on a fresh connection and what its answer says, or a connect alone.

Runs in the control process, under gevent; must never know the table or thresholds. What the server does
cannot hold it up: one timeout bounds connect, handshake, request and response together. It looks no name up:
its place says where the server is, and is told what came of it there (app.control.names). The head of the
answer is read by the reader that the workers use: what a request would be answered with 502 for fails.

requests is used at the seams that it documents for that: prepared requests, a Session, an adapter. The
ordinary way through it costs over 500 µs a check and has traps, which are closed by not going there:
nothing is taken from .netrc or proxy variables, no cookie is kept, no redirect followed, no body read unless
the check is about it (requests reads that of a 3xx whole), no URL rewritten. The request is built once for
each server.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import gevent
import gevent.socket
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from app.config import HealthCheck, Server
from app.connecting import happy_eyeballs
from app.connecting.happy_eyeballs import Endpoint
from app.control.health.probe_body import BadBody, SearchTooSlow, is_found, read_body
from app.control.names import Place
from app.errors import BadResponse
from app.shared import faults
from app.tls import backends
from app.tls.backends import BackendTrust
from app.wire import proxy_protocol
from app.wire.lenient import ReadHead, reader
from app.wire.response import Interims, ResponseHead

USER_AGENT = "load-balancer-health-check"
READ_SIZE = 16 * 1024  # most heads come whole
# A timeout is late by milliseconds. Later, this process itself has been asleep (a suspended machine, a
# stopped group), and what it has seen says nothing about the server.
LATE_MS = 1000.0


class CheckResult(NamedTuple):
    """Result of one check. ``ok`` is None if the check could not be made for reasons of our own."""

    ok: bool | None
    reason: str
    status: int | None = None
    duration_ms: float = 0.0
    detail: str = ""


class ProbeRequest(requests.PreparedRequest):
    """How one server is checked: what is sent to it, made once, and what its answer must be."""

    def __init__(
        self,
        server: Server,
        place: Place,
        check: HealthCheck,
        trust: BackendTrust | None,
        send_proxy: str,
        mended: Collection[str],
    ) -> None:
        """``mended``: the faults of heads that the configuration forgives (mend_responses)."""
        super().__init__()
        self.method = check.method
        self.raw_method = check.method.encode("ascii")
        self.read_head: ReadHead = reader(mended)
        self.url = server.url
        self.headers = CaseInsensitiveDict(_headers(server, check))
        self.timeout = check.timeout
        self.expected = check.expected_status
        self.is_connect_only = check.type == "tcp"
        self.text = check.body
        self.expression = check.body_regex
        self.place = place
        self.reached: Endpoint | None = None  # where the last check has connected
        self.host = server.host
        self.trust = trust if check.type == "http" else None  # for https
        self.send_proxy = send_proxy
        lines = [f"{check.method} {server.prefix}{check.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        self.head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def sees_body(self) -> bool:
        """Whether the check depends on the answer's body."""
        return self.text is not None or self.expression is not None


class ProbeAdapter(BaseAdapter):
    """How a check is made: connect, send the request, read what is needed of the answer, close."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer, without a status where a connect was all. Raises OSError, BadResponse or BadBody.

        Nothing but the request is looked at: it knows its timeout, which ``probe`` holds, and whom to trust.
        """
        assert isinstance(request, ProbeRequest)
        connection = _connect(request)
        try:
            response = requests.Response()
            response.request = request
            if request.is_connect_only:
                return response
            connection.sendall(request.head)
            head, rest = _read_head(connection, request)
            response.status_code = head.status
            response.headers = CaseInsensitiveDict(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields
            )
            if request.sees_body:
                response.raw = io.BytesIO(read_body(connection, head.length, rest).encode())
            return response
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing to do: no connection outlives its check."""


class ProbeSession(requests.Session):
    """A session that hands a request to its adapter at once (Session.send takes 6–8 µs on top)."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self._adapter = ProbeAdapter()
        for prefix in ("http://", "https://", "unix:"):
            self.mount(prefix, self._adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        return self._adapter.send(request, **kwargs)


def probe(session: requests.Session, request: ProbeRequest) -> CheckResult:
    """Check one server once, again if we slept. Never raises for what the server does or fails to do."""
    result = _ask(session, request)
    if result.duration_ms > request.timeout * 1000 + LATE_MS:
        result = _ask(session, request)
    if result.ok is False:
        request.place.failed(request.reached)
    elif result.ok and request.reached is not None:
        request.place.passed(request.reached)
    return result


def _ask(session: requests.Session, request: ProbeRequest) -> CheckResult:
    started = time.perf_counter()
    status: int | None = None
    reason, detail = "timeout", ""
    with gevent.Timeout(request.timeout, False):
        try:
            response = session.send(request)
            status = response.status_code
            reason = _judge(response, request)
        except (OSError, BadResponse, BadBody, SearchTooSlow, UnicodeError) as error:
            reason, detail = _reason(error), _detail(error)
    ok = None if reason == "local_error" else reason == "ok"
    return CheckResult(ok, reason, status, (time.perf_counter() - started) * 1000, detail)


def _judge(response: requests.Response, request: ProbeRequest) -> str:
    """The slug for what an answer means: "ok", or what is wrong with it."""
    status = response.status_code
    if request.is_connect_only:
        return "ok"
    if not any(low <= status <= high for low, high in request.expected):
        return f"status_{status}"
    if request.sees_body:
        body = response.content.decode()
        is_missing = request.text is not None and request.text not in body
        if is_missing or (request.expression and not is_found(request.expression, body)):
            return "body_mismatch"
    return "ok"


def _reason(error: Exception) -> str:
    """The slug for a check that failed without an answer. The order matters: most are kinds of OSError."""
    if isinstance(error, ssl.SSLError):
        return backends.reason(error)
    if isinstance(error, (BadResponse, BadBody)):
        return "bad_response"
    if isinstance(error, SearchTooSlow):
        return "regex_too_slow"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "dns_error"
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    if isinstance(error, ConnectionError):
        return "reset"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "local_error" if faults.is_ours(error) else "unreachable"


def _detail(error: Exception) -> str:
    return backends.words(error) if isinstance(error, ssl.SSLError) else str(error)


def _headers(server: Server, check: HealthCheck) -> dict[str, str]:
    """The fields of the request: ours, unless the configuration has others of the same name."""
    headers = CaseInsensitiveDict(
        {
            "Host": check.host or server.authority,
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Connection": "close",
        }
    )
    headers.update(check.headers)
    return dict(headers.items())


def _connect(request: ProbeRequest) -> Any:
    """A new connection to the server, announced (send_proxy) and encrypted (https) as those of requests."""
    request.reached = None
    raw, request.reached = happy_eyeballs.connect(request.place.endpoints(), request.timeout)
    connection = gevent.socket.socket(raw.family, raw.type, fileno=raw.detach())
    try:
        if request.send_proxy != "off":
            source, target = connection.getsockname(), connection.getpeername()
            ends = proxy_protocol.endpoint(source), proxy_protocol.endpoint(target)
            connection.sendall(proxy_protocol.probe_header(request.send_proxy, *ends))
        if request.trust is None:
            return connection
        context = request.trust.context(time.monotonic())
        return context.wrap_socket(connection, server_hostname=request.trust.name(request.host))
    except BaseException:
        connection.close()
        raise


def _read_head(connection: Any, request: ProbeRequest) -> tuple[ResponseHead, bytes]:
    """The head of the final answer and what came behind it; 1xx responses are passed over.

    Read as the answer to a request is (app.worker.upstream): a server whose heads we refuse must not pass.
    Raises BadResponse, and ConnectionResetError at an early end.
    """
    data = b""
    seen = 0
    interims: Interims | None = None
    while True:
        head = request.read_head(data, request.raw_method, seen)
        if head is None:
            seen = len(data)
            piece = connection.recv(READ_SIZE)
            if not piece:
                raise ConnectionResetError("closed before the end of the response head")
            data += piece
        elif head.status >= 200 or head.status == 101:
            return head, data[head.consumed :]
        else:
            now = time.monotonic()
            interims = interims or Interims(now)
            interims.count(head, now)
            data, seen = data[head.consumed :], 0
