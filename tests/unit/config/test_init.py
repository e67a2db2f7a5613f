"""What app.config itself does: the file, the environment that wins over it, secrets in their own files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from app import config as configuration
from app.config import (
    describe,
    from_json,
    load,
    parse,
    path_from,
    strip_comments,
    to_json,
    warnings,
)
from tests.unit.config.refusals import PROJECT, load_refusals


def test_path_from_the_environment() -> None:
    """LB_CONFIG names the file, or it is config.json."""
    assert path_from({}) == "config.json"
    assert path_from({"LB_CONFIG": "/etc/lb.json"}) == "/etc/lb.json"


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


def test_the_module_is_light() -> None:
    """The master imports it before it forks: no thread, no gevent, no requests, no sockets."""
    heavy = {"gevent", "requests", "urllib3", "socket", "ssl", "threading", "asyncio", "logging"}
    code = f"import sys, app.config; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
