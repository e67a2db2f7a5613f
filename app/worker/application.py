"""The WSGI application: what ``app:application`` is.

Owns putting a worker's parts together: table, pool, session, proxy. Our own worker takes the proxy from it
and reads requests from the wire; under the stock gevent worker or any other WSGI server it is called, and
app.worker.client.wsgi is the client's side then. Imported in workers only, after gevent has patched the
standard library; must never know the process it runs in.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from time import monotonic
from typing import Any

from app import config as configuration
from app.config import Config, Server
from app.config.secrets import with_secret
from app.errors import InternalError, ProxyError
from app.shared import publication
from app.shared.inherited import inheritance
from app.shared.layout import EPOCH, HEALTHY, STATE
from app.shared.table import Table, identity_of
from app.telemetry import log
from app.telemetry.access_log import AccessLog
from app.tls.backends import BackendTrust
from app.worker.balance.pool import Pool
from app.worker.balance.published import Published
from app.worker.client.wsgi import StartResponse, WsgiExchange, close_after, start_answer
from app.worker.net.deadlines import NEVER, deadlines
from app.worker.proxy.handler import Proxy
from app.worker.stalls import StallWatch
from app.worker.upstream.addresses import AddressBook, News, looked_up_here
from app.worker.upstream.connections import ConnectionCache
from app.worker.upstream.send_proxy import ProxyHeaderConnections
from app.worker.upstream.session import Session


class Application:
    """The load balancer of one worker. ``session`` is where another transport adapter can be mounted."""

    def __init__(
        self,
        config: Config,
        table: Table,
        slot: int,
        reader: Published | None = None,
        has_master: bool = True,
    ) -> None:
        """Without a master nobody looks names up for us: that is done here, for each new connection."""
        self.config = config
        self._table = table
        self._address_book = AddressBook(table) if has_master else None
        self._looked_at = 0  # the epoch at the last look at addresses
        self.session = Session()
        self._sink = log.stdout()
        self._caches: list[ConnectionCache] = []
        self._trust: BackendTrust | None = None  # made for the first https:// server
        self._client_timeout = config.timeouts.client or NEVER
        self.pool = Pool(table, slot, self._connect, self._disconnect, reader)
        self.session.on_mount = self._ask_for_adapters
        access_log = AccessLog(self._sink) if config.logging.access else None
        self.proxy = Proxy(config, self.pool, self.session, access_log)
        for function in (self._sweep, self._look, self.proxy.tick, self._flush_log):
            deadlines.every_tick(function)
        outliers = config.outlier_detection
        if outliers is not None and outliers.stall_after:
            deadlines.every_tick(
                StallWatch(self.pool, deadlines, outliers, self.proxy.may_move).look
            )

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Forward one request; its response goes through the ``write`` of PEP 3333, as it comes."""
        deadlines.start()
        deadline = deadlines.enter()
        exchange: WsgiExchange | None = None
        try:
            try:
                exchange = WsgiExchange(
                    environ,
                    start_response,
                    self.proxy.is_trusted,
                    deadline,
                    self._client_timeout,
                    self.proxy.body_limit,
                )
            except Exception as failure:  # noqa: BLE001 - of a server's environ, whatever it lacks
                error = failure if isinstance(failure, ProxyError) else _unforeseen(failure)
                peer = str(environ.get("REMOTE_ADDR") or "")
                fields, body = self.proxy.refuse(peer, error, monotonic())
                close_after(start_response)
                start_answer(start_response, error.status, fields, len(body))
                return [body]
            self.proxy.handle(exchange)
            if exchange.tunnel is not None:
                # gunicorn closes the connection then; its own ALREADY_HANDLED would have it read the
                # next request from what a tunnel left behind.
                raise StopIteration
            if exchange.broken is not None:
                raise exchange.broken  # the server cuts the connection: never a good ending
            return exchange.rest
        finally:
            if exchange is not None and exchange.tunnel is not None:
                exchange.tunnel.close()
            deadlines.leave(deadline)

    def close(self) -> None:
        """Close the connections to backends and write out the log."""
        for connections in self._caches:
            connections.close()
        self._sink.drain()

    def _connect(self, server: Server) -> tuple[ConnectionCache, Any]:
        config = self.config
        if server.scheme == "https" and self._trust is None:
            self._trust = BackendTrust(config.backend_tls)
        kind = ConnectionCache if config.send_proxy == "off" else ProxyHeaderConnections
        connections = kind(
            server.scheme,
            server.host,
            server.port,
            config.timeouts.backend_keepalive,
            self._trust if server.scheme == "https" else None,
            self._news_of(server) if server.is_name else None,
        )
        self._caches.append(connections)
        return connections, self.session.get_adapter(server.url)

    def _news_of(self, server: Server) -> News:
        if self._address_book is None:
            return looked_up_here(server.host, server.port)
        return self._address_book.news_of(server.url, server.port)

    def _ask_for_adapters(self) -> None:
        for backend in self.pool.backends:
            backend.adapter = self.session.get_adapter(backend.url)

    def _disconnect(self, connections: ConnectionCache) -> None:
        self._caches.remove(connections)
        connections.close()

    def _sweep(self, now: float) -> None:
        for connections in self._caches:
            if connections.idle:
                connections.sweep(now)

    def _look(self, _now: float) -> None:
        """Where servers have gone to other addresses, no idle connection to the old ones is kept."""
        epoch = self._table.cells[EPOCH]
        if epoch != self._looked_at and self._address_book is not None:
            self._looked_at = epoch
            for connections in self._caches:
                connections.look()

    def _flush_log(self, _now: float) -> None:
        self._sink.flush()


def make_application() -> Application:
    """The application of this process: with its master's table, or on its own without a master."""
    inherited = inheritance()
    if inherited is not None:
        table, slot, own_form = inherited
        blob = publication.published(table)[1]
        try:
            config = configuration.from_json(blob)
            reader = Published(blob, config)
            application = Application(config, table, slot, reader)
            reader.read_aside(application.pool.refresh)
            deadlines.every_tick(application.pool.look)
            return application
        except configuration.ConfigError:  # another release's; the pool says so in the log
            application = Application(configuration.from_json(own_form()), table, slot)
            application.pool.start_with(application.config)
            return application
    config = configuration.load(configuration.path_from(os.environ), os.environ)
    config = with_secret(config, secrets.token_hex(32))
    return Application(
        config, standalone_table(config), 1, has_master=False
    )  # slot 0 is the ledger


def standalone_table(config: Config) -> Table:
    """A table without a master: no one checks health, so every server counts as healthy."""
    blob = configuration.to_json(config)
    table = Table.create(rows=max(1, len(config.servers)), slots=2, blob_bytes=len(blob))
    identities = [identity_of(server.url) for server in config.servers]
    publication.publish(table, publication.propose(table, blob, identities))
    for row in table.row_index().values():
        table.cells[table.server(row) + STATE] = HEALTHY
    return table


def _unforeseen(failure: Exception) -> ProxyError:
    log.uncaught("proxy", "request not read", failure)
    return InternalError(str(failure))
