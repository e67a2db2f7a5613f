"""app.config: every key, every refusal with its exact words, and what is generated from the table."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import config as configuration
from app.config import (
    LIMITS,
    ROOT,
    TIMEOUTS,
    Algorithm,
    Config,
    ConfigError,
    Key,
    Object,
    Problem,
    available_cores,
    describe,
    from_json,
    load,
    parse,
    path_from,
    strip_comments,
    to_json,
    warnings,
)
from app.config.keys import SECRETS

PROJECT = Path(__file__).parents[3]
ALGORITHMS = (
    '"round_robin", "least_connections", "random_two", "peak_ewma", "random", "first", "hash" '
    "or a class as package.module.Class"
)


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


def one_server(url: str) -> configuration.Server:
    return parse(json.dumps({"servers": [url]})).servers[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def load_refusals(path: Path | str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(str(path), environ or {})
    return [str(problem) for problem in caught.value.problems]


# --- defaults and values -------------------------------------------------------------------------


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
        timeouts=configuration.Timeouts(3.0, 60.0, 0.0, 0.0, 60.0, 75.0, 1.5, 3600.0),
        retries=configuration.Retries(2, (500, 502, 503, 504), 65_536, 0.0, 20.0, 3.0, 0.0),
        queue=configuration.Queue(1024, 3.0),
        slow_start=0.0,
        limits=configuration.Limits(0, 0, 8190, 100, 8190, 32_768, 0, 0, 0),
        logging=configuration.Logging("info", True, SECRETS),
        tls=None,
        backend_tls=configuration.BackendTls(True, None, None, None, None, "1.2"),
        send_proxy="off",
        mend_responses=(),
        trusted_proxies=(),
        proxy_protocol=(),
        forwarded="x-forwarded",
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
        },
        "send_proxy": "v2",
        "mend_responses": ["obs_fold"],
        "tls": {
            "certificate": "a.pem",
            "key": "b.pem",
            "minimum_version": "1.3",
            "client_ca": "c.pem",
            "http2": False,
        },
        "trusted_proxies": ["10.0.0.0/8", "::1"],
        "proxy_protocol": ["10.0.0.5"],
        "forwarded": "both",
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
        timeouts=configuration.Timeouts(0.1, 2, 3, 3.5, 4, 5, 6, 7),
        retries=configuration.Retries(1, (500, 503), 1024, 0.5, 12.5, 0.1, "p95"),
        queue=configuration.Queue(7, 0.25),
        slow_start=2.5,
        limits=configuration.Limits(10, 11, 300, 20, 400, 500, 12, 13, 14),
        logging=configuration.Logging("debug", False, ("pin", "token")),
        tls=configuration.Tls("a.pem", "b.pem", "1.3", "c.pem", http2=False),
        backend_tls=configuration.BackendTls(
            False, "d.pem", "app.internal", "e.pem", "f.pem", "1.3"
        ),
        send_proxy="v2",
        mend_responses=("obs_fold",),
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        proxy_protocol=("10.0.0.5/32",),
        forwarded="both",
        server_header="Example 1.0",
        upgrade=("websocket", "tcp"),
        graceful_timeout=0.5,
    )


def test_seconds_are_floats() -> None:
    """A whole number of seconds becomes a float, so that code meets one type."""
    assert type(parse('{"timeouts": {"read": 2}}').timeouts.read) is float


def test_false_switches_health_checks_off() -> None:
    """health_check: false is None in the configuration."""
    assert parse('{"health_check": false}').health_check is None


def test_a_configuration_cannot_be_changed() -> None:
    """Config is frozen: whoever wants another builds another."""
    with pytest.raises(FrozenInstanceError):
        parse("{}").port = 1  # type: ignore[misc]


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


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "url", "scheme", "host", "port", "prefix", "name"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001", "http", "127.0.0.1", 8001, "",
         "127.0.0.1:8001"),
        ("HTTP://Example.COM/", "http://example.com", "http", "example.com", 80, "",
         "example.com:80"),
        ("http://h:80", "http://h", "http", "h", 80, "", "h:80"),
        ("http://h:443", "http://h:443", "http", "h", 443, "", "h:443"),
        ("https://h:443/", "https://h", "https", "h", 443, "", "h:443"),
        ("https://h:0080", "https://h:80", "https", "h", 80, "", "h:80"),
        ("http://[::1]:8001", "http://[::1]:8001", "http", "::1", 8001, "", "[::1]:8001"),
        ("http://[2001:DB8:0:0::1]/x", "http://[2001:db8::1]/x", "http", "2001:db8::1", 80, "/x",
         "[2001:db8::1]:80/x"),
        ("http://127.0.0.1:8001/prefix/", "http://127.0.0.1:8001/prefix", "http", "127.0.0.1",
         8001, "/prefix", "127.0.0.1:8001/prefix"),
        ("http://h/A%2fb/%7E;c=d", "http://h/A%2fb/%7E;c=d", "http", "h", 80, "/A%2fb/%7E;c=d",
         "h:80/A%2fb/%7E;c=d"),
        ("http://my_app-1.svc.", "http://my_app-1.svc.", "http", "my_app-1.svc.", 80, "",
         "my_app-1.svc.:80"),
        ("unix:/run/App.sock", "unix:/run/App.sock", "unix", "/run/App.sock", 0, "",
         "unix:/run/App.sock"),
        ("UNIX:/run/ü.sock", "unix:/run/ü.sock", "unix", "/run/ü.sock", 0, "", "unix:/run/ü.sock"),
    ],
)  # fmt: skip
def test_server_urls(
    written: str, url: str, scheme: str, host: str, port: int, prefix: str, name: str
) -> None:
    """A URL is split and normalised, and the bytes of its prefix are never changed."""
    server = one_server(written)
    assert (server.url, server.scheme, server.host) == (url, scheme, host)
    assert (server.port, server.prefix, server.name) == (port, prefix, name)


def test_a_string_and_an_object_with_only_a_url_are_the_same_server() -> None:
    """The short form is only shorter."""
    assert parse('{"servers": [{"url": "http://a"}]}').servers == (one_server("http://a"),)


def test_the_order_of_servers_is_kept() -> None:
    """Servers are in the order of the file."""
    servers = parse('{"servers": ["http://b", "http://a", {"url": "http://c"}]}').servers
    assert [server.host for server in servers] == ["b", "a", "c"]


BAD_URLS = [
    ("", "must not be empty"),
    ("127.0.0.1:8001", "has no scheme: write http://127.0.0.1:8001"),
    ("localhost:8001/x", "has no scheme: write http://localhost:8001/x"),
    ("//h:1", "has no scheme: write http://h:1"),
    ("http:/h:1", "has no scheme: write http://h:1"),
    ("https:h", "has no scheme: write https://h"),
    ("http:", "has no scheme: write http://host:port"),
    ("u:secret@h:1", "has no scheme: write http://host:port"),
    ("tcp://h:1", 'must begin with http://, https:// or unix:/, got "tcp://"'),
    ("http://u:secret@h", "must not contain a user name or password (the part before @)"),
    ("ftp://u:secret@h", "must not contain a user name or password (the part before @)"),
    ("http://h/?a=b", "must not contain a query (the part from ?): a request brings its own"),
    ("http://h?", "must not contain a query (the part from ?): a request brings its own"),
    ("http://h#f",
     "must not contain a fragment (the part from #): it is never sent to a server"),
    ("http://", "has no host"),
    ("http:///path", "has no host"),
    ("http://:80", "has no host"),
    ("http://h:", 'must have a number as its port, got ""'),
    ("http://h:http", 'must have a number as its port, got "http"'),
    ("http://h:-1", 'must have a number as its port, got "-1"'),
    ("http://h:٣", 'must have a number as its port, got "٣"'),
    ("http://h:0", "must have a port from 1 to 65535, got 0"),
    ("http://h:65536", "must have a port from 1 to 65535, got 65536"),
    ("http://::1:80", "has too many colons: write an IPv6 address in brackets, as in [::1]"),
    ("http://[::1", 'has brackets that are not around an IPv6 address, got "[::1"'),
    ("http://[::1]x", 'has brackets that are not around an IPv6 address, got "[::1]x"'),
    ("http://[1.2.3.4]", 'has brackets that are not around an IPv6 address, got "1.2.3.4"'),
    ("http://[fe80::1%25eth0]", "must not have an IPv6 zone (the part from %)"),
    ("http://bücher.example",
     'has a host that is not ASCII: write its punycode form (xn--…), got "bücher.example"'),
    ("http://a..b", 'has a host that is neither an address nor a host name, got "a..b"'),
    ("http://-a", 'has a host that is neither an address nor a host name, got "-a"'),
    ("http://a%41", 'has a host that is neither an address nor a host name, got "a%41"'),
    ("http://127.1", 'has a host that is neither an address nor a host name, got "127.1"'),
    ("http://1.2.3.999", 'has a host that is neither an address nor a host name, got "1.2.3.999"'),
    ("http://0x7f.0x1", 'has a host that is neither an address nor a host name, got "0x7f.0x1"'),
    ("http://h\\x", 'has a host that is neither an address nor a host name, got "h\\\\x"'),
    ("http://h/ü", "has a path with characters that no URL may have: write them as %XX"),
    ("http://h/%4", "has a path with characters that no URL may have: write them as %XX"),
    ('http://h/"', "has a path with characters that no URL may have: write them as %XX"),
    ("http://h /", "must not contain spaces"),
    (" http://h", "must not contain spaces"),
    ("http://h\t", "must not contain control characters, found U+0009"),
    ("http://h\r\nX: y", "must not contain control characters, found U+000D"),
    ("http://h\u00a0", "must not contain control characters, found U+00A0"),
    ("http://h/\ud800", "must not contain control characters, found U+D800"),
    ("unix:run/app.sock", "must have an absolute path: unix:/run/app.sock"),
    ("unix:", "must have an absolute path: unix:/run/app.sock"),
    ("unix:///run/app.sock", "must be written with one slash: unix:/run/app.sock"),
    ("unix:/run/", "must name a socket, not a directory"),
    ("unix:/run/a?b", "must not contain ? or #"),
    ("unix:/" + "é" * 60, "has a path of 121 bytes; a Unix socket's may have 107"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
def test_bad_server_urls(url: str, message: str) -> None:
    """A URL that cannot be meant is refused with what is wrong, in both forms of a server."""
    assert refusals(json.dumps({"servers": [url]})) == [f"servers[0]: {message}"]
    assert refusals(json.dumps({"servers": [{"url": url}]})) == [f"servers[0].url: {message}"]


@pytest.mark.parametrize("url", [url for url, _ in BAD_URLS if "secret" in url])
def test_a_password_is_never_repeated(url: str) -> None:
    """What may be a credential does not reach the terminal or the log."""
    assert "secret" not in refusals(json.dumps({"servers": [url]}))[0]


@pytest.mark.parametrize(
    "twin", ["HTTP://A/", "http://a:80", {"url": "http://a:0080//", "backup": True}]
)
def test_the_same_server_twice_is_refused(twin: Any) -> None:
    """Two spellings of one server are found, and both places are named."""
    assert refusals(json.dumps({"servers": ["http://a", "http://b", twin]})) == [
        "servers[2]: is the same as servers[0] (http://a); keep one"
    ]


def test_the_longest_unix_path_is_taken() -> None:
    """107 bytes fit into sun_path, 108 do not."""
    assert len(one_server("unix:/" + "a" * 106).host) == 107
    assert refusals(json.dumps({"servers": ["unix:/" + "a" * 107]})) != []


# --- refusals ------------------------------------------------------------------------------------


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
        ('{"host": "a\\u0000b"}', "host: must not contain control characters, found U+0000"),
        ('{"host": "[::]"}',
         'host: must be an IP address or a host name, without port or brackets, got "[::]"'),
        ('{"host": "0.0.0.0:80"}',
         'host: must be an IP address or a host name, without port or brackets, got "0.0.0.0:80"'),
        ('{"servers": {}}', "servers: must be a list, got an object"),
        ('{"servers": "http://a"}',
         'servers: must be a list, got "http://a": write ["http://a"]'),
        ('{"servers": [1]}', "servers[0]: must be a URL or an object with a url, got 1"),
        ('{"servers": [null]}', "servers[0]: must be a URL or an object with a url, got null"),
        ('{"servers": [["http://a"]]}',
         "servers[0]: must be a URL or an object with a url, got a list"),
        ('{"servers": [{}]}', "servers[0].url: is required"),
        ('{"servers": [{"url": 1}]}', "servers[0].url: must be a string, got 1"),
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
        ('{"algorithm": "roundrobin"}',
         f'algorithm: must be one of {ALGORITHMS}, got "roundrobin"; did you mean "round_robin"?'),
        ('{"algorithm": "nginx"}', f'algorithm: must be one of {ALGORITHMS}, got "nginx"'),
        ('{"algorithm": 7}', "algorithm: must be an object or a name, got 7"),
        ('{"algorithm": {}}', "algorithm.name: is required"),
        ('{"algorithm": {"name": 1}}', f"algorithm.name: must be one of {ALGORITHMS}, got 1"),
        ('{"algorithm": {"name": "hash", "hash_on": "cookie"}}',
         "algorithm.hash_on: must be client_ip, path, header:Name, cookie:name or query:name, "
         'got "cookie"'),
        ('{"algorithm": {"name": "hash", "balance": 2}}',
         'algorithm.balance: is not an option of hash; did you mean "balance_factor"?'),
        ('{"algorithm": {"name": "hash", "balance_factor": 0.5}}',
         "algorithm.balance_factor: must be 0 (off) or from 1 to 10, got 0.5"),
        ('{"algorithm": {"name": "round_robin", "hash_on": "path"}}',
         "algorithm.hash_on: is not an option of round_robin; it has none"),
        ('{"algorithm": {"name": "hash", "name": "hash"}}',
         "algorithm.name: appears more than once; keep one"),
        ('{"algorithm": {"name": "a.B", "limits": [1]}}',
         "algorithm.limits: must be a string, a number or a boolean, got a list"),
        ('{"logging": {"level": "warn"}}',
         'logging.level: must be one of "debug", "info", "warning", "error", "critical", '
         'got "warn"; did you mean "warning"?'),
        ('{"logging": {"access": 0}}', "logging.access: must be true or false, got 0"),
        ('{"logging": []}', "logging: must be an object, got a list"),
        ('{"health_check": true}', "health_check: must be an object or false, got true"),
        ('{"health_check": {"path": "health"}}',
         'health_check.path: must begin with "/", got "health"'),
        ('{"health_check": {"path": "/a b"}}',
         "health_check.path: must be ASCII without spaces or #: write others as %XX"),
        ('{"health_check": {"path": "/#"}}',
         "health_check.path: must be ASCII without spaces or #: write others as %XX"),
        ('{"health_check": {"path": "/\\r\\nHost: x"}}',
         "health_check.path: must not contain control characters, found U+000D"),
        ('{"health_check": {"type": "udp"}}',
         'health_check.type: must be one of "http", "tcp", got "udp"'),
        ('{"health_check": {"method": "DELETE"}}',
         'health_check.method: must be one of "GET", "HEAD", "OPTIONS", "POST", got "DELETE"'),
        ('{"health_check": {"body_regex": "(up"}}',
         "health_check.body_regex: is not a regular expression: missing ), "
         "unterminated subpattern at position 0"),
        ('{"health_check": {"body": ""}}', "health_check.body: must not be empty"),
        ('{"health_check": {"type": "tcp", "body": "up"}}',
         'health_check.body: has no use with type "tcp": such a check sees no body'),
        ('{"health_check": {"method": "HEAD", "body_regex": "up"}}',
         'health_check.body_regex: has no use with method "HEAD": such a check sees no body'),
        ('{"health_check": {"interval": 0}}', "health_check.interval: must be ≥ 0.01, got 0"),
        ('{"health_check": {"timeout": 0}}', "health_check.timeout: must be ≥ 0.01, got 0"),
        ('{"health_check": {"jitter": 0.6}}', "health_check.jitter: must be ≤ 0.5, got 0.6"),
        ('{"health_check": {"healthy_threshold": 0}}',
         "health_check.healthy_threshold: must be ≥ 1, got 0"),
        ('{"health_check": {"host": "a b"}}',
         "health_check.host: has a host that is neither an address nor a host name, "
         'got "a b"'),
        ('{"health_check": {"host": "a:0"}}',
         "health_check.host: must have a port from 1 to 65535, got 0"),
        ('{"health_check": {"headers": []}}',
         "health_check.headers: must be an object, got a list"),
        ('{"health_check": {"headers": {"A": 1}}}',
         "health_check.headers.A: must be a string, got a number"),
        ('{"health_check": {"headers": {"A": ""}}}',
         "health_check.headers.A: must not be empty"),
        ('{"health_check": {"headers": {"A": "x\\r\\nB: y"}}}',
         "health_check.headers.A: must not contain control characters, found U+000D"),
        ('{"health_check": {"headers": {"A": " x"}}}',
         "health_check.headers.A: must be printable ASCII without spaces around it"),
        ('{"health_check": {"headers": {"A": "é"}}}',
         "health_check.headers.A: must be printable ASCII without spaces around it"),
        ('{"health_check": {"headers": {"A b": "x"}}}',
         'health_check.headers["A b"]: is not a header name: only letters, digits and '
         "!#$%&'*+-.^_`|~"),
        ('{"health_check": {"headers": {"HOST": "x"}}}',
         "health_check.headers.HOST: must not be set here: use health_check.host"),
        ('{"health_check": {"headers": {"Content-Length": "5"}}}',
         "health_check.headers.Content-Length: must not be set here: the probe writes it itself"),
        ('{"health_check": {"headers": {"A": "1", "a": "2"}}}',
         'health_check.headers.a: is the same header as "A"; keep one'),
        ('{"health_check": {"expected_status": []}}',
         "health_check.expected_status: must not be empty"),
        ('{"health_check": {"expected_status": "2xx"}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", '
         'got "2xx"'),
        ('{"health_check": {"expected_status": true}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", '
         "got true"),
        ('{"health_check": {"expected_status": [200, null]}}',
         'health_check.expected_status[1]: must be like 200, "200-399" or "200,204,300-399", '
         "got null"),
        ('{"health_check": {"expected_status": 99}}',
         'health_check.expected_status: must be like 200, "200-399" or "200,204,300-399", got 99'),
        ('{"health_check": {"expected_status": 600}}',
         "health_check.expected_status: must have status codes from 100 to 599, got 600"),
        ('{"health_check": {"expected_status": "399-200"}}',
         'health_check.expected_status: has a range that ends before it begins: write "200-399"'),
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
        ('{"logging": {"redact": ["a=b"]}}',
         'logging.redact[0]: must be the bare name of a query parameter, got "a=b"'),
        ('{"logging": {"redact": ["a", "A"]}}',
         "logging.redact[1]: is the same as redact[0] (a); keep one"),
        ('{"server_header": " x"}',
         'server_header: must be "pass", "none" or printable ASCII without spaces around it, got " x"'),
        ('{"retries": {"buffer": "64k"}}', 'retries.buffer: must be a whole number, got "64k"'),
        ('{"retries": {"budget": 101}}', "retries.budget: must be ≤ 100, got 101"),
        ('{"retries": {"min_per_second": -1}}', "retries.min_per_second: must be ≥ 0, got -1"),
        ('{"retries": {"hedge_after": -1}}', "retries.hedge_after: must be ≥ 0, got -1"),
        ('{"retries": {"hedge_after": "p999"}}',
         'retries.hedge_after: must be seconds or a percentile from "p50" to "p99", got "p999"'),
        ('{"retries": {"per_try_timeout": -1}}', "retries.per_try_timeout: must be ≥ 0, got -1"),
        ('{"limits": {"body": -1}}', "limits.body: must be ≥ 0, got -1"),
        ('{"limits": {"body": "10MB"}}', 'limits.body: must be a whole number, got "10MB"'),
        ('{"trusted_proxies": "10.0.0.0/8"}',
         'trusted_proxies: must be a list, got "10.0.0.0/8": write ["10.0.0.0/8"]'),
        ('{"trusted_proxies": ["*"]}',
         'trusted_proxies[0]: must be an address or a CIDR such as "10.0.0.0/8", got "*"'),
        ('{"trusted_proxies": ["10.0.0.1/8"]}',
         'trusted_proxies[0]: has bits set after its prefix: write "10.0.0.0/8", '
         'got "10.0.0.1/8"'),
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
         "logging, tls, backend_tls, send_proxy, mend_responses, trusted_proxies, proxy_protocol, "
         "forwarded, server_header, upgrade, graceful_timeout"),
        ('{"tls": {"certificate": "a"}}', "tls.key: is required"),
        ('{"tls": {"certificate": "a", "key": "b", "minimum_version": "1.1"}}',
         'tls.minimum_version: must be one of "1.2", "1.3", got "1.1"; did you mean "1.3"?'),
        ('{"backend_tls": {"certificate": "a"}}',
         "backend_tls.key: is required with backend_tls.certificate"),
        ('{"backend_tls": {"key": "a"}}',
         "backend_tls.certificate: is required with backend_tls.key"),
        ('{"backend_tls": {"server_name": "a b"}}',
         "backend_tls.server_name: must be an IP address or a host name, without port or brackets, "
         'got "a b"'),
        ('{"mend_responses": ["bare_cr"]}',
         'mend_responses[0]: must be one of "bare_lf", "obs_fold", got "bare_cr"; did you mean "bare_lf"?'),
        ('{"send_proxy": true}', 'send_proxy: must be one of "off", "v1", "v2", got true'),
        ('{"tls": true}', "tls: must be an object or false, got true"),
        ('{"sticky": true}', "sticky: must be an object or false, got true"),
        ('{"sticky": {"secret": "too short"}}',
         "sticky.secret: must have at least 16 characters: openssl rand -hex 32 makes a good one"),
        ('{"sticky": {"secret": 1234567890123456}}', "sticky.secret: must be a string, got a number"),
        ('{"sticky": {"cookie": "a b"}}',
         "sticky.cookie: must be letters, digits and !#$%&'*+-.^_`|~ only, got \"a b\""),
        ('{"sticky": {"path": "/a;b"}}',
         'sticky.path: must begin with "/" and be ASCII without spaces or ;, got "/a;b"'),
        ('{"sticky": {"max_age": -1}}', "sticky.max_age: must be ≥ 0, got -1"),
        ('{"upgrade": "websocket"}', 'upgrade: must be a list, got "websocket": write ["websocket"]'),
        ('{"upgrade": ["websocket", "WebSocket"]}',
         "upgrade[1]: is the same as upgrade[0] (websocket); keep one"),
        ('{"upgrade": ["HTTP/2.0"]}',
         'upgrade[0]: must be a name such as "websocket", without a version, got "HTTP/2.0"'),
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


def test_a_long_value_is_cut_in_the_message() -> None:
    """A message stays readable whatever the file holds."""
    message = refusals(json.dumps({"port": "x" * 5000}))[0]
    assert message == f'port: must be a whole number, got "{"x" * 58}…'


def test_a_number_of_thousands_of_digits_is_out_of_range() -> None:
    """Python's own limit on the digits of an int does not surface."""
    assert refusals('{"port": ' + "9" * 10_000 + "}")[0].startswith("port: must be ≤ 65535, got 9")


