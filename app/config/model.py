"""The configuration as the rest of the program sees it: frozen values, one class for each object of the file.

A field has the name of its key in app.config.keys, which has its words and its default. Must never know JSON.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from app.policies import POLICIES
from app.wire.authority import bracketed, host_and_port

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Server:
    """One server. ``url`` is normalised and is its identity; for unix:, ``host`` is the socket's path."""

    url: str
    scheme: str
    host: str
    port: int
    prefix: str
    weight: int = 1
    backup: bool = False
    max_connections: int = 0
    state: str = "ready"

    @property
    def name(self) -> str:
        """What logs call it: always with its port, "127.0.0.1:8001/prefix" or "unix:/path"."""
        if self.scheme == "unix":
            return f"unix:{self.host}"
        return host_and_port(self.host, self.port) + self.prefix

    @property
    def is_name(self) -> bool:
        """Whether its host has to be looked up: it is neither an address nor a socket's path."""
        if self.scheme == "unix":
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def authority(self) -> str:
        """What it calls itself: the Host of a check, and of a request that came without one.

        The default port is left out (RFC 9110 §4.2.3, §7.2); a socket file has no name of its own.
        """
        if self.scheme == "unix":
            return "localhost"
        host = bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """``name`` is a built-in policy's or a class's dotted path; ``options`` are the policy's own.

    ``hash_on`` says what of a request is its key, "" where the policy asks for none.
    """

    name: str
    hash_on: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_custom(self) -> bool:
        """Whether it is a user's class."""
        return self.name not in POLICIES

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """``body`` is a text that the answer's body contains, ``body_regex`` one that is found in it."""

    type: str
    method: str
    path: str
    interval: float
    fast_interval: float
    timeout: float
    healthy_threshold: int
    unhealthy_threshold: int
    expected_status: tuple[tuple[int, int], ...]
    body: str | None
    body_regex: str | None
    host: str | None
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    jitter: float
    panic_threshold: int


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Failures in a row that eject a server, by kind (0 = never), and for how many seconds.

    ``failure_rate``: bad outcomes in percent of the last ones that do so too (0 = never).
    ``stall_after``: seconds of silence, with so many requests waiting, that make one stalled (0 = never).
    """

    connect_failures: int
    resets: int
    server_errors: int
    failure_rate: int
    stall_after: float
    stall_requests: int
    ejection_time: float
    max_ejection_time: float


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, 0 for none; what each is for says app.config.keys."""

    connect: float
    read: float
    total: float
    head: float
    client: float
    half_close: float
    keepalive: float
    backend_keepalive: float
    tunnel: float


@dataclass(frozen=True, slots=True)
class Retries:
    """``budget`` in percent of the requests, ``buffer`` in bytes; 0 = none.

    ``hedge_after`` in seconds, or "p95".
    """

    attempts: int
    statuses: tuple[int, ...]
    buffer: int
    per_try_timeout: float
    budget: float
    min_per_second: float
    hedge_after: float | str


@dataclass(frozen=True, slots=True)
class Queue:
    """How many requests of one worker wait while all servers are full, and for how many seconds."""

    size: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Limits:
    """0 for unlimited."""

    body: int
    connections: int
    request_line: int
    header_count: int
    header_size: int
    headers_size: int
    body_rate: int
    requests_per_connection: int
    connections_per_client: int


@dataclass(frozen=True, slots=True)
class Logging:
    """``redact``: names of query parameters, in small letters, whose values are hidden."""

    level: str
    access: bool
    redact: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths are absolute (app.config.paths)."""

    certificate: str
    key: str
    minimum_version: str
    ciphers: tuple[str, ...]
    curves: tuple[str, ...]
    client_ca: str | None
    http2: bool


@dataclass(frozen=True, slots=True)
class BackendTls:
    """How https:// servers are verified, and what they are shown; paths as in Tls."""

    verify: bool
    ca: str | None
    server_name: str | None
    certificate: str | None
    key: str | None
    minimum_version: str
    ciphers: tuple[str, ...]
    curves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sticky:
    """The cookie that brings a client back to its server; ``max_age`` 0 = as long as the browser runs.

    ``load`` has put the content of ``secret_file`` into ``secret``; where neither is given the master
    makes one.
    """

    cookie: str
    secret: str | None = field(repr=False)
    secret_file: str | None
    path: str
    max_age: int


@dataclass(frozen=True, slots=True)
class Config:
    host: str
    port: int
    workers: int
    servers: tuple[Server, ...]
    algorithm: Algorithm
    health_check: HealthCheck | None
    outlier_detection: OutlierDetection | None
    sticky: Sticky | None
    timeouts: Timeouts
    retries: Retries
    queue: Queue | None
    slow_start: float
    limits: Limits
    logging: Logging
    tls: Tls | None
    backend_tls: BackendTls
    send_proxy: str
    mend_responses: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    proxy_protocol: tuple[str, ...]
    trusted_headers: tuple[str, ...]
    forwarded: str
    via: str
    server_header: str
    upgrade: tuple[str, ...]
    graceful_timeout: float

    @property
    def panic_threshold(self) -> int:
        """Percent of the servers that must be healthy, or all are used; 0 without health checks: never."""
        return self.health_check.panic_threshold if self.health_check is not None else 0
