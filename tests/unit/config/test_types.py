"""What one key accepts, and in which words it refuses the rest."""

from __future__ import annotations

import json

import pytest

from app.config import (
    LIMITS,
    parse,
)
from tests.unit.config.refusals import refusals


def test_seconds_are_floats() -> None:
    """A whole number of seconds becomes a float, so that code meets one type."""
    assert type(parse('{"timeouts": {"read": 2}}').timeouts.read) is float


def test_false_switches_health_checks_off() -> None:
    """health_check: false is None in the configuration."""
    assert parse('{"health_check": false}').health_check is None


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        ("200", ((200, 200),)),
        ('"200"', ((200, 200),)),
        ('"200-399"', ((200, 399),)),
        ('"300-399, 200 ,204"', ((200, 200), (204, 204), (300, 399))),
        ('[200, "201-204", 500]', ((200, 204), (500, 500))),
        ('"200-300,250-260,299-310"', ((200, 310),)),
        ('"100-599"', ((100, 599),)),
    ],
)
def test_expected_status_forms(written: str, ranges: tuple[tuple[int, int], ...]) -> None:
    """A code, a range, a list in one string or as JSON: all become sorted, merged ranges."""
    check = parse(f'{{"health_check": {{"expected_status": {written}}}}}').health_check
    assert check is not None
    assert check.expected_status == ranges


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_each_level_is_taken(level: str) -> None:
    """The levels of the standard library, by their names in lower case."""
    assert parse(json.dumps({"logging": {"level": level}})).logging.level == level


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"port": "8080"}', 'port: must be a whole number, got "8080" (write it without quotes)'),
        ('{"port": "http"}', 'port: must be a whole number, got "http"'),
        ('{"port": true}', "port: must be a whole number, got true"),
        ('{"port": 1.0}', "port: must be a whole number, got 1.0"),
        ('{"port": null}', "port: must be a whole number, got null"),
        ('{"port": []}', "port: must be a whole number, got a list"),
        ('{"port": {}}', "port: must be a whole number, got an object"),
        ('{"port": 0}', "port: must be ≥ 1, got 0"),
        ('{"port": 65536}', "port: must be ≤ 65535, got 65536"),
        ('{"port": NaN}', "port: must be a whole number, got NaN"),
        ('{"workers": 0}', "workers: must be ≥ 1, got 0"),
        ('{"workers": 1025}', "workers: must be ≤ 1024, got 1025"),
        ('{"host": ""}', "host: must not be empty"),
        ('{"host": 1}', "host: must be a string, got 1"),
        ('{"servers": {}}', "servers: must be a list, got an object"),
        ('{"servers": "http://a"}',
         'servers: must be a list, got "http://a": write ["http://a"]'),
        ('{"servers": ["http://b", "http://c", {"url": "http://a", "weight": 0}]}',
         "servers[2].weight: must be ≥ 1, got 0"),
        ('{"servers": [{"url": "http://a", "weight": 1001}]}',
         "servers[0].weight: must be ≤ 1000, got 1001"),
        ('{"servers": [{"url": "http://a", "backup": 1}]}',
         "servers[0].backup: must be true or false, got 1"),
        ('{"servers": [{"url": "http://a", "backup": "true"}]}',
         'servers[0].backup: must be true or false, got "true" (write it without quotes)'),
        ('{"servers": [{"url": "http://a", "max_connections": -1}]}',
         "servers[0].max_connections: must be ≥ 0, got -1"),
        ('{"logging": {"level": "warn"}}',
         'logging.level: must be one of "debug", "info", "warning", "error", "critical", '
         'got "warn"; did you mean "warning"?'),
        ('{"logging": {"access": 0}}', "logging.access: must be true or false, got 0"),
        ('{"logging": []}', "logging: must be an object, got a list"),
        ('{"health_check": true}', "health_check: must be an object or false, got true"),
        ('{"health_check": {"type": "udp"}}',
         'health_check.type: must be one of "http", "tcp", got "udp"'),
        ('{"health_check": {"method": "DELETE"}}',
         'health_check.method: must be one of "GET", "HEAD", "OPTIONS", "POST", got "DELETE"'),
        ('{"health_check": {"interval": 0}}', "health_check.interval: must be ≥ 0.01, got 0"),
        ('{"health_check": {"timeout": 0}}', "health_check.timeout: must be ≥ 0.01, got 0"),
        ('{"health_check": {"jitter": 0.6}}', "health_check.jitter: must be ≤ 0.5, got 0.6"),
        ('{"health_check": {"healthy_threshold": 0}}',
         "health_check.healthy_threshold: must be ≥ 1, got 0"),
        ('{"health_check": {"headers": []}}',
         "health_check.headers: must be an object, got a list"),
        ('{"health_check": {"headers": {"A": ""}}}',
         "health_check.headers.A: must not be empty"),
        ('{"health_check": {"headers": {"A": "1", "a": "2"}}}',
         'health_check.headers.a: is the same header as "A"; keep one'),
        ('{"health_check": {"expected_status": []}}',
         "health_check.expected_status: must not be empty"),
        ('{"timeouts": {"connect": -0.5}}', "timeouts.connect: must be ≥ 0, got -0.5"),
        ('{"timeouts": {"read": 86401}}', "timeouts.read: must be ≤ 86400, got 86401"),
        ('{"timeouts": {"read": "5"}}',
         'timeouts.read: must be a number, got "5" (write it without quotes)'),
        ('{"timeouts": {"read": "5s"}}', 'timeouts.read: must be a number, got "5s"'),
        ('{"timeouts": {"read": false}}', "timeouts.read: must be a number, got false"),
        ('{"timeouts": {"read": NaN}}', "timeouts.read: must be a finite number, got NaN"),
        ('{"timeouts": {"read": Infinity}}',
         "timeouts.read: must be a finite number, got Infinity"),
        ('{"timeouts": {"read": -1e999}}',
         "timeouts.read: must be a finite number, got -Infinity"),
        ('{"retries": {"attempts": 17}}', "retries.attempts: must be ≤ 16, got 17"),
        ('{"logging": {"redact": ["a", "A"]}}',
         "logging.redact[1]: is the same as redact[0] (a); keep one"),
        ('{"retries": {"buffer": "64k"}}', 'retries.buffer: must be a whole number, got "64k"'),
        ('{"retries": {"budget": 101}}', "retries.budget: must be ≤ 100, got 101"),
        ('{"retries": {"min_per_second": -1}}', "retries.min_per_second: must be ≥ 0, got -1"),
        ('{"retries": {"hedge_after": -1}}', "retries.hedge_after: must be ≥ 0, got -1"),
        ('{"retries": {"per_try_timeout": -1}}', "retries.per_try_timeout: must be ≥ 0, got -1"),
        ('{"limits": {"body": -1}}', "limits.body: must be ≥ 0, got -1"),
        ('{"limits": {"body": "10MB"}}', 'limits.body: must be a whole number, got "10MB"'),
        ('{"trusted_proxies": "10.0.0.0/8"}',
         'trusted_proxies: must be a list, got "10.0.0.0/8": write ["10.0.0.0/8"]'),
        ('{"trusted_proxies": ["::1", "::1/128"]}',
         "trusted_proxies[1]: is the same as trusted_proxies[0] (::1/128); keep one"),
        ('{"graceful_timeout": -1}', "graceful_timeout: must be ≥ 0, got -1"),
        ('{"$schema": 1}', "$schema: must be a string, got 1"),
        ('{"prot": 1}', 'prot: unknown key; did you mean "port"?'),
        ('{"Port": 1}', 'Port: unknown key; did you mean "port"?'),
        ('{"healthCheck": {}}', 'healthCheck: unknown key; did you mean "health_check"?'),
        ('{"interval": 1}', 'interval: unknown key; did you mean "health_check.interval"?'),
        ('{"retries": {"workers": 1}}', 'retries.workers: unknown key; "workers" belongs at '
         "top level"),
        ('{"retries": {"x": 1}}', "retries.x: unknown key; there are attempts, statuses, buffer, "
         "per_try_timeout, budget, min_per_second, hedge_after"),
        ('{"limits": {"a b\\n": 1}}',
         'limits["a b\\n"]: unknown key; there are '
         + ", ".join(key.name for key in LIMITS.keys)),
        ('{"servers": [{"url": "http://a", "wieght": 1}]}',
         'servers[0].wieght: unknown key; did you mean "weight"?'),
        ('{"port": 1, "port": 1}', "port: appears more than once; keep one"),
        ('{"limits": {"body": 1, "body": 2}}', "limits.body: appears more than once; keep one"),
        ('{"x": 1, "limits": {}, "x": 2}',
         "x: unknown key; there are $schema, host, port, workers, servers, algorithm, "
         "health_check, outlier_detection, sticky, timeouts, retries, queue, slow_start, limits, "
         "logging, tls, backend_tls, send_proxy, mend_responses, trusted_proxies, "
         "trusted_headers, proxy_protocol, "
         "forwarded, via, server_header, upgrade, graceful_timeout"),
        ('{"tls": {"certificate": "a"}}', "tls.key: is required"),
        ('{"tls": {"certificate": "a", "key": "b", "minimum_version": "1.1"}}',
         'tls.minimum_version: must be one of "1.2", "1.3", got "1.1"; did you mean "1.3"?'),
        ('{"mend_responses": ["bare_cr"]}',
         'mend_responses[0]: must be one of "bare_lf", "obs_fold", got "bare_cr"; did you mean "bare_lf"?'),
        ('{"send_proxy": true}', 'send_proxy: must be one of "off", "v1", "v2", got true'),
        ('{"tls": true}', "tls: must be an object or false, got true"),
        ('{"sticky": true}', "sticky: must be an object or false, got true"),
        ('{"sticky": {"secret": 1234567890123456}}', "sticky.secret: must be a string, got a number"),
        ('{"sticky": {"max_age": -1}}', "sticky.max_age: must be ≥ 0, got -1"),
        ('{"upgrade": "websocket"}', 'upgrade: must be a list, got "websocket": write ["websocket"]'),
        ('{"upgrade": ["websocket", "WebSocket"]}',
         "upgrade[1]: is the same as upgrade[0] (websocket); keep one"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    """Every wrong value is refused, in words that name its path, the rule and what was found."""
    assert refusals(text)[0] == message
    assert len(refusals(text)) == (2 if text.startswith('{"x"') else 1)


def test_all_problems_are_told_at_once() -> None:
    """One run shows everything that is wrong, in the order of the file."""
    text = """{
        "prot": 80,
        "servers": ["localhost:1", {"url": "http://a", "weight": 0, "backup": 2}, {"weight": 1}],
        "timeouts": {"connect": -1, "read": "x", "connect": 2},
        "workers": 0,
    }"""
    assert refusals(text) == [
        'prot: unknown key; did you mean "port"?',
        "servers[0]: has no scheme: write http://localhost:1",
        "servers[1].weight: must be ≥ 1, got 0",
        "servers[1].backup: must be true or false, got 2",
        "servers[2].url: is required",
        "timeouts.connect: must be ≥ 0, got -1",
        'timeouts.read: must be a number, got "x"',
        "timeouts.connect: appears more than once; keep one",
        "workers: must be ≥ 1, got 0",
    ]