def test_the_error_prints_one_problem_a_line() -> None:
    """str() of the error is what an operator reads."""
    with pytest.raises(ConfigError) as caught:
        parse('{"port": 0, "workers": 0}')
    assert str(caught.value) == "port: must be ≥ 1, got 0\nworkers: must be ≥ 1, got 0"
    assert caught.value.problems[0] == Problem("port", "must be ≥ 1, got 0")


# --- comments and syntax -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2] // end", [1, 2]),
        ("// start\n[1]", [1]),
        ("[1, /* a, ] */ 2,]", [1, 2]),
        ("[1, // one\n 2, // two\n]", [1, 2]),
        ('/**/{/***/"a"/**/:/* * / */1,/**/}/**/', {"a": 1}),
        ('["//", "/* */", ",]", "\\"//", "\\\\", "a,}"]',
         ["//", "/* */", ",]", '"//', "\\", "a,}"]),
        ('{"a": [{"b": 1,},], }', {"a": [{"b": 1}]}),
        ("[1,\r\n// x\r\n]\r\n", [1]),
        ("[// x\r1]", [1]),
    ],
)  # fmt: skip
def test_comments_and_trailing_commas(text: str, value: Any) -> None:
    """Comments and trailing commas go, and everything keeps its place."""
    stripped = strip_comments(text)
    assert json.loads(stripped) == value
    assert len(stripped) == len(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "is empty: write {} for the defaults"),
        (" \n\t", "is empty: write {} for the defaults"),
        ("// nothing\n/* at all */", "is empty: write {} for the defaults"),
        ('{"a": 1\n "b": 2}', 'line 2, column 2: expected "," or the closing bracket, found "'),
        ('{"a": [1, 2', 'line 1, column 12: expected "," or the closing bracket, found the end '
         "of the file"),
        ('{"port" 1}', 'line 1, column 9: expected ":" after the key, found 1'),
        ('{"port": }', "line 1, column 10: expected a value, found }"),
        ('{\n  "port": True}', "line 2, column 11: expected a value, found True"),
        ('{"port": 08}', 'line 1, column 11: expected "," or the closing bracket, found 8'),
        ("{'port': 1}", "line 1, column 2: expected a key in double quotes, found '"),
        ("{port: 1}", "line 1, column 2: expected a key in double quotes, found port"),
        ('{"a": 1,,}', "line 1, column 9: expected a key in double quotes, found ,"),
        ("{,}", "line 1, column 2: expected a key in double quotes, found ,"),
        ("[,]", "line 1, column 2: expected a value, found ,"),
        ("{} {}", "line 1, column 4: expected the end of the file, found {"),
        ("{}\u00a0", "line 1, column 3: expected the end of the file, found the character U+00A0"),
        ('{"a": "x\n"}', 'line 1, column 9: a string is not closed on its line: " is missing'),
        ('{"a": "x', 'line 1, column 7: this string is never closed: " is missing'),
        ('{"a": "C:\\x"}', "line 1, column 10: a string has a \\ that begins no escape: write "
         "\\\\ for the character itself"),
        ("{} /* x\n\n", "line 1, column 4: this comment is never closed: */ is missing"),
        ("{} / x", "line 1, column 4: expected the end of the file, found /"),
        ("[]", "must be an object, got a list"),
        ("null", "must be an object, got null"),
        ("[" * 100_000, "is nested too deeply"),
    ],
    ids=range(24),
)  # fmt: skip
def test_a_file_that_is_not_json(file: Path, text: str, where: str) -> None:
    """A syntax error names the file, the line and column, and what was expected there."""
    file.write_bytes(text.encode())
    assert load_refusals(file) == [f"{file}: {where}"]


