"""One request from its head to its access line: pick, send, relay, and the retry loop around them.

Owns what happens between a client's exchange and a backend's answer: the head that a backend gets, when
another attempt is allowed, what a failure looks like to the client, and the line in the log. Runs in
workers. The client's side is an Exchange (app.client's connection, or app.wsgi's environ); sockets,
framing and parsing are below or behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import count
from math import ceil
from time import monotonic
from typing import Any, Protocol

import orjson

from app.config import Config
from app.deadlines import NEVER, Deadline
from app.errors import (
    BackendError,
    BadRequest,
    ClientError,
    NoBackend,
    ProxyError,
    StaleConnection,
)
from app.log import AccessLog
from app.pool import Backend, Pool
from app.splice import SpliceBody, SpliceTo
from app.status import ALLOWED_METHODS, STATUS_TEXT
from app.stream import AnyStream
from app.transport import Adapter, Session
from app.tunnel import Tunnel
from app.upstream.request import ReadBody, UpstreamRequest
from app.upstream.response import UpstreamResponse
from app.wire.chunked import encode_chunk, last_chunk
from app.wire.forwarded import VIA, client_address, trust_in, trusted_lines, trusted_request_id
from app.wire.request import CHUNKED, RequestHead
from app.wire.response import ResponseHead
from app.wire.upgrade import offer

# RFC 9110 §9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Exchange(Protocol):
    """The client's side of one request.

    ``body`` is what of the request body is already here (decoded), ``read_body`` gives the rest, None if
    there is none. ``start`` sends the response head, ``first`` with it; ``write`` and ``finish`` the rest;
    ``abort`` breaks the connection so that a cut response never looks whole. ``switch`` sends a 101 and gives
    the stream for a tunnel, with the bytes that came behind the request. They raise ClientGone.
    ``failure`` is what is wrong with the part of the body that is here. ``bytes_in`` and ``bytes_out`` count
    body bytes. ``forwarded`` are the connection's prebuilt lines.
    """

    head: RequestHead
    peer: str
    scheme: str
    is_trusted: bool
    forwarded: bytes
    deadline: Deadline
    body: bytes
    read_body: ReadBody | None
    splice_body: SpliceBody | None
    failure: ProxyError | None
    bytes_in: int
    bytes_out: int

    @property
    def is_begun(self) -> bool:
        """Whether the head of a final response has been sent."""

    def start(
        self, head: ResponseHead, first: bytes, complete: bool, trailers: list[tuple[bytes, bytes]]
    ) -> None:
        """Send the head and the first piece of the body."""

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""

    def splice(self, splice_to: SpliceTo) -> bool:
        """Have the body moved past us, where the client's side is made for it; False if not."""

    def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """End the body."""

    def interim(self, head: ResponseHead) -> None:
        """Send an interim (1xx) response."""

    def answer(self, status: int, lines: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a response of our own."""

    def switch(self, head: ResponseHead) -> tuple[AnyStream, bytes]:
        """Send the 101 and give the connection away."""

    def abort(self) -> None:
        """Cut the connection."""

    def request_trailers(self) -> list[tuple[bytes, bytes]]:
        """Trailer fields of the request body, known after its end."""


class Proxy:
    """Forwards requests to the backends of one pool, under one configuration."""

    def __init__(
        self, config: Config, pool: Pool, session: Session, access_log: AccessLog | None
    ) -> None:
        self.pool = pool
        self.session = session
        self.is_trusted = trust_in(config.trusted_proxies)
        self._attempts = max(1, config.retries.attempts)
        self._retry_statuses = frozenset(config.retries.statuses)
        self._connect_timeout = config.timeouts.connect
        self._read_timeout = config.timeouts.read
        self._total_timeout = config.timeouts.total
        self._tunnel_timeout = config.timeouts.tunnel
        self._upgrades = frozenset(name.encode("ascii") for name in config.upgrade)
        self.body_limit = config.limits.body
        check = config.health_check
        self._retry_after = str(max(1, ceil(check.interval))) if check is not None else "1"
        self._log: Callable[[dict[str, Any]], None] | None = (
            access_log.write if access_log is not None else None
        )
        # 64 random bits for the worker, 64 for the request: unique without asking the kernel each time.
        self._id_prefix = os.urandom(8).hex()
        self._id_count = count(int.from_bytes(os.urandom(4), "big"))

    def handle(self, exchange: Exchange) -> None:
        """Forward one request and answer it, whatever happens. Never raises a ProxyError."""
        started = monotonic()
        head = exchange.head
        request_id = f"{self._id_prefix}{next(self._id_count):016x}"
        if exchange.is_trusted and (given := trusted_request_id(head)) is not None:
            request_id = given.decode("ascii")
        attempts: list[dict[str, Any]] = []
        status, reason = 0, None
        try:
            if head.length:
                self._check_body(exchange)
            status = self._forward(exchange, request_id, started, attempts)
            if status == 101:
                reason = attempts[-1]["reason"]
        except ProxyError as error:
            reason = error.reason
            status = self._fail(exchange, error, request_id, attempts)
        if self._log is not None:
            self._log_access(exchange, request_id, started, status, reason, attempts)

    def _check_body(self, exchange: Exchange) -> None:
        """Refuse a body for what is known of it before anything was sent."""
        if exchange.failure is not None:
            raise exchange.failure
        if 0 < self.body_limit < exchange.head.length:
            raise BadRequest("body over limits.body", status=413, reason="body_too_large")

    def refuse(self, peer: str, error: ProxyError, started: float) -> bytes:
        """Log a request whose head could not be read; the body of its answer."""
        request_id = f"{self._id_prefix}{next(self._id_count):016x}"
        if self._log is not None:
            self._log(_record(request_id, peer, started, error))
        return _error_body(error, request_id, is_text=False)

    # -- attempts ----------------------------------------------------------------------------------

    def _forward(
        self, exchange: Exchange, request_id: str, started: float, attempts: list[dict[str, Any]]
    ) -> int:
        """Attempt until one backend has answered, then relay; the status sent. Raises ProxyError."""
        expires_at = started + self._total_timeout if self._total_timeout else NEVER
        cells = self.pool.cells
        tried: tuple[Backend, ...] = ()
        last: BackendError | None = None
        other: Backend | None = None
        met_stale = False
        while True:
            try:
                backend = other or self.pool.pick(tried, exchange)
                other = None
            except NoBackend:
                if last is not None:  # what the backend did says more than that there is no other
                    raise last from None
                raise
            request = self._request(exchange, backend, request_id, expires_at)
            attempt: dict[str, Any] = {
                "server": backend.name,
                "connect_ms": None,
                "first_byte_ms": None,
                "status": None,
                "reason": None,
            }
            attempts.append(attempt)
            cells[backend.in_flight] += 1
            cells[backend.requests] += 1
            sent_at = monotonic()
            try:
                response = self.session.send(request)
                if request.connect_seconds is not None:
                    attempt["connect_ms"] = int(request.connect_seconds * 1e6) / 1e3
                seconds = response.first_byte_at - sent_at
                attempt["first_byte_ms"] = int(seconds * 1e6) / 1e3
                attempt["status"] = response.head.status
                if response.head.status == 101:
                    if backend.is_watched:
                        self.pool.answered(backend, 101, seconds)
                    attempt["reason"] = self._tunnel(exchange, response)
                elif (
                    response.head.status in self._retry_statuses
                    and self._may_repeat(exchange, request, len(attempts) - met_stale, expires_at)
                    and (other := self._another((*tried, backend), exchange)) is not None
                ):
                    response.close()
                    tried += (backend,)
                    self.pool.answered(backend, response.head.status, seconds)
                    continue
                else:
                    self._relay(exchange, response)
                    if backend.is_watched or response.head.status >= 500:
                        self.pool.answered(backend, response.head.status, seconds)
                return response.head.status  # type: ignore[no-any-return]
            except BackendError as error:
                if request.connect_seconds is not None:
                    attempt["connect_ms"] = int(request.connect_seconds * 1e6) / 1e3
                attempt["reason"] = error.reason
                self.pool.failed(backend, error)
                is_stale = isinstance(error, StaleConnection)
                met_stale = met_stale or is_stale
                # One stale connection is free: where its backend has died, the next attempt may be
                # refused there too, and another backend must still get its chance.
                made = len(attempts) - met_stale
                if not self._may_retry(exchange, request, error, made, expires_at):
                    raise
                last = error
                # A stale connection says nothing about the backend: the next attempt may go there.
                if not is_stale:
                    tried += (backend,)
            except ProxyError as error:
                attempt["reason"] = error.reason
                self.pool.failed(backend, error)
                raise
            finally:
                cells[backend.in_flight] -= 1

    def _may_retry(
        self,
        exchange: Exchange,
        request: UpstreamRequest,
        error: BackendError,
        made: int,
        expires_at: float,
    ) -> bool:
        """Whether another attempt is safe, by what left the building.

        Nothing taken by the backend's kernel: always safe. Otherwise it may have been acted upon, so the
        method must be idempotent. A body of which a part is gone from our memory cannot be sent again.
        """
        if error.sent:
            return self._may_repeat(exchange, request, made, expires_at)
        return made < self._attempts and monotonic() < expires_at and not request.began_body

    def _may_repeat(
        self, exchange: Exchange, request: UpstreamRequest, made: int, expires_at: float
    ) -> bool:
        """Whether a request that a backend may have acted upon can be sent to another."""
        return (
            exchange.head.method in IDEMPOTENT
            and made < self._attempts
            and monotonic() < expires_at
            and not request.began_body
        )

    def _another(self, tried: tuple[Backend, ...], exchange: Exchange) -> Backend | None:
        """A backend that was not tried, if there is one: an answer is not given up for none."""
        try:
            return self.pool.pick(tried, exchange)
        except NoBackend:
            return None

    def _request(
        self, exchange: Exchange, backend: Backend, request_id: str, expires_at: float
    ) -> UpstreamRequest:
        """The request as this backend gets it, rebuilt from its parsed form."""
        head = exchange.head
        target = head.target if not backend.prefix else _prefixed(backend.prefix, head.target)
        body, read_body = exchange.body, exchange.read_body
        if exchange.is_trusted:
            forwarded = trusted_lines(head, exchange.peer, exchange.scheme)
        else:
            forwarded = exchange.forwarded + head.host + b"\r\n"  # ends in "X-Forwarded-Host: "
        pieces = [head.method, b" ", target, b" HTTP/1.1\r\n"]
        if not head.host:
            pieces.append(b"Host: %b\r\n" % backend.authority)
        pieces += head.lines
        pieces += (
            head.framing,
            forwarded,
            b"X-Request-Id: ",
            request_id.encode(),
            b"\r\n",
            VIA[head.minor],
        )
        offered = b""
        if head.upgrade is not None and type(backend.adapter) is Adapter:
            offered = offer(head.upgrade, self._upgrades)
        if offered:
            pieces += (b"Connection: Upgrade\r\nUpgrade: ", offered, b"\r\n")
        elif head.te_trailers:
            pieces.append(b"TE: trailers\r\nConnection: TE\r\n")
        if head.length == CHUNKED:
            if head.trailer is not None:
                pieces += (b"Trailer: ", head.trailer, b"\r\n")
            if read_body is None:
                end = last_chunk(exchange.request_trailers())
                body = encode_chunk(body) + end if body else end
            elif body:
                body = encode_chunk(body)
        expects_continue = head.expect_continue and read_body is not None
        pieces.append(b"Expect: 100-continue\r\n\r\n" if expects_continue else b"\r\n")
        request = UpstreamRequest(
            head.method,
            b"".join(pieces),
            body,
            backend.connections,
            exchange.deadline,
            self._connect_timeout,
            self._read_timeout,
        )
        if offered:
            request.upgrade = offered
        request.adapter = backend.adapter
        request.base_url = backend.base_url
        if expires_at != NEVER:
            request.expires_at = expires_at
        if read_body is not None:
            request.read_body = read_body
            request.splice_body = exchange.splice_body
            request.is_chunked = head.length == CHUNKED
            request.trailers = exchange.request_trailers
            request.expects_continue = expects_continue
        if head.minor == 1:
            request.on_interim = exchange.interim
        return request

    def _relay(self, exchange: Exchange, response: Any) -> None:
        """Pass the answer on as it comes. Raises Aborted or ClientGone once the head is out."""
        try:
            complete = response.complete
            exchange.start(response.head, response.first, complete, response.trailers)
            if complete:
                return
            if response.splices and exchange.splice(response.splice_to):
                return
            while piece := response.read():
                exchange.write(piece)
            exchange.finish(response.trailers)
        finally:
            if not response.complete:
                response.close()

    def _tunnel(self, exchange: Exchange, response: UpstreamResponse) -> str | None:
        """Switch to the other protocol and move its bytes until the end; why it ended. Raises ClientGone."""
        try:
            client, first = exchange.switch(response.head)
            tunnel = Tunnel(client, response.stream, exchange.deadline, self._tunnel_timeout)
            try:
                tunnel.run(first, response.first)
            finally:
                exchange.bytes_in += tunnel.bytes_in
                exchange.bytes_out += tunnel.bytes_out
            return tunnel.reason
        finally:
            response.close()

    # -- failures ----------------------------------------------------------------------------------

    def _fail(
        self, exchange: Exchange, error: ProxyError, request_id: str, attempts: list[dict[str, Any]]
    ) -> int:
        """Tell the client what its status is; the status for the log. A begun response is cut."""
        if exchange.is_begun:
            exchange.abort()
            return int(attempts[-1]["status"])
        if error.status == 499:
            exchange.abort()
            return 499
        is_text = _prefers_text(exchange.head.accept)
        lines = [("Content-Type", "text/plain; charset=utf-8" if is_text else "application/json")]
        if error.status == 503:
            lines.append(("Retry-After", self._retry_after))
        elif error.status == 405:
            lines.append(("Allow", ALLOWED_METHODS.decode()))
        try:
            exchange.answer(error.status, lines, _error_body(error, request_id, is_text))
        except ClientError:
            exchange.abort()
        return error.status

    # -- the log -----------------------------------------------------------------------------------

    def _log_access(
        self,
        exchange: Exchange,
        request_id: str,
        started: float,
        status: int,
        reason: str | None,
        attempts: list[dict[str, Any]],
    ) -> None:
        head = exchange.head
        last = attempts[-1] if attempts else None
        user_agent = head.user_agent
        client_ip = exchange.peer
        if exchange.is_trusted:
            client_ip = client_address(head.forwarded_for, client_ip, self.is_trusted)
        assert self._log is not None
        self._log(
            {
                "request_id": request_id,
                "client_ip": client_ip,
                "method": head.method.decode("latin-1"),
                "host": head.host.decode("latin-1") or None,
                "target": head.target.decode("latin-1"),
                "protocol": "HTTP/1.1" if head.minor else "HTTP/1.0",
                "status": status,
                "backend": last["server"] if last else None,
                "attempts": attempts,
                "bytes_in": exchange.bytes_in,
                "bytes_out": exchange.bytes_out,
                "duration_ms": int((monotonic() - started) * 1e6) / 1e3,
                "connect_ms": last["connect_ms"] if last else None,
                "first_byte_ms": last["first_byte_ms"] if last else None,
                "reason": reason,
                "user_agent": user_agent.decode("latin-1") if user_agent is not None else None,
            }
        )


def _record(request_id: str, peer: str, started: float, error: ProxyError) -> dict[str, Any]:
    """The access record of a request whose head could not be read."""
    return {
        "request_id": request_id,
        "client_ip": peer,
        "method": None,
        "host": None,
        "target": None,
        "protocol": None,
        "status": error.status,
        "backend": None,
        "attempts": [],
        "bytes_in": 0,
        "bytes_out": 0,
        "duration_ms": int((monotonic() - started) * 1e6) / 1e3,
        "connect_ms": None,
        "first_byte_ms": None,
        "reason": error.reason,
        "user_agent": None,
    }


def _prefixed(prefix: bytes, target: bytes) -> bytes:
    return target if target == b"*" else prefix + target


def _prefers_text(accept: bytes | None) -> bool:
    """JSON unless the client names text and not JSON: whoever reads our errors is mostly a program."""
    return accept is not None and b"text/" in accept and b"json" not in accept


def _error_body(error: ProxyError, request_id: str, is_text: bool) -> bytes:
    """The body of an error of our own: what and why by name, nothing of the inside."""
    text = STATUS_TEXT.get(error.status, "Error")
    if is_text:
        return f"{error.status} {text}\nreason: {error.reason}\nrequest id: {request_id}\n".encode()
    return (
        orjson.dumps(
            {
                "status": error.status,
                "error": text,
                "reason": error.reason,
                "request_id": request_id,
            }
        )
        + b"\n"
    )
