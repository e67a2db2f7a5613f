"""A backend's answer as the client gets it: our fields in its head, its body as it comes, or a tunnel.

Owns what is changed in an answer (Server, Via, X-Request-Id, the cookie of sticky sessions), passing it on,
and what becomes of one that breaks off. Runs in workers, in the request's greenlet. Never asks for another
answer.
"""

from __future__ import annotations

from typing import Any, Final

from app.config import Config
from app.errors import InternalError, ProxyError
from app.wire import fields, via
from app.wire.forwarded import is_https
from app.wire.response import ResponseHead
from app.worker.balance.pool import Pool
from app.worker.balance.sticky import StickyCookie
from app.worker.net.deadlines import NEVER
from app.worker.proxy.attempt import Attempt
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.tunnel import Tunnel

_SERVER: Final = frozenset((b"server",))


class ToClient:
    """Passes answers on under one configuration.

    ``server_field``: the Server field of our own answers as a list of names and values, empty for none.
    """

    __slots__ = ("_pool", "_server", "_tunnel_timeout", "_via", "server_field")

    def __init__(self, config: Config, pool: Pool) -> None:
        self._pool = pool
        self._tunnel_timeout = config.timeouts.tunnel
        server = self._server = server_header(config.server_header)
        writes_via = config.via in ("response", "both")
        self._via = [via.received_by(minor) for minor in range(2)] if writes_via else None
        self.server_field = [("Server", server[2].decode())] if server else []

    def deliver(
        self, exchange: Exchange, attempt: Attempt, request_id: bytes, is_counted: bool = False
    ) -> None:
        """Send the attempt's answer as it comes; when its head is out, a failure cuts it and is its reason.

        A failure before that is raised. ``is_counted``: the pool knows already of the answer.
        """
        backend, response = attempt.backend, attempt.response
        is_complete = response.complete
        if is_complete:
            # The backend has done its part: how its answer is taken costs no place there.
            attempt.end()
        head: ResponseHead = response.head
        status = head.status
        pool = self._pool
        try:
            if pool.sticky is not None and exchange.head.sticky != backend.cookie:
                self._bind(pool.sticky, exchange, attempt)
            if self._server is not None:
                name_server(head, self._server)
            if self._via is not None:
                head.lines += (b"Via", b": ", self._via[head.minor], b"\r\n")
            head.lines += (b"X-Request-Id", b": ", request_id, b"\r\n")
            if status == 101:
                if backend.is_watched and not is_counted:
                    pool.answered(backend, status, attempt.first_byte_seconds, attempt.asked)
                attempt.reason = self._tunnel(exchange, response)
                return
            exchange.start(head, response.first, is_complete, response.trailers)
            if not is_complete:
                self._relay(exchange, response)
            if (backend.is_watched or status >= 500) and not is_counted:
                pool.answered(backend, status, attempt.first_byte_seconds, attempt.asked)
        except ProxyError as error:
            attempt.reason = error.reason
            pool.failed(backend, error, attempt.asked)
            if not exchange.is_begun:
                raise
            exchange.abort()
        except Exception:
            attempt.reason = InternalError.reason
            raise
        finally:
            if not is_complete:
                attempt.close()

    def _bind(self, sticky: StickyCookie, exchange: Exchange, attempt: Attempt) -> None:
        """Have the answer bring the client back to this backend."""
        head = exchange.head
        if sticky.covers(head.target):
            is_secure = is_https(head, exchange.scheme, exchange.is_trusted)
            attempt.response.head.lines += sticky.lines(attempt.backend.cookie, is_secure)

    def _relay(self, exchange: Exchange, response: Any) -> None:
        """Send the rest of an answer's body. Raises Aborted, ClientGone."""
        if response.splices and exchange.splice(response.splice_to):
            return
        while piece := response.read():
            exchange.write(piece)
        exchange.finish(response.trailers)

    def _tunnel(self, exchange: Exchange, response: Any) -> str | None:
        """Switch to the other protocol and move its bytes until the end; why it ended. Raises ClientGone."""
        client, first = exchange.switch(response.head)
        exchange.deadline.limit = NEVER  # timeouts.total is over with the handshake
        tunnel = Tunnel(client, response.stream, exchange.deadline, self._tunnel_timeout)
        try:
            tunnel.run(first, response.first)
        finally:
            exchange.bytes_in += tunnel.bytes_in
            exchange.bytes_out += tunnel.bytes_out
        return tunnel.reason


def name_server(head: ResponseHead, server: tuple[bytes, ...]) -> None:
    """Put the configured Server field (see ``server_header``) in the place of the backend's."""
    head.lines = [*fields.without(head.lines, _SERVER), *server]


def server_header(setting: str) -> tuple[bytes, ...] | None:
    """The Server field of every answer as flat pieces: () for never one, None where a backend's passes."""
    if setting == "pass":
        return None
    return () if setting == "none" else (b"Server", b": ", setting.encode("ascii"), b"\r\n")