@given(st.text())
def test_a_string_is_never_altered_by_stripping(text: str) -> None:
    """Whatever a string holds, the comment stripper leaves it as it is."""
    for ascii_only in (True, False):
        document = json.dumps([text, {text: text}], ensure_ascii=ascii_only)
        assert strip_comments(document) == document


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
junk = st.sampled_from(
    ["", " ", "\n", "// c\n", "/* c */", '// "\n', '/* " */', "/*,]*/", "//}\n", "/**/"]
)


def decorated(value: Any, draw: Any) -> str:
    """The value as JSON with junk between all lexemes and commas that trail."""
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name)}{draw(junk)}:{draw(junk)}{decorated(item, draw)}"
            for name, item in value.items()
        ]
    elif isinstance(value, list):
        parts = [decorated(item, draw) for item in value]
    else:
        return json.dumps(value)
    trailing = "," if parts and draw(st.booleans()) else ""
    inside = "".join(f"{draw(junk)}{part}{draw(junk)}," for part in parts)[:-1]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{inside}{trailing}{draw(junk)}{closing}"


@given(json_values, st.data())
def test_comments_anywhere_change_nothing(value: Any, data: st.DataObject) -> None:
    """JSON with comments between any two lexemes means what it means without them."""
    text = data.draw(junk) + decorated(value, data.draw) + data.draw(junk)
    assert json.loads(strip_comments(text)) == value


