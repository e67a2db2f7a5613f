"""Servers, algorithms, health checks: keys that are more than a list of values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import config as configuration
from app.config import (
    parse,
)
from tests.unit.config.refusals import refusals

ALGORITHMS = (
    '"round_robin", "least_connections", "random_two", "peak_ewma", "random", "first", "hash" '
    "or a class as package.module.Class"
)


def one_server(url: str) -> configuration.Server:
    return parse(json.dumps({"servers": [url]})).servers[0]


def test_a_string_and_an_object_with_only_a_url_are_the_same_server() -> None:
    """The short form is only shorter."""
    assert parse('{"servers": [{"url": "http://a"}]}').servers == (one_server("http://a"),)


def test_the_order_of_servers_is_kept() -> None:
    """Servers are in the order of the file."""
    servers = parse('{"servers": ["http://b", "http://a", {"url": "http://c"}]}').servers
    assert [server.host for server in servers] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "twin", ["HTTP://A/", "http://a:80", {"url": "http://a:0080//", "backup": True}]
)
def test_the_same_server_twice_is_refused(twin: Any) -> None:
    """Two spellings of one server are found, and both places are named."""
    assert refusals(json.dumps({"servers": ["http://a", "http://b", twin]})) == [
        "servers[2]: is the same as servers[0] (http://a); keep one"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"servers": [1]}', "servers[0]: must be a URL or an object with a url, got 1"),
        ('{"servers": [null]}', "servers[0]: must be a URL or an object with a url, got null"),
        ('{"servers": [["http://a"]]}',
         "servers[0]: must be a URL or an object with a url, got a list"),
        ('{"servers": [{}]}', "servers[0].url: is required"),
        ('{"servers": [{"url": 1}]}', "servers[0].url: must be a string, got 1"),
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
        ('{"health_check": {"type": "tcp", "body": "up"}}',
         'health_check.body: has no use with type "tcp": such a check sees no body'),
        ('{"health_check": {"method": "HEAD", "body_regex": "up"}}',
         'health_check.body_regex: has no use with method "HEAD": such a check sees no body'),
        ('{"retries": {"hedge_after": "p999"}}',
         'retries.hedge_after: must be seconds or a percentile from "p50" to "p99", got "p999"'),
        ('{"backend_tls": {"certificate": "a"}}',
         "backend_tls.key: is required with backend_tls.certificate"),
        ('{"backend_tls": {"key": "a"}}',
         "backend_tls.certificate: is required with backend_tls.key"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    """What does not belong together is refused, as well as what is not there."""
    assert refusals(text) == [message]
