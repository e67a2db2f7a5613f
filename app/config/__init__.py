"""The configuration: every key there is, how it is read, and how it is shown.

The table of keys (app.config.keys) is the one source: validation, defaults, config.schema.json and
docs/configuration.md all come from it, so that they cannot disagree. Runs in the gunicorn master at
every start and reload, in ``load_balancer.py check``, and in workers, which read the published
form. Must never know gevent, requests, the shared table or a socket, and never change the process:
values in, value out; only ``load`` opens a file. Others import from here, never from its modules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.config import secrets
from app.config.advice import warnings
from app.config.client_keys import LIMITS, TIMEOUTS
from app.config.jsonc import DEFAULT_FILE, parse_json, read_text, strip_comments
from app.config.keys import OVERRIDES, ROOT, available_cores
from app.config.model import (
    Algorithm,
    BackendTls,
    Config,
    HealthCheck,
    Limits,
    Logging,
    OutlierDetection,
    Queue,
    Retries,
    Server,
    Sticky,
    Timeouts,
    Tls,
)
from app.config.paths import located
from app.config.problems import ConfigError, Problem, attempt
from app.config.published import from_json, to_json
from app.config.reference import describe, docs, main, schema
from app.config.server_keys import SERVER
from app.config.types import Key, Object, Type, Whole

__all__ = [
    "DEFAULT_FILE",
    "LIMITS",
    "ROOT",
    "SERVER",
    "TIMEOUTS",
    "Algorithm",
    "BackendTls",
    "Config",
    "ConfigError",
    "HealthCheck",
    "Key",
    "Limits",
    "Logging",
    "Object",
    "OutlierDetection",
    "Problem",
    "Queue",
    "Retries",
    "Server",
    "Sticky",
    "Timeouts",
    "Tls",
    "available_cores",
    "describe",
    "docs",
    "from_json",
    "load",
    "main",
    "parse",
    "path_from",
    "schema",
    "strip_comments",
    "to_json",
    "warnings",
]


def path_from(environ: Mapping[str, str]) -> str:
    """The configuration file's path: LB_CONFIG, or config.json in the working directory."""
    return environ.get("LB_CONFIG", DEFAULT_FILE)


def load(path: str, environ: Mapping[str, str]) -> Config:
    """Read the file at ``path``; LB_HOST, LB_PORT, WEB_CONCURRENCY in ``environ`` win over it.

    Paths in it are absolute then, as seen from its folder.
    """
    problems: list[Problem] = []
    config = attempt(problems, "", lambda name: parse(read_text(name)), path)
    if config is not None:
        config = located(config, os.path.dirname(os.path.abspath(path)))
    # A problem with the whole file has no path of its own.
    whole = path or "LB_CONFIG"
    problems = [problem if problem.path else problem.under(whole) for problem in problems]
    overrides = _overrides(problems, environ)
    if config is not None and config.sticky is not None:
        overrides["sticky"] = secrets.from_file(problems, config.sticky)
    if problems or config is None:
        raise ConfigError(problems)
    return replace(config, **overrides)


def parse(text: str) -> Config:
    """The configuration that a file with this text gives."""
    config: Config = ROOT.read(parse_json(text))
    return config


def _overrides(problems: list[Problem], environ: Mapping[str, str]) -> dict[str, Any]:
    types = {key.name: key.type for key in ROOT.keys}
    given = ((variable, name) for variable, name in OVERRIDES if variable in environ)
    overrides: dict[str, Any] = {}
    for variable, name in given:
        value = _from_environ(environ[variable], types[name])
        overrides[name] = attempt(problems, variable, types[name].read, value)
    return overrides


def _from_environ(text: str, kind: Type) -> Any:
    is_number = isinstance(kind, Whole) and re.fullmatch(r"-?[0-9]{1,40}", text.strip())
    return int(text) if is_number else text