@given(st.text(alphabet='{}[]",:/*\\ \n1a'))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in any other way than ConfigError."""
    with contextlib.suppress(ConfigError):
        parse(text)


# --- files and environment -----------------------------------------------------------------------


def test_path_from_the_environment() -> None:
    """LB_CONFIG names the file, or it is config.json."""
    assert path_from({}) == "config.json"
    assert path_from({"LB_CONFIG": "/etc/lb.json"}) == "/etc/lb.json"


def test_a_missing_file(file: Path) -> None:
    """The message names the file and what to do."""
    assert load_refusals(file) == [
        f"{file}: there is no such file: create it, or name another with LB_CONFIG"
    ]


def test_an_empty_file_name() -> None:
    """LB_CONFIG set to nothing is not taken for the current directory."""
    assert load_refusals("") == ["LB_CONFIG: must not be empty: name a file, or unset it"]


def test_a_directory(tmp_path: Path) -> None:
    """A directory is refused with the file that is probably meant."""
    assert load_refusals(tmp_path) == [
        f"{tmp_path}: is a directory: name the file in it, such as {tmp_path}/config.json"
    ]


def test_a_fifo(file: Path) -> None:
    """Nothing is read that could block the start for ever."""
    os.mkfifo(file)
    assert load_refusals(file) == [
        f"{file}: is not a regular file: it is read again at every reload"
    ]


def test_a_symbolic_link_is_followed(file: Path, tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links to files."""
    (tmp_path / "real").write_text('{"port": 81}')
    file.symlink_to("real")
    assert load(str(file), {}).port == 81


