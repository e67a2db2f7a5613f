"""The table of keys: defaults, values, and that each key is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from app import config as configuration
from app.config import (
    ROOT,
    Algorithm,
    Config,
    Key,
    Object,
    available_cores,
    parse,
)
from app.config.client_keys import SECRETS
from app.wire import claims


def test_an_empty_object_gives_the_documented_defaults() -> None:
    """With nothing said, every key has the default that the design promises."""
    assert parse("{}") == Config(
        host="0.0.0.0",
        port=8080,
        workers=available_cores(),
        servers=(),
        algorithm=Algorithm("round_robin"),
        health_check=configuration.HealthCheck(
            type="http",
            method="GET",
            path="/",
            interval=5.0,
            fast_interval=0.5,
            timeout=2.0,
            healthy_threshold=2,
            unhealthy_threshold=3,
            expected_status=((200, 399),),
            body=None,
            body_regex=None,
            host=None,
            headers=(),
            jitter=0.1,
            panic_threshold=0,
        ),
        outlier_detection=configuration.OutlierDetection(3, 5, 5, 50, 0.3, 3, 0.5, 300.0),
        sticky=None,
        timeouts=configuration.Timeouts(3.0, 60.0, 0.0, 0.0, 60.0, 0.0, 75.0, 1.5, 3600.0),
        retries=configuration.Retries(2, (500, 502, 503, 504), 65_536, 0.0, 20.0, 3.0, 0.0),
        queue=configuration.Queue(1024, 3.0),
        slow_start=0.0,
        limits=configuration.Limits(0, 0, 8190, 100, 8190, 32_768, 100, 0, 0),
        logging=configuration.Logging("info", True, SECRETS),
        tls=None,
        backend_tls=configuration.BackendTls(True, None, None, None, None, "1.2", (), ()),
        send_proxy="off",
        mend_responses=(),
        trusted_proxies=(),
        trusted_headers=claims.DEFAULT,
        proxy_protocol=(),
        forwarded="x-forwarded",
        via="none",
        server_header="pass",
        upgrade=("websocket",),
        graceful_timeout=30.0,
    )


def test_every_key_can_be_set() -> None:
    """Each value of the file arrives in its field."""
    given_values = {
        "$schema": "./config.schema.json",
        "host": "::1",
        "port": 1,
        "workers": 3,
        "servers": [
            {"url": "http://a", "weight": 2, "backup": True, "max_connections": 9, "state": "drain"}
        ],
        "algorithm": {"name": "hash", "hash_on": "cookie:sid", "missing_key": "none"},
        "health_check": {
            "type": "http",
            "method": "POST",
            "path": "/ok?full=1",
            "interval": 0.05,
            "fast_interval": 0.02,
            "timeout": 0.5,
            "healthy_threshold": 1,
            "unhealthy_threshold": 7,
            "expected_status": 204,
            "body": "up and running",
            "body_regex": r"^\d+ users",
            "host": "app.example:8443",
            "headers": {"X-Probe": "a b", "Accept": "*/*"},
            "jitter": 0,
            "panic_threshold": 50,
        },
        "outlier_detection": {
            "connect_failures": 1,
            "resets": 0,
            "server_errors": 2,
            "failure_rate": 40,
            "stall_after": 0.7,
            "stall_requests": 4,
            "ejection_time": 3,
            "max_ejection_time": 4.5,
        },
        "sticky": {
            "cookie": "srv",
            "secret": "sixteen or more.",
            "secret_file": "secret",
            "path": "/shop",
            "max_age": 60,
        },
        "timeouts": {
            "connect": 0.1,
            "read": 2,
            "total": 3,
            "head": 3.5,
            "client": 4,
            "half_close": 4.5,
            "keepalive": 5,
            "backend_keepalive": 6,
            "tunnel": 7,
        },
        "retries": {
            "attempts": 1,
            "statuses": [500, 503],
            "buffer": 1024,
            "per_try_timeout": 0.5,
            "budget": 12.5,
            "min_per_second": 0.1,
            "hedge_after": "p95",
        },
        "queue": {"size": 7, "timeout": 0.25},
        "slow_start": 2.5,
        "limits": {
            "body": 10,
            "connections": 11,
            "request_line": 300,
            "header_count": 20,
            "header_size": 400,
            "headers_size": 500,
            "body_rate": 12,
            "requests_per_connection": 13,
            "connections_per_client": 14,
        },
        "logging": {"level": "debug", "access": False, "redact": ["Pin", "token"]},
        "backend_tls": {
            "verify": False,
            "ca": "d.pem",
            "server_name": "app.internal",
            "certificate": "e.pem",
            "key": "f.pem",
            "minimum_version": "1.3",
            "ciphers": ["AES128-SHA"],
            "curves": ["P-384"],
        },
        "send_proxy": "v2",
        "mend_responses": ["obs_fold"],
        "tls": {
            "certificate": "a.pem",
            "key": "b.pem",
            "minimum_version": "1.3",
            "ciphers": ["AES128-SHA"],
            "curves": ["X25519"],
            "client_ca": "c.pem",
            "http2": False,
        },
        "trusted_proxies": ["10.0.0.0/8", "::1"],
        "trusted_headers": ["Remote-User", "X-SSL-*"],
        "proxy_protocol": ["10.0.0.5"],
        "forwarded": "both",
        "via": "request",
        "server_header": "Example 1.0",
        "upgrade": ["WebSocket", "tcp"],
        "graceful_timeout": 0.5,
    }
    assert parse(json.dumps(given_values)) == Config(
        host="::1",
        port=1,
        workers=3,
        servers=(configuration.Server("http://a", "http", "a", 80, "", 2, True, 9, "drain"),),
        algorithm=Algorithm(
            "hash", "cookie:sid", (("missing_key", "none"), ("balance_factor", 0.0))
        ),
        health_check=configuration.HealthCheck(
            type="http",
            method="POST",
            path="/ok?full=1",
            interval=0.05,
            fast_interval=0.02,
            timeout=0.5,
            healthy_threshold=1,
            unhealthy_threshold=7,
            expected_status=((204, 204),),
            body="up and running",
            body_regex=r"^\d+ users",
            host="app.example:8443",
            headers=(("X-Probe", "a b"), ("Accept", "*/*")),
            jitter=0.0,
            panic_threshold=50,
        ),
        outlier_detection=configuration.OutlierDetection(1, 0, 2, 40, 0.7, 4, 3.0, 4.5),
        sticky=configuration.Sticky("srv", "sixteen or more.", "secret", "/shop", 60),
        timeouts=configuration.Timeouts(0.1, 2, 3, 3.5, 4, 4.5, 5, 6, 7),
        retries=configuration.Retries(1, (500, 503), 1024, 0.5, 12.5, 0.1, "p95"),
        queue=configuration.Queue(7, 0.25),
        slow_start=2.5,
        limits=configuration.Limits(10, 11, 300, 20, 400, 500, 12, 13, 14),
        logging=configuration.Logging("debug", False, ("pin", "token")),
        tls=configuration.Tls(
            "a.pem", "b.pem", "1.3", ("AES128-SHA",), ("X25519",), "c.pem", http2=False
        ),
        backend_tls=configuration.BackendTls(
            False, "d.pem", "app.internal", "e.pem", "f.pem", "1.3", ("AES128-SHA",), ("P-384",)
        ),
        send_proxy="v2",
        mend_responses=("obs_fold",),
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        trusted_headers=("Remote-User", "X-SSL-*"),
        proxy_protocol=("10.0.0.5/32",),
        forwarded="both",
        via="request",
        server_header="Example 1.0",
        upgrade=("websocket", "tcp"),
        graceful_timeout=0.5,
    )


def every_key(section: Object = ROOT, path: str = "") -> Iterator[tuple[str, Key]]:
    for key in section.keys:
        yield f"{path}{key.name}", key
        if isinstance(key.type, Object):
            yield from every_key(key.type, f"{path}{key.name}.")
    if section is ROOT:
        yield from every_key(configuration.SERVER, "servers[].")


@pytest.mark.parametrize(("path", "key"), list(every_key()), ids=[path for path, _ in every_key()])
def test_each_key_is_documented_and_its_default_is_valid(path: str, key: Key) -> None:
    """Each key has one line of words, a default that its own reader takes, and good examples."""
    assert key.doc.endswith(".")
    assert "\n" not in key.doc
    if not key.required and key.default is not None:
        default = key.fallback()
        as_read = json.dumps(key.type.write(default))
        assert key.type.read(json.loads(as_read, object_pairs_hook=tuple)) == default
    for example in key.examples:
        key.type.read(json.loads(json.dumps(example), object_pairs_hook=tuple))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_available_cores_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under taskset the default number of workers is what the process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
    assert parse("{}").workers == 3
