"""What is made from the table of keys: the schema, the documentation, what check prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from app import config as configuration
from app.config import (
    describe,
    parse,
)
from tests.unit.config.documents import documents
from tests.unit.config.refusals import PROJECT, refusals


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
    "half_close": 0,
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
    "body_rate": 100,
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