def test_an_unreadable_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's reason is told, with where to look."""
    file.write_text("{}")

    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    monkeypatch.undo()
    assert str(caught.value) == (
        f"{file}: cannot be read: Permission denied: check its owner and mode"
    )


def test_a_file_that_is_not_utf8(file: Path) -> None:
    """The first wrong byte is named with its line."""
    file.write_bytes(b"{\n  // \xe9\n}")
    assert load_refusals(file) == [
        f"{file}: line 2: byte 0xe9 is not UTF-8: save the file as UTF-8"
    ]


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    """Some editors of Windows write one."""
    file.write_bytes(b'\xef\xbb\xbf{"port": 81}')
    assert load(str(file), {}).port == 81


def test_the_environment_wins_over_the_file(file: Path) -> None:
    """LB_HOST, LB_PORT and WEB_CONCURRENCY replace what the file says, and nothing else."""
    file.write_text('{"host": "127.0.0.1", "port": 1, "workers": 1, "servers": ["http://a"]}')
    environ = {"LB_HOST": "::", "LB_PORT": "81", "WEB_CONCURRENCY": "7", "PORT": "9"}
    before = load(str(file), {})
    assert (before.host, before.port, before.workers) == ("127.0.0.1", 1, 1)
    assert load(str(file), environ) == replace(before, host="::", port=81, workers=7)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("LB_PORT", "0", "must be ≥ 1, got 0"),
        ("LB_PORT", "-1", "must be ≥ 1, got -1"),
        ("LB_PORT", "65536", "must be ≤ 65535, got 65536"),
        ("LB_PORT", "", 'must be a whole number, got ""'),
        ("LB_PORT", "8_0", 'must be a whole number, got "8_0"'),
        ("LB_PORT", "80.0", 'must be a whole number, got "80.0"'),
        ("WEB_CONCURRENCY", "auto", 'must be a whole number, got "auto"'),
        ("WEB_CONCURRENCY", "0", "must be ≥ 1, got 0"),
        ("LB_HOST", "", "must not be empty"),
        ("LB_HOST", "a:80", "must be an IP address or a host name, without port or brackets, "
         'got "a:80"'),
    ],
)  # fmt: skip
def test_bad_environment(file: Path, variable: str, text: str, message: str) -> None:
    """A variable is checked like the key that it wins over, under its own name."""
    file.write_text("{}")
    assert load_refusals(file, {variable: text}) == [f"{variable}: {message}"]


