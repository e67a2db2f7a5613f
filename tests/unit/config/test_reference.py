"""What is made from the table of keys: the schema, the documentation, what check prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
            '"logging": {"redact": ["token"]}, "trusted_headers": ["Remote-User"]}'
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
    "minimum_version": "1.2",
    "ciphers": [],
    "curves": []
  },
  "send_proxy": "off",
  "mend_responses": [],
  "trusted_proxies": [],
  "trusted_headers": ["Remote-User"],
  "proxy_protocol": [],
  "forwarded": "x-forwarded",
  "via": "none",
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


def patterns_in(schema: Any) -> Iterator[str]:
    """Every regular expression of the schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for part in schema.values():
            yield from patterns_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from patterns_in(part)


# What ECMA-262 §22.2.1 has with the flag "u", as JSON Schema wants its patterns (draft 2020-12, core §6.4):
# an escape stands for a class, a control character or a character that has a meaning; nothing else.
ECMA_ESCAPE = re.compile(
    r"\\(?:[dDwWsSbBfnrtv0]|[\^$\\.*+?()\[\]{}|/-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})"
)
PYTHONS_OWN = re.compile(r"\(\?(?!:|=|!|<=|<!|<[A-Za-z_])|[*+?}]\+|\(\?#")


@pytest.mark.parametrize("pattern", sorted(set(patterns_in(configuration.schema()))))
def test_editors_can_compile_every_pattern(pattern: str) -> None:
    """Those of JavaScript refuse an escape that means nothing, and what only Python has."""
    assert "\\" not in ECMA_ESCAPE.sub("", pattern)
    assert not PYTHONS_OWN.search(re.sub(r"\[[^\]]*\]", "", pattern))
    node = shutil.which("node")
    if node is not None:
        done = subprocess.run(
            [node, "-e", "new RegExp(process.argv[1], 'u')", pattern], check=False
        )
        assert done.returncode == 0


def test_what_is_printed_has_no_secret() -> None:
    """Values of the checks' headers, and what a name says is one, in their path and a class's options."""
    text = json.dumps(
        {
            "algorithm": {"name": "mine.Own", "token": "s3cr3t", "limit": 20},
            "health_check": {
                "path": "/healthz?token=s3cr3t&full=1",
                "headers": {"Authorization": "Bearer s3cr3t", "X-Key": "s3cr3t"},
            },
        }
    )
    printed = describe(parse(text))
    assert "s3cr3t" not in printed
    assert "Bearer" not in repr(parse(text).health_check)
    for shown in ('"X-Key": ', "/healthz?token=***&full=1", '"limit": 20'):
        assert shown in printed
    # It is not taken for the real thing.
    assert [problem.partition(":")[0] for problem in refusals(printed)] == [
        "health_check.headers.Authorization",
        "health_check.headers.X-Key",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"sticky": {"secret": s3cr3t-s3cr3t-s3cr3t}}',
        '{"sticky": {"secret": "x"s3cr3t}}',
        '{"sticky": "s3cr3t"}',
        '{"sticky": {"secret": "s3cr3t"}}',
        '{"sticky": {"secret": ["s3cr3t"]}}',
        '{"health_check": {"headers": "Authorization: Bearer s3cr3t"}}',
        '{"health_check": {"headers": {"Authorization: Bearer s3cr3t": ""}}}',
        '{"health_check": {"headers": {"Authorization": "s3cr3t\\u0007"}}}',
        '{"servers": ["http://user:s3cr3t@a"]}',
        '{"servers": ["http://user:s3cr3t/x@a"]}',
        '{"servers": ["http://user:s3cr3t?x@a"]}',
        '{"servers": ["user:s3cr3t@a"]}',
    ],
)
def test_problems_repeat_no_secret(text: str) -> None:
    """Wherever it was written by mistake, what is wrong ends up in a log."""
    assert "s3cr3t" not in "\n".join(refusals(text))
