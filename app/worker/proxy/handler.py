"""One request from its head to its access line: pick, send, relay, and the retry loop around them.

Owns what happens between a client's exchange and a backend's answer: attempt after attempt, what a failure
looks like to the client, and the line in the log. Runs in workers. The client's side is an Exchange
(app.worker.client.http1's connection, or app.worker.client.wsgi's environ); what a backend gets is
app.worker.proxy.to_backend's affair, whether another attempt is allowed app.worker.proxy.retry_rules';
sockets and parsing are below.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Final

from app.config import Config
from app.errors import (
    BackendError,
    BadRequest,
    ClientError,
    InternalError,
    LoopDetected,
    ProxyError,
)
from app.shared.table import INSTANCE
from app.telemetry import log
from app.telemetry.log import AccessLog
from app.telemetry.redact import redactor
from app.wire import fields, via
from app.wire.forwarded import Trust, is_https, trusted_request_id
from app.wire.response import ResponseHead
from app.wire.status import ALLOWED_METHODS
from app.worker.balance.backend import Backend
from app.worker.balance.pool import Pool
from app.worker.balance.sticky import StickyCookie
from app.worker.net.deadlines import NEVER
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.hedging import Hedger, Lap, Race
from app.worker.proxy.local_reply import error_body, prefers_text, server_header
from app.worker.proxy.replay import Replay, replay_of
from app.worker.proxy.retry import HeldResponse, Retrier, RetryState
from app.worker.proxy.to_backend import ToBackend
from app.worker.proxy.tunnel import Tunnel
from app.worker.upstream.adapter import Session
from app.worker.upstream.request import UpstreamRequest
from app.worker.upstream.response import UpstreamResponse

_SERVER: Final = frozenset((b"server",))

_PROTOCOLS: Final = ("HTTP/1.0", "HTTP/1.1", "HTTP/2.0")  # the last as nginx logs it


class Proxy:
    """Forwards requests to the backends of one pool, under one configuration."""

    def __init__(
        self, config: Config, pool: Pool, session: Session, access_log: AccessLog | None
    ) -> None:
        self.pool = pool
        self.session = session
        trust = Trust(config.trusted_proxies, config.forwarded)
        self.is_trusted = trust.is_trusted
        self._retrier = Retrier(config, pool)
        self.may_move = self._retrier.may_move
        self._per_try = config.retries.per_try_timeout > 0
        after = config.retries.hedge_after
        self._hedger = Hedger(after, pool, session, self._retrier) if after else None
        self._retry_statuses = frozenset(config.retries.statuses)
        self._find_client = trust.client_of
        self._mark = via.mark(pool.table.cells[INSTANCE])
        self._request = ToBackend(config, trust, self._mark).request
        self._total_timeout = config.timeouts.total
        self._tunnel_timeout = config.timeouts.tunnel
        self.body_limit = config.limits.body
        self._log: Callable[[dict[str, Any]], None] | None = (
            access_log.write if access_log is not None else None
        )
        self._redact = redactor(config.logging.redact)
        self._server = server_header(config.server_header)
        self.server_line = b"".join(self._server or ())  # of our own answers, and as a field
        self.server_field = [("Server", self._server[2].decode())] if self._server else []
        # 64 random bits for the worker, 64 for the request: unique without asking the kernel each time.
        self._id_prefix = os.urandom(8).hex()
        first_id = int.from_bytes(os.urandom(4), "big")
        self._id_count = count(first_id)
        self._not_asked = first_id  # what the count would show had nobody asked

    def handle(self, exchange: Exchange) -> None:
        """Forward one request and answer it, whatever happens. Never raises a ProxyError."""
        started = monotonic()
        head = exchange.head
        request_id = f"{self._id_prefix}{next(self._id_count):016x}"
        attempts: list[dict[str, Any]] = []
        answer: dict[str, Any] | None = None
        reason: str | None
        try:
            try:
                if exchange.is_trusted and (given := trusted_request_id(head)) is not None:
                    request_id = given.decode("ascii")
                if self.pool.sticky is not None:
                    head.sticky = self.pool.sticky.take(head)
                if head.length:
                    self._check_body(exchange)
                if head.via is not None:
                    self._check_via(exchange)
                if head.max_forwards == 0:
                    status, reason = self._answer_options(exchange), "max_forwards"
                else:
                    answer = self._forward(exchange, request_id, started, attempts)
                    status, reason = answer["status"], answer["reason"]
            except ProxyError as error:
                answer = attempts[-1] if attempts else None
                status, reason = self._fail(exchange, error, request_id), error.reason
        except Exception as error:  # noqa: BLE001 - whatever it is, there is an answer and a line
            answer = attempts[-1] if attempts else None
            status = self._fail_unforeseen(exchange, error, request_id, answer)
            reason = InternalError.reason
        if self._log is not None:
            self._log_access(exchange, request_id, started, status, reason, attempts, answer)

    def drop(self, exchange: Exchange, error: ProxyError) -> None:
        """Log a request that was read and is not handled: there is no client for its answer."""
        if self._log is not None:
            request_id = f"{self._id_prefix}{next(self._id_count):016x}"
            status, reason = error.status, error.reason
            self._log_access(exchange, request_id, monotonic(), status, reason, [], None)

    def tick(self, now: float) -> None:
        """Ten times a second."""
        # The count of ids is the count of requests, which so costs no request anything.
        self._retrier.tick(now, next(self._id_count) - self._not_asked)
        self._not_asked += 1
        if self._hedger is not None:
            self._hedger.tick()

    def _check_body(self, exchange: Exchange) -> None:
        """Refuse a body for what is known of it before anything was sent."""
        if exchange.failure is not None:
            raise exchange.failure
        if 0 < self.body_limit < exchange.head.length:
            raise BadRequest("body over limits.body", status=413, reason="body_too_large")

    def _check_via(self, exchange: Exchange) -> None:
        """Find a loop, whoever sends the field; LoopDetected. Then reduce it to what is passed on."""
        head = exchange.head
        assert head.via is not None
        if via.is_loop(head.via, self._mark):
            raise LoopDetected("our own mark in Via")
        if not exchange.is_trusted:
            head.via = b", ".join(via.marks(head.via))

    def _answer_options(self, exchange: Exchange) -> int:
        """OPTIONS that must go no further is answered by who has it (RFC 9110 §7.6.2)."""
        exchange.answer(200, [("Allow", ALLOWED_METHODS.decode())], b"")
        return 200

    def refuse(self, peer: str, error: ProxyError, started: float) -> bytes:
        """Log a request whose head could not be read; the body of its answer."""
        request_id = f"{self._id_prefix}{next(self._id_count):016x}"
        if self._log is not None:
            self._log(_record(request_id, peer, started, error))
        return error_body(error, request_id, is_text=False)

    # -- attempts ----------------------------------------------------------------------------------

    def _forward(
        self, exchange: Exchange, request_id: str, started: float, attempts: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Pick, attempt, and again while the outcome asks for it; the attempt whose answer was sent."""
        cells = self.pool.cells
        expires_at = started + self._total_timeout if self._total_timeout else NEVER
        retrier, hedger = self._retrier, self._hedger
        course = RetryState(expires_at) if self._per_try or hedger is not None else None
        race: Race | None = None
        replay: Replay | None = None
        if exchange.read_body is not None and retrier.buffer:
            replay = replay_of(exchange, retrier.buffer)
        backend = self.pool.pick((), exchange)
        try:
            while True:
                attempt: dict[str, Any] = {
                    "server": backend.name,
                    "connect_ms": None,
                    "first_byte_ms": None,
                    "status": None,
                    "reason": None,
                }
                attempts.append(attempt)
                outcome: BackendError | HeldResponse
                cells[backend.requests] += 1
                has_place = True
                request: UpstreamRequest | None = None
                try:
                    request = self._request(exchange, backend, request_id, expires_at, replay)
                    sent_at = monotonic()
                    if course is not None:
                        retrier.bound(request, course, exchange, sent_at)
                    if (
                        hedger is None
                        or course is None
                        or not hedger.applies(exchange, course, request)
                    ):
                        response = self.session.send(request)
                    else:
                        lap = Lap(backend, request, attempt, sent_at)
                        again = partial(
                            self._request, exchange, request_id=request_id, expires_at=expires_at
                        )
                        race = hedger.race(exchange, course, attempts, lap, again)
                        try:
                            response = race.run()
                        finally:
                            backend, request, attempt, sent_at = race.lap
                    if response.complete:
                        # The backend has done its part: how its answer is taken costs no place there.
                        has_place = False
                        self.pool.release(backend)
                    if request.connect_seconds is not None:
                        attempt["connect_ms"] = int(request.connect_seconds * 1e6) / 1e3
                    seconds = response.first_byte_at - sent_at
                    attempt["first_byte_ms"] = int(seconds * 1e6) / 1e3
                    attempt["status"] = status = response.head.status
                    if self._per_try:
                        request.expires_at = expires_at
                    # RFC 8470 §5.2: a 425 to a request that came early is the client's to act on.
                    if status not in self._retry_statuses or (
                        status == 425 and exchange.head.early_data
                    ):
                        if replay is not None:
                            replay.release()
                        self._deliver(exchange, backend, response, attempt, seconds)
                        return attempt if race is None else race.mark(attempt)
                    self.pool.answered(backend, status, seconds)
                    outcome = HeldResponse(backend, response, attempt, self.pool)
                except ProxyError as error:
                    if request is not None and request.connect_seconds is not None:
                        attempt["connect_ms"] = int(request.connect_seconds * 1e6) / 1e3
                    attempt["reason"] = error.reason
                    self.pool.failed(backend, error)
                    if request is None or not isinstance(error, BackendError):
                        raise
                    outcome = error
                except Exception:
                    attempt["reason"] = InternalError.reason
                    raise
                finally:
                    if has_place:
                        self.pool.release(backend)
                course = course or RetryState(expires_at)
                course.take(backend, outcome, len(attempts))
                other, why_not = retrier.next(course, exchange, request, replay)
                if other is None:
                    attempt["not_retried"] = why_not
                    return self._end(course, exchange)
                backend = other
        finally:
            if course is not None:
                course.drop()

    def _end(self, course: RetryState, exchange: Exchange) -> dict[str, Any]:
        """No other attempt: what the last backend did says more than that there is no other."""
        held = course.held
        if held is None:
            assert course.failure is not None
            raise course.failure from None
        self._deliver(exchange, held.backend, held.response, held.attempt, None)
        return held.attempt

    def _deliver(
        self,
        exchange: Exchange,
        backend: Backend,
        response: Any,
        attempt: dict[str, Any],
        seconds: float | None,
    ) -> None:
        """Pass the answer on as it comes; once its head is out, a failure cuts it and is its ``reason``.

        ``seconds`` to its first byte, None if the pool has been told of it.
        """
        status = response.head.status
        if self.pool.sticky is not None and exchange.head.sticky != backend.cookie:
            self._bind(self.pool.sticky, exchange, backend, response)
        try:
            if status == 101:
                if backend.is_watched and seconds is not None:
                    self.pool.answered(backend, status, seconds)
                attempt["reason"] = self._tunnel(exchange, response)
                return
            complete = response.complete
            if self._server is not None:
                self.name_server(response.head)
            exchange.start(response.head, response.first, complete, response.trailers)
            if not complete:
                self._relay(exchange, response)
            if (backend.is_watched or status >= 500) and seconds is not None:
                self.pool.answered(backend, status, seconds)
        except ProxyError as error:
            if not exchange.is_begun:
                raise
            attempt["reason"] = error.reason
            self.pool.failed(backend, error)
            exchange.abort()
        finally:
            if not response.complete:
                response.close()

    def _bind(
        self, sticky: StickyCookie, exchange: Exchange, backend: Backend, response: Any
    ) -> None:
        """Have the answer bring the client back to this backend."""
        head = exchange.head
        if sticky.covers(head.target):
            is_secure = is_https(head, exchange.scheme, exchange.is_trusted)
            response.head.lines += sticky.lines(backend.cookie, is_secure)

    def _relay(self, exchange: Exchange, response: Any) -> None:
        """The rest of an answer's body. Raises Aborted, ClientGone."""
        if response.splices and exchange.splice(response.splice_to):
            return
        while piece := response.read():
            exchange.write(piece)
        exchange.finish(response.trailers)

    def _tunnel(self, exchange: Exchange, response: UpstreamResponse) -> str | None:
        """Switch to the other protocol and move its bytes until the end; why it ended. Raises ClientGone."""
        if self._server is not None:
            self.name_server(response.head)
        client, first = exchange.switch(response.head)
        tunnel = Tunnel(client, response.stream, exchange.deadline, self._tunnel_timeout)
        try:
            tunnel.run(first, response.first)
        finally:
            exchange.bytes_in += tunnel.bytes_in
            exchange.bytes_out += tunnel.bytes_out
        return tunnel.reason

    def name_server(self, head: ResponseHead) -> None:
        """Put the configured Server header in the place of the backend's, where one is configured."""
        if self._server is not None:
            head.lines = [*fields.without(head.lines, _SERVER), *self._server]

    # -- failures ----------------------------------------------------------------------------------

    def _fail(self, exchange: Exchange, error: ProxyError, request_id: str) -> int:
        """Tell the client what its status is; the status for the log."""
        if error.status == 499:
            exchange.abort()
            return 499
        is_text = prefers_text(exchange.head.accept)
        lines = [("Content-Type", "text/plain; charset=utf-8" if is_text else "application/json")]
        if error.status == 503:
            lines.append(("Retry-After", str(self.pool.retry_after(error.reason))))
        elif error.status == 405:
            lines.append(("Allow", ALLOWED_METHODS.decode()))
        lines += self.server_field
        try:
            exchange.answer(error.status, lines, error_body(error, request_id, is_text))
        except ClientError:
            exchange.abort()
        return error.status

    def _fail_unforeseen(
        self,
        exchange: Exchange,
        error: Exception,
        request_id: str,
        answer: dict[str, Any] | None,
    ) -> int:
        """A mistake of ours, or of foreign code: tell the log why, the client as far as that is possible."""
        log.uncaught("proxy", f"request {request_id} failed", error)
        try:
            if not exchange.is_begun:
                return self._fail(exchange, InternalError(str(error)), request_id)
        except Exception as second:  # noqa: BLE001 - the exchange itself is broken
            log.uncaught("proxy", f"request {request_id} not answered", second)
        try:
            exchange.abort()
        except Exception as second:  # noqa: BLE001
            log.uncaught("proxy", f"request {request_id} not cut", second)
        begun = answer["status"] if answer is not None else None
        return begun or InternalError.status

    # -- the log -----------------------------------------------------------------------------------

    def _log_access(
        self,
        exchange: Exchange,
        request_id: str,
        started: float,
        status: int,
        reason: str | None,
        attempts: list[dict[str, Any]],
        answer: dict[str, Any] | None,
    ) -> None:
        """``answer`` is the attempt that answered, or the last one."""
        head = exchange.head
        user_agent = head.user_agent
        client_ip = exchange.peer
        target = head.target.decode("latin-1")
        if "?" in target and self._redact is not None:
            target = self._redact(target)
        if exchange.is_trusted:
            client_ip = self._find_client(head, client_ip)
        assert self._log is not None
        self._log(
            {
                "request_id": request_id,
                "client_ip": client_ip,
                "method": head.method.decode("latin-1"),
                "host": head.host.decode("latin-1") or None,
                "target": target,
                "protocol": _PROTOCOLS[head.minor],
                "status": status,
                "backend": answer["server"] if answer else None,
                "attempts": attempts,
                "bytes_in": exchange.bytes_in,
                "bytes_out": exchange.bytes_out,
                "duration_ms": int((monotonic() - started) * 1e6) / 1e3,
                "connect_ms": answer["connect_ms"] if answer else None,
                "first_byte_ms": answer["first_byte_ms"] if answer else None,
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