def test_problems_of_file_and_environment_together(file: Path) -> None:
    """A broken file does not hide a broken variable."""
    file.write_text("{")
    problems = load_refusals(file, {"LB_PORT": "x"})
    assert [problem.split(": ")[0] for problem in problems] == [str(file), "LB_PORT"]


def test_the_file_is_checked_even_where_the_environment_wins(file: Path) -> None:
    """A wrong value in the file is not hidden by a variable: tomorrow it may be unset."""
    file.write_text('{"port": 0}')
    assert load_refusals(file, {"LB_PORT": "80"}) == ["port: must be ≥ 1, got 0"]


# --- round trips ---------------------------------------------------------------------------------


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.builds("{}.example".format, labels),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
)
prefixes = st.from_regex(r"(/[A-Za-z0-9._~;=%-]*)*", fullmatch=True).filter(
    lambda path: re.search(r"%(?![0-9A-F]{2})", path) is None
)
urls = st.one_of(
    st.builds(
        "{}://{}:{}{}".format, st.sampled_from(["http", "HTTPS"]), hosts,
        st.integers(1, 65535), prefixes,
    ),
    st.from_regex(r"unix:/[a-zé0-9.]{1,20}", fullmatch=True),
)  # fmt: skip
seconds = st.floats(0.01, 3600)
thresholds = st.integers(1, 100)
header_values = st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True)


def told_apart(servers: list[Any]) -> list[Any]:
    """The same servers with a path that makes each the only one of its kind."""
    return [
        f"{server}/{index}"
        if isinstance(server, str)
        else {**server, "url": f"{server['url']}/{index}"}
        for index, server in enumerate(servers)
    ]


documents = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["0.0.0.0", "::", "localhost"]),
        "port": st.integers(1, 65535),
        "workers": st.integers(1, 1024),
        "servers": st.lists(
            urls | st.fixed_dictionaries(
                {"url": urls},
                optional={"weight": st.integers(1, 1000), "backup": st.booleans(),
                          "max_connections": st.integers(0, 9),
                          "state": st.sampled_from(["ready", "drain", "maint"])}),
            max_size=4).map(told_apart),
        "algorithm": st.sampled_from(["first", "hash", "a.b.C"]) | st.fixed_dictionaries(
            {"name": st.sampled_from(["hash", "a.b:C"])},
            optional={"hash_on": st.sampled_from(["path", "query:id"]),
                      "balance_factor": st.floats(1, 10)}),
        "health_check": st.just(False) | st.fixed_dictionaries(
            {},
            optional={"interval": seconds, "timeout": seconds, "healthy_threshold": thresholds,
                      "unhealthy_threshold": thresholds,
                      "panic_threshold": st.integers(0, 100),
                      "expected_status": st.lists(st.integers(100, 599), min_size=1),
                      "host": st.none() | hosts, "jitter": st.floats(0, 0.5),
                      "headers": st.dictionaries(labels.map("X-{}".format), header_values)}),
        "outlier_detection": st.just(False) | st.fixed_dictionaries(
            {}, optional={"resets": st.integers(0, 9), "ejection_time": st.floats(0.1, 100)}),
        "sticky": st.just(False) | st.fixed_dictionaries(
            {}, optional={"cookie": labels, "path": st.just("/a"), "max_age": st.integers(0, 99),
                          "secret_file": st.none() | labels}),
        "timeouts": st.dictionaries(
            st.sampled_from([key.name for key in TIMEOUTS.keys]), st.floats(0, 86400)),
        "limits": st.fixed_dictionaries(
            {}, optional={key.name: st.integers(key.type.low, key.type.high)
                          for key in LIMITS.keys}),
        "trusted_proxies": st.lists(st.ip_addresses().map(str), unique=True, max_size=3),
        "upgrade": st.lists(labels, unique_by=str.lower, max_size=3),
        "graceful_timeout": st.integers(0, 86400),
    },
)  # fmt: skip


