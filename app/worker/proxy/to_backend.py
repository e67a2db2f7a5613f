"""The request as a backend gets it, rebuilt from its parsed form.

Owns what is said to a backend beside what the client said: forwarding fields, Host where there is none, the
offer to switch protocols, framing of what of the body is here, and the PROXY header of its connection. Runs
in workers. Never sends or picks.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from app.config import Config
from app.wire import proxy_protocol, via
from app.wire.chunked import encode_chunk, last_chunk
from app.wire.forwarded import X_FORWARDED, Trust, lines_writer
from app.wire.lenient import reader
from app.wire.request import CHUNKED
from app.wire.response import ResponseHead
from app.wire.upgrade import offer
from app.worker.balance.backend import Backend
from app.worker.net.deadlines import NEVER
from app.worker.proxy.exchange import Exchange
from app.worker.proxy.replay import Replay
from app.worker.proxy.to_client import name_server, server_header
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.request import ReadBody, UpstreamRequest


class _Body(NamedTuple):
    """The body of one request to one backend: what of it is ``here`` (framed), what reads the rest of it, and
    the end of the head, with the ``lines`` about it."""

    here: bytes
    read_rest: ReadBody | None
    lines: bytes
    expects_continue: bool


class ToBackend:
    """Makes the requests to backends under one configuration."""

    __slots__ = (
        "_connect_timeout",
        "_find_client",
        "_forwarding_lines",
        "_has_own_lines",
        "_mark",
        "_read_head",
        "_read_timeout",
        "_send_proxy",
        "_server",
        "_upgrades",
        "_via",
        "_where_from",
    )

    def __init__(self, config: Config, trust: Trust, mark: bytes) -> None:
        """``mark`` is what we call ourselves in CDN-Loop."""
        self._mark = mark
        writes_via = config.via in ("request", "both")
        self._via = [via.received_by(minor) if writes_via else b"" for minor in range(3)]
        loop_line = via.loop_line(None, mark)
        self._where_from = [loop_line + via.line(None, own) for own in self._via]
        self._find_client = trust.client_of
        self._forwarding_lines = lines_writer(trust)
        self._has_own_lines = trust.mode != X_FORWARDED
        self._connect_timeout = config.timeouts.connect or NEVER
        self._read_timeout = config.timeouts.read or NEVER
        self._send_proxy = config.send_proxy if config.send_proxy != "off" else ""
        self._read_head = reader(config.mend_responses) if config.mend_responses else None
        self._server = server_header(config.server_header)
        self._upgrades = frozenset(name.encode("ascii") for name in config.upgrade)

    def request(
        self,
        exchange: Exchange,
        backend: Backend,
        request_id: bytes,
        expires_at: float,
        replay: Replay | None = None,
    ) -> UpstreamRequest:
        """The request as this backend gets it; ``expires_at`` is monotonic. Raises ClientGone."""
        head = exchange.head
        target = head.target if not backend.prefix else _prefixed(backend.prefix, head.target)
        body, here, end = None, b"", b"\r\n"
        if head.length or exchange.body or exchange.read_body is not None:
            body = _body(exchange, backend, replay)
            here, end = body.here, body.lines
        if exchange.is_trusted or self._has_own_lines:
            forwarded = self._forwarding_lines(
                head, exchange.peer, exchange.scheme, exchange.is_trusted
            )
        else:
            forwarded = exchange.forwarded + head.host + b"\r\n"  # ends in "X-Forwarded-Host: "
        pieces = [head.method, b" ", target, b" HTTP/1.1\r\n"]
        if not head.host:
            pieces.append(b"Host: %b\r\n" % backend.authority)
        pieces += head.lines
        hops = self._where_from[head.minor]
        if head.cdn_loop is not None or head.via is not None:
            hops = self._where_it_was(exchange)
        pieces += (head.framing, forwarded, b"X-Request-Id: ", request_id, b"\r\n", hops)
        offered = b""
        if head.upgrade is not None and type(backend.adapter) is Adapter:
            offered = offer(head.upgrade, self._upgrades)
        if offered:
            pieces += (b"Connection: Upgrade\r\nUpgrade: ", offered, b"\r\n")
        elif head.te_trailers and head.te_is_named:
            pieces.append(b"TE: trailers\r\nConnection: TE\r\n")
        pieces.append(end)
        request = UpstreamRequest(
            head.method, b"".join(pieces), here, backend.connections, exchange.deadline,
            self._connect_timeout, self._read_timeout,
        )  # fmt: skip
        if body is not None:
            _set_body(request, exchange, body, replay)
        if self._send_proxy:
            request.connections = backend.connections.lane(self._announcement(exchange))
        if offered:
            request.upgrade = offered
        if self._read_head is not None:
            request.read_head = self._read_head
        request.adapter, request.base_url = backend.adapter, backend.base_url
        request.expires_at = expires_at
        if head.minor and self._server is not None:
            request.on_interim = partial(_named_interim, exchange, self._server)
        elif head.minor:
            request.on_interim = exchange.interim
        return request

    def _where_it_was(self, exchange: Exchange) -> bytes:
        """CDN-Loop, and Via where it is written or a trusted proxy has said one: ours behind theirs."""
        head = exchange.head
        said = head.via if exchange.is_trusted else None
        return via.loop_line(head.cdn_loop, self._mark) + via.line(said, self._via[head.minor])

    def _announcement(self, exchange: Exchange) -> bytes:
        """What a backend is told of the client before the connection's first request."""
        peer, local = exchange.addresses()
        client = exchange.peer
        if exchange.is_trusted:
            client = self._find_client(exchange.head, client)
        source = proxy_protocol.client_endpoint(client, peer)
        return proxy_protocol.client_header(
            self._send_proxy, source, proxy_protocol.endpoint(local)
        )


def _body(exchange: Exchange, backend: Backend, replay: Replay | None) -> _Body:
    """The body as this backend gets it; of a ``replay`` first what an earlier attempt has read."""
    head = exchange.head
    if replay is None:
        here, read_rest = exchange.body, exchange.read_body
        asks_first = head.expect_continue
    else:
        here, read_rest = replay.body, None if replay.is_ended else replay.read
        asks_first = head.expect_continue and not replay.has_begun
    lines = b""
    # Other adapters frame it themselves, and know no trailers.
    if head.length == CHUNKED and type(backend.adapter) is Adapter:
        if head.trailer is not None:
            lines = b"Trailer: %b\r\n" % head.trailer
        if read_rest is None:
            end = last_chunk(exchange.request_trailers())
            here = encode_chunk(here) + end if here else end
        elif here:
            here = encode_chunk(here)
    expects_continue = asks_first and read_rest is not None
    lines += b"Expect: 100-continue\r\n\r\n" if expects_continue else b"\r\n"
    return _Body(here, read_rest, lines, expects_continue)


def _set_body(
    request: UpstreamRequest, exchange: Exchange, body: _Body, replay: Replay | None
) -> None:
    """Tell the request what it has to send besides its head and what is here."""
    request.length = exchange.head.length
    if body.read_rest is not None:
        request.read_body = body.read_rest
        request.splice_body = exchange.splice_body if replay is None else None
        request.is_chunked = exchange.head.length == CHUNKED
        request.trailers = exchange.request_trailers
        request.expects_continue = body.expects_continue


def _named_interim(exchange: Exchange, server: tuple[bytes, ...], head: ResponseHead) -> None:
    """Pass an interim response on as answers are: with the configured Server field."""
    name_server(head, server)
    exchange.interim(head)


def _prefixed(prefix: bytes, target: bytes) -> bytes:
    return target if target == b"*" else prefix + target
