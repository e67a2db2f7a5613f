"""One request through the real proxy, between a client's side and a session without connections."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from app import config as configuration
from app.worker.proxy.handler import Proxy
from fakes.exchange import ClientSide
from fakes.pool import Pool
from fakes.session import Later, Outcome, Session


class Proxied:
    """A proxy over ``servers`` backends whose sends come to ``outcomes``; ``lines`` are its access lines.

    ``settings`` are keys of the configuration. ``others``: how many retries other workers have made.
    """

    def __init__(
        self, *outcomes: Outcome | Later, servers: int = 2, others: int = 0, **settings: Any
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self.pool = Pool(servers)
        self.session = Session(self.pool, outcomes)
        log: Any = SimpleNamespace(write=self.lines.append)
        config = configuration.parse(json.dumps(settings))
        self.proxy = Proxy(config, self.pool, self.session, log)  # type: ignore[arg-type]
        self.pool.others = others

    def handle(self, exchange: ClientSide) -> dict[str, Any]:
        """Handle a request; its line. No place may be left behind, whatever happens."""
        asked = sum(self.pool.asked())
        self.proxy.handle(exchange)
        assert self.pool.in_flight() == [0] * len(self.pool.backends)
        line = self.lines.pop()
        assert not self.lines
        assert sum(self.pool.asked()) - asked == len(line["attempts"])
        return line


class Result:
    """What came of one request."""

    def __init__(self, proxied: Proxied, exchange: ClientSide, line: dict[str, Any]) -> None:
        self.pool, self.session, self.line, self.sent = (
            proxied.pool, proxied.session, line, exchange.got,
        )  # fmt: skip
        self.status = exchange.got[0] if exchange.got else 0
        self.movable = [proxied.proxy.may_move(request) for request in proxied.session.requests]
        self.attempts = line["attempts"]
        self.tried = [attempt["server"] for attempt in self.attempts]
        self.why_not = self.attempts[-1].get("not_retried")


def request_of(method: str, fields: str = "", body: bytes = b"") -> ClientSide:
    """A request for / with its body all here."""
    if body:
        fields += f"Content-Length: {len(body)}\r\n"
    return ClientSide(f"{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode(), body=body)


def forward(
    method: str,
    *outcomes: Outcome | Later,
    servers: int = 2,
    fields: str = "",
    body: bytes = b"",
    total: float = 0,
    others: int = 0,
    broken: str = "",
    **retries: Any,
) -> Result:
    """One request that meets these outcomes, attempt after attempt; ``broken`` of its exchange raises."""
    timeouts = {"total": total, "read": 9}
    proxied = Proxied(*outcomes, servers=servers, others=others, retries=retries, timeouts=timeouts)
    exchange = request_of(method, fields, body)
    if broken:
        setattr(exchange, broken, _raise)
    line = proxied.handle(exchange)
    return Result(proxied, exchange, line)


def _raise(*_: Any) -> None:
    raise ValueError("a mistake")