@given(documents)
def test_published_and_described_forms_round_trip(document: dict[str, Any]) -> None:
    """to_json and describe lose nothing: reading either gives an equal configuration."""
    config = parse(json.dumps(document))
    assert from_json(to_json(config)) == config
    assert to_json(from_json(to_json(config))) == to_json(config)
    assert parse(describe(config)) == config
    assert max(map(len, describe(parse("{}")).splitlines())) <= 100


def test_describe_has_every_key_in_the_documented_order() -> None:
    """What check prints is complete, ordered like the reference, and easy to read."""
    text = describe(
        parse(
            '{"workers": 2, "servers": ["http://a:1"], "health_check": false, '
            '"logging": {"redact": ["token"]}}'
        )
    )
    assert (
        text
        == """\
{
  "host": "0.0.0.0",
  "port": 8080,
  "workers": 2,
  "servers": [
    {"url": "http://a:1", "weight": 1, "backup": false, "max_connections": 0, "state": "ready"}
  ],
  "algorithm": "round_robin",
  "health_check": false,
  "outlier_detection": {
    "connect_failures": 3,
    "resets": 5,
    "server_errors": 5,
    "failure_rate": 50,
    "stall_after": 0.3,
    "stall_requests": 3,
    "ejection_time": 0.5,
    "max_ejection_time": 300
  },
  "sticky": false,
  "timeouts": {
    "connect": 3,
    "read": 60,
    "total": 0,
    "head": 0,
    "client": 60,
    "keepalive": 75,
    "backend_keepalive": 1.5,
    "tunnel": 3600
  },
  "retries": {
    "attempts": 2,
    "statuses": [500, 502, 503, 504],
    "buffer": 65536,
    "per_try_timeout": 0,
    "budget": 20,
    "min_per_second": 3,
    "hedge_after": 0
  },
  "queue": {"size": 1024, "timeout": 3},
  "slow_start": 0,
  "limits": {
    "body": 0,
    "connections": 0,
    "request_line": 8190,
    "header_count": 100,
    "header_size": 8190,
    "headers_size": 32768,
    "body_rate": 0,
    "requests_per_connection": 0,
    "connections_per_client": 0
  },
  "logging": {"level": "info", "access": true, "redact": ["token"]},
  "tls": false,
  "backend_tls": {
    "verify": true,
    "ca": null,
    "server_name": null,
    "certificate": null,
    "key": null,
    "minimum_version": "1.2"
  },
  "send_proxy": "off",
  "mend_responses": [],
  "trusted_proxies": [],
  "proxy_protocol": [],
  "forwarded": "x-forwarded",
  "server_header": "pass",
  "upgrade": ["websocket"],
  "graceful_timeout": 30
}
"""
    )


def test_a_secret_is_not_described(file: Path) -> None:
    """What is printed ends up in logs; and it is too short to be taken for a secret."""
    secret = "0123456789abcdef"
    text = describe(parse(f'{{"sticky": {{"secret": "{secret}"}}}}'))
    assert secret not in text
    assert secret not in repr(parse(f'{{"sticky": {{"secret": "{secret}"}}}}'))
    assert refusals(text) == [
        "sticky.secret: must have at least 16 characters: openssl rand -hex 32 makes a good one"
    ]


def test_a_secret_in_a_file(file: Path, tmp_path: Path) -> None:
    """Read at each load, published to the workers, not shown; what was printed can be loaded again."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(" 0123456789abcdef\n")
    file.write_text(json.dumps({"sticky": {"secret_file": str(secret_file)}}))
    loaded = load(str(file), {})
    assert loaded.sticky is not None
    assert loaded.sticky.secret == "0123456789abcdef"
    assert from_json(to_json(loaded)) == loaded
    assert "0123456789abcdef" not in describe(loaded)
    file.write_text(describe(loaded))
    assert load(str(file), {}) == loaded


def test_bad_files_of_secrets(file: Path, tmp_path: Path) -> None:
    """Nothing is started without the secret that was meant."""
    secret_file = tmp_path / "secret"
    file.write_text(json.dumps({"sticky": {"secret_file": str(secret_file)}}))
    assert load_refusals(file) == [
        "sticky.secret_file: there is no such file: create it, or name another one"
    ]
    secret_file.write_text("short\n")
    assert load_refusals(file) == [
        "sticky.secret_file: must have at least 16 characters: openssl rand -hex 32 makes a good one"
    ]
    both = {"secret": "0123456789abcdef", "secret_file": str(secret_file)}
    file.write_text(json.dumps({"sticky": both}))
    assert load_refusals(file) == [
        "sticky.secret_file: is given beside sticky.secret: keep one of them"
    ]


# --- warnings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"servers": []}, ["servers: there are none: every request is answered 503"]),
        ({"health_check": {"interval": 2, "timeout": 2}}, []),
        ({"health_check": {"interval": 1.5}},
         ["health_check.timeout: 2 s is longer than health_check.interval (1.5 s): a server that "
          "hangs is checked less often than the interval says"]),
        ({"health_check": False}, []),
        ({"timeouts": {"backend_keepalive": 4.9}}, []),
        ({"timeouts": {"backend_keepalive": 5}},
         ["timeouts.backend_keepalive: idle connections are kept for 5 s: many servers close "
          "theirs after 2 to 5 s, and a request may meet one being closed"]),
        ({"timeouts": {"backend_keepalive": 0}},
         ["timeouts.backend_keepalive: idle connections are kept for ever (0): many servers close "
          "theirs after 2 to 5 s, and a request may meet one being closed"]),
        ({"sticky": {}},
         ["sticky.secret: none is given, one is made at each start: clients get another server after a "
          "restart, and on another machine"]),
        ({"sticky": {"secret": "0123456789abcdef"}}, []),
        ({"trusted_proxies": ["10.0.0.0/8", "0.0.0.0/0"]},
         ["trusted_proxies[1]: 0.0.0.0/0 lets every client forge its address"]),
        ({"proxy_protocol": ["::/0"]},
         ["proxy_protocol[0]: ::/0 lets every client forge its address, and refuses those that send "
          "no header"]),
        ({"servers": ["https://a"]}, []),
        ({"backend_tls": {"ca": "a.pem"}},
         ["backend_tls: has no effect: no server's URL begins with https://"]),
        ({"servers": ["http://b", "https://a"], "backend_tls": {"verify": False, "ca": "a.pem"}},
         ["backend_tls.verify: certificates of https:// servers are not verified: whoever is on the "
          "way can read and change what is sent",
          "backend_tls.ca: has no effect while backend_tls.verify is false"]),
        ({"upgrade": ["websocket", "H2C"]},
         ["upgrade[1]: h2c: requests inside such a tunnel are neither checked, balanced nor logged"]),
        ({"port": 81, "servers": ["http://a:81", "http://localhost:81"]},
         ["servers[1]: http://localhost:81 is where this load balancer itself listens"]),
        ({"port": 81, "host": "10.0.0.1", "servers": ["http://127.0.0.1:81"]}, []),
        ({"port": 81, "host": "10.0.0.1", "servers": ["http://10.0.0.1:81"]},
         ["servers[0]: http://10.0.0.1:81 is where this load balancer itself listens"]),
    ],
)  # fmt: skip
def test_warnings(changes: dict[str, Any], expected: list[str]) -> None:
    """What is valid but looks like a mistake is said, and nothing else is."""
    config = parse(json.dumps({"servers": ["http://a"], **changes}))
    assert [str(problem) for problem in warnings(config)] == expected


# --- the table and what is generated from it -----------------------------------------------------


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


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("config.schema.json", lambda: json.dumps(configuration.schema(), indent=2) + "\n"),
        ("docs/configuration.md", configuration.docs),
    ],
)
def test_generated_files_are_current(path: str, make: Any) -> None:
    """The checked-in schema and reference are what the table gives now."""
    if path.endswith(".json"):
        assert json.loads((PROJECT / path).read_text("utf-8")) == json.loads(make())
    else:
        assert (PROJECT / path).read_text("utf-8") == make()


@pytest.mark.parametrize(
    ("argument", "path"), [("schema", "config.schema.json"), ("docs", "docs/configuration.md")]
)
def test_the_command_prints_the_checked_in_file(
    argument: str, path: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`python -m app.config schema|docs` gives the files byte for byte."""
    assert configuration.main([argument]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == (PROJECT / path).read_bytes()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["schema", "docs"]])
