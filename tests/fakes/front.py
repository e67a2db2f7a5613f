"""What a client's connection is given, without a worker: a proxy that a test plays, real limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from app import config
from app.errors import ProxyError
from app.wire.request import STANDARD, RequestHead
from app.worker.admission import Admission
from app.worker.client.contract import ConnectionContext, DrainState
from app.worker.parking import Parking
from app.worker.proxy.local_reply import error_fields


class PlayedProxy:
    """In the place of app.worker.proxy.handler.Proxy: ``handle`` is the test's, and is told the exchange.

    A ProxyError from it is answered as by the real one: with its status, or a cut where that is too late.
    ``served`` are the heads in order, ``failures`` what was raised, ``refused`` and ``dropped`` what the
    connection said of requests that were never handled.
    """

    def __init__(self, handle: Callable[[Any], None], body_limit: int = 0) -> None:
        self._handle = handle
        self.body_limit = body_limit
        self.served: list[RequestHead] = []
        self.failures: list[ProxyError] = []
        self.refused: list[ProxyError] = []
        self.dropped: list[ProxyError] = []

    def is_trusted(self, peer: str) -> bool:
        return False

    def handle(self, exchange: Any) -> None:
        self.served.append(exchange.head)
        try:
            self._handle(exchange)
        except ProxyError as error:
            self.failures.append(error)
            if exchange.is_begun or error.status == 499:
                exchange.abort()
            else:
                exchange.answer(error.status, [], b"")

    def refuse(
        self, peer: str, error: ProxyError, started: float
    ) -> tuple[list[tuple[str, str]], bytes]:
        self.refused.append(error)
        return error_fields(error, lambda reason: 1, is_text=False), b"refused"

    def drop(self, exchange: Any, error: ProxyError) -> None:
        self.dropped.append(error)


class Front:
    """A worker's front: the context of its connections, and who they are counted by.

    ``limits`` are those of the configuration; ``timeouts.client`` is a minute.
    """

    def __init__(
        self,
        handle: Callable[[Any], None],
        *,
        keepalive: float = 75.0,
        half_close: float = 0.0,
        **limits: int,
    ) -> None:
        timeouts = {"client": 60, "keepalive": keepalive, "half_close": half_close}
        settings = {"limits": limits, "timeouts": timeouts}
        self.config = config.parse(json.dumps(settings))
        self.proxy = PlayedProxy(handle, self.config.limits.body)
        self.admission = Admission()
        self.parking = Parking(keepalive)
        self.drain = DrainState()
        proxy: Any = self.proxy
        self.context = ConnectionContext(
            proxy,
            self.config.limits,
            STANDARD,
            client_timeout=self.config.timeouts.client,
            head_timeout=self.config.timeouts.client,
            idle_timeout=keepalive,
            half_close=self.config.timeouts.half_close,
            drain=self.drain,
            parking=self.parking,
        )
