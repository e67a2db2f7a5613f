"""One health check: a request on a fresh connection, of which the response head is read, or a connect alone.

Runs in the control process, under gevent; must never know the table or thresholds. What the server does
cannot hold it up: one timeout bounds look-up, connect, handshake, request and response head together.

requests is used at the seams that it documents for that: prepared requests, a Session, an adapter. The
ordinary way through it costs over 500 µs a check and has traps, which are closed by not going there:
nothing is taken from .netrc or proxy variables, no cookie is kept, no redirect followed, no body read unless
the check is about it (requests reads that of a 3xx whole), no URL rewritten. The request is built once for
each server.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import gevent
import gevent.socket
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from app.config import HealthCheck, Server
from app.control.health.probe_body import BadBody, SearchTooSlow, is_found, read_body
from app.tls import backends
from app.tls.backends import BackendTrust
from app.wire import proxy_protocol
from app.wire.authority import bracketed
from app.wire.parser import IncompleteError, ParseError, parse_response

USER_AGENT = "load-balancer-health-check"
HEAD_LIMIT = 16 * 1024  # HAProxy's default for any head; nginx takes 4 or 8 KiB from a backend

# Errors of this machine, which say nothing about the server: descriptors, memory or ports run out.
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class Outcome(NamedTuple):
    """Result of one check. ``ok`` is None if the check could not be made for reasons of our own."""

    ok: bool | None
    reason: str
    status: int | None = None
    duration_ms: float = 0.0
    detail: str = ""


class BadHead(Exception):
    """What came back is not the head of an HTTP/1 response."""


class ProbeRequest(requests.PreparedRequest):
    """A request made once and sent at every check: where to, and the head as bytes."""

    def __init__(
        self,
        server: Server,
        check: HealthCheck,
        trust: BackendTrust | None = None,
        send_proxy: str = "off",
    ) -> None:
        super().__init__()
        self.method = check.method
        self.url = server.url
        self.headers = CaseInsensitiveDict(_headers(server, check))
        self.timeout = check.timeout
        self.expected = check.expected_status
        self.is_connect_only = check.type == "tcp"
        self.text = check.body
        self.expression = check.body_regex
        self.address, self.family = _address(server)
        self.host = server.host
        self.trust = trust if check.type == "http" else None  # for https
        self.send_proxy = send_proxy
        lines = [f"{check.method} {server.prefix}{check.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        self.head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def sees_body(self) -> bool:
        """Whether the answer's body has a say."""
        return self.text is not None or self.expression is not None


class ProbeAdapter(BaseAdapter):
    """The transport: connect, send the head, read the response head, close."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        assert isinstance(request, ProbeRequest)
        connection = _connect(request)
        try:
            response = requests.Response()
            response.request = request
            if request.is_connect_only:
                return response
            connection.sendall(request.head)
            response.status_code, headers, rest = _read_head(connection)
            response.headers = CaseInsensitiveDict(headers)
            if request.sees_body:
                response.raw = io.BytesIO(read_body(connection, headers, rest).encode())
            return response
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is kept between two checks."""


class ProbeSession(requests.Session):
    """A session that hands its requests straight to the adapter (Session.send costs 6–8 µs for nothing)."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self._adapter = ProbeAdapter()
        for prefix in ("http://", "https://", "unix:"):
            self.mount(prefix, self._adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        return self._adapter.send(request, **kwargs)


def probe(session: requests.Session, request: ProbeRequest) -> Outcome:
    """Check one server once."""
    started = time.perf_counter()
    status: int | None = None
    reason, detail = "timeout", ""
    with gevent.Timeout(request.timeout, False):
        try:
            response = session.send(request)
            status = response.status_code
            reason = _judge(response, request)
        except (OSError, BadHead, BadBody, SearchTooSlow, UnicodeError) as error:
            reason, detail = _reason(error), _detail(error)
    ok = None if reason == "local_error" else reason == "ok"
    return Outcome(ok, reason, status, (time.perf_counter() - started) * 1000, detail)


def _judge(response: requests.Response, request: ProbeRequest) -> str:
    """What an answer means; where a connect is enough there is none to judge."""
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
    """The slug for what went wrong; the order matters, most of these are kinds of OSError."""
    if isinstance(error, ssl.SSLError):
        return backends.reason(error)
    if isinstance(error, (BadHead, BadBody)):
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
    return "local_error" if getattr(error, "errno", None) in _OURS else "unreachable"


def _detail(error: Exception) -> str:
    return backends.words(error) if isinstance(error, ssl.SSLError) else str(error)


def _headers(server: Server, check: HealthCheck) -> dict[str, str]:
    headers = CaseInsensitiveDict(
        {
            "Host": check.host or _authority(server),
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Connection": "close",
        }
    )
    headers.update(check.headers)
    return dict(headers.items())


def _authority(server: Server) -> str:
    if server.scheme == "unix":
        return "localhost"
    host = bracketed(server.host)
    default = 443 if server.scheme == "https" else 80
    return host if server.port == default else f"{host}:{server.port}"


def _address(server: Server) -> tuple[Any, int | None]:
    """What to connect to, and its family: None for a name, which is looked up at every check."""
    if server.scheme == "unix":
        return server.host, socket.AF_UNIX
    try:
        version = ipaddress.ip_address(server.host.partition("%")[0]).version
    except ValueError:
        return (server.host, server.port), None
    return (server.host, server.port), socket.AF_INET if version == 4 else socket.AF_INET6


def _connect(request: ProbeRequest) -> Any:
    if request.family is None:
        connection = gevent.socket.create_connection(request.address)
    else:
        connection = gevent.socket.socket(request.family, socket.SOCK_STREAM)
    try:
        if request.family is not None:
            connection.connect(request.address)
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


def _read_head(connection: Any) -> tuple[int, dict[str, str], bytes]:
    """The final response's status and headers, and what came behind; 1xx responses are passed over."""
    data = b""
    room = HEAD_LIMIT
    while True:
        try:
            head = parse_response(data) if data else None
        except IncompleteError:
            head = None
        except (ParseError, ValueError) as error:
            raise BadHead(str(error)) from None
        if head is None:
            if room <= 0:
                raise BadHead("response head too large")
            piece = connection.recv(room)
            if not piece:
                raise ConnectionResetError("closed before the end of the response head")
            room -= len(piece)
            data += piece
        elif 100 <= head["status"] < 200 and head["status"] != 101:
            data = data[head["consumed"] :]
        else:
            headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in head["headers"]}
            return head["status"], headers, data[head["consumed"] :]