def test_the_command_says_how_it_is_used(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything else is answered with the usage and status 2."""
    assert configuration.main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m app.config {schema|docs}\n"


def test_the_schema_is_a_valid_schema() -> None:
    """Draft 2020-12's own schema accepts ours."""
    jsonschema.Draft202012Validator.check_schema(configuration.schema())


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, True),
        ({"$schema": "./config.schema.json", "servers": ["http://a", {"url": "unix:/x"}]}, True),
        ({"health_check": False}, True),
        ({"health_check": {"expected_status": "200,300-399", "host": None}}, True),
        ({"health_check": {"expected_status": [200, "300-399"]}}, True),
        ({"servers": ["HTTPS://[::1]:1/x"]}, True),
        ({"health_check": True}, False),
        ({"prot": 1}, False),
        ({"port": 0}, False),
        ({"port": "80"}, False),
        ({"servers": ["localhost:80"]}, False),
        ({"servers": [{"weight": 1}]}, False),
        ({"servers": [{"url": "http://a", "weight": 0}]}, False),
        ({"servers": ["http://a?b"]}, False),
        ({"algorithm": "ip_hash"}, False),
        ({"algorithm": "package.module.Class"}, True),
        ({"algorithm": {"name": "package.module:Class", "limit": 3, "mode": "x"}}, True),
        ({"algorithm": {"name": "hash", "hash_on": "header:X-User", "balance_factor": 1.25}}, True),
        ({"algorithm": {"name": "hash", "balance_factor": 0}}, True),
        ({"algorithm": {"name": "hash", "balance_factor": 0.5}}, False),
        ({"algorithm": {"name": "hash", "hash_on": "header:"}}, False),
        ({"algorithm": {"name": "random_two", "hash_on": "path"}}, False),
        ({"algorithm": {"hash_on": "path"}}, False),
        ({"timeouts": {"connect": -1}}, False),
        ({"health_check": {"jitter": 0.6}}, False),
        ({"health_check": {"headers": {"a b": "c"}}}, False),
        ({"health_check": {"expected_status": "2xx"}}, False),
        ({"health_check": {"path": "x"}}, False),
        ({"logging": {"level": "loud"}}, False),
    ],
)
def test_schema_and_reader_agree(document: dict[str, Any], valid: bool) -> None:
    """An editor marks what the load balancer would refuse, and nothing that it would take."""
    validator = jsonschema.Draft202012Validator(configuration.schema())
    assert validator.is_valid(document) is valid
    if valid:
        parse(json.dumps(document))
    else:
        assert refusals(json.dumps(document))


@given(documents)
def test_the_schema_accepts_what_the_reader_accepts(document: dict[str, Any]) -> None:
    """No valid file is marked as wrong by an editor, in neither the short nor the full form."""
    validator = jsonschema.Draft202012Validator(configuration.schema())
    assert validator.is_valid(document)


def test_the_shipped_example_is_valid_and_without_warnings() -> None:
    """config.json at the root loads as it is, with the two demo servers."""
    config = load(str(PROJECT / "config.json"), {})
    assert [server.url for server in config.servers] == [
        "http://127.0.0.1:8001",
        "http://127.0.0.1:8002",
    ]
    assert config == replace(parse("{}"), servers=config.servers)
    assert warnings(config) == ()
    stripped = strip_comments((PROJECT / "config.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(configuration.schema()).validate(json.loads(stripped))


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_each_level_is_taken(level: str) -> None:
    """The levels of the standard library, by their names in lower case."""
    assert parse(json.dumps({"logging": {"level": level}})).logging.level == level


def test_the_module_is_light() -> None:
    """The master imports it before it forks: no thread, no gevent, no requests, no sockets."""
    heavy = {"gevent", "requests", "urllib3", "socket", "ssl", "threading", "asyncio", "logging"}
    code = f"import sys, app.config; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_available_cores_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under taskset the default number of workers is what the process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
    assert parse("{}").workers == 3
