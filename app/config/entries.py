"""Keys that are more than one value of a type: a server, an algorithm, a health check.

Owns what belongs together in one object. Runs wherever a configuration is read; pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.config import checks
from app.config.model import Algorithm, BackendTls, HealthCheck, Server
from app.config.problems import (
    ConfigError,
    Problem,
    attempt,
    got,
    key_path,
    members_of,
    refuse,
    suggest,
)
from app.config.types import Number, Object, Text
from app.policies import POLICIES, Definition

URL = Text(
    checks.normal_url,
    "URL: http://, https:// or unix:/path",
    r"^([Hh][Tt][Tt][Pp][Ss]?://[^\s?#]+|[Uu][Nn][Ii][Xx]:/[^\s?#]+)$",
)
HASH_ON: Text = Text(
    checks.hash_on, "client_ip, path, header:Name, cookie:name or query:name", f"^{checks.HASH_ON}$"
)
HASH_ON_DEFAULT = "client_ip"
PERCENTILE = "^p[5-9][0-9]$"


@dataclass(frozen=True)
class AlgorithmEntry:
    """A key that takes a policy: its name alone, or an object with the options that app.policies declares."""

    def read(self, value: Any) -> Algorithm:
        if isinstance(value, str):
            return self._with_options(self._name(value), ())
        members = members_of(value, " or a name")
        names = [given for name, given in members if name == "name"]
        if not names:
            raise ConfigError([Problem("name", "is required")])
        problems: list[Problem] = []
        name = attempt(problems, "name", self._name, names[0])
        if name is None:
            raise ConfigError(problems)
        return self._with_options(name, members)

    def write(self, value: Algorithm) -> Any:
        if not value.hash_on:
            return value.name
        return {"name": value.name, "hash_on": value.hash_on, **dict(value.options)}

    def schema(self) -> dict[str, Any]:
        custom = {"type": "string", "pattern": f"^{checks.DOTTED}$"}
        scalar = {"type": ["string", "number", "boolean"]}
        made: dict[str, Any] = {
            "anyOf": [
                {"enum": list(POLICIES)},
                custom,
                *map(self._policy_schema, POLICIES.values()),
                {
                    "type": "object",
                    "properties": {"name": custom, "hash_on": HASH_ON.schema()},
                    "required": ["name"],
                    "additionalProperties": scalar,
                },
            ]
        }
        return made

    def words(self) -> str:
        names = ", ".join(f'"{name}"' for name in POLICIES)
        return f"{names}, a class as package.module.Class, or an object with `name` and options"

    def _name(self, value: Any) -> str:
        if isinstance(value, str) and (value in POLICIES or re.fullmatch(checks.DOTTED, value)):
            return value
        names = ", ".join(f'"{name}"' for name in POLICIES)
        hint = suggest(value, POLICIES) if isinstance(value, str) else ""
        refuse(f"must be one of {names} or a class as package.module.Class, got {got(value)}{hint}")

    def _with_options(self, name: str, members: Sequence[tuple[str, Any]]) -> Algorithm:
        definition = POLICIES.get(name)
        has_key = definition is None or "key" in definition.reads
        problems: list[Problem] = []
        given: dict[str, Any] = {}
        hash_on = HASH_ON_DEFAULT if has_key else ""
        for option, value in members:
            path = key_path(option)
            if option in given:
                problems.append(Problem(path, "appears more than once; keep one"))
            elif option == "hash_on" and has_key:
                hash_on = attempt(problems, path, HASH_ON.read, value) or ""
            elif definition is None and option != "name":
                attempt(problems, path, checks.scalar, value)
            given[option] = value
        given.pop("name", None)
        given.pop("hash_on" if has_key else "", None)
        if definition is not None:
            problems += checks.option_problems(definition, given, has_key)
            given = {o.name: given.get(o.name, o.default) for o in definition.options}
        if problems:
            raise ConfigError(problems)
        return Algorithm(name, hash_on, tuple(given.items()))

    def _policy_schema(self, definition: Definition) -> dict[str, Any]:
        properties: dict[str, Any] = {"name": {"const": definition.name}}
        if "key" in definition.reads:
            properties["hash_on"] = {"default": HASH_ON_DEFAULT, **HASH_ON.schema()}
        for option in definition.options:
            kind: dict[str, Any]
            if option.choices:
                kind = {"enum": list(option.choices)}
            else:
                kind = {"type": "integer" if option.type is int else "number"}
                kind["minimum"], kind["maximum"] = option.minimum, option.maximum
                if option.off is not None:
                    kind = {"anyOf": [{"const": option.off}, kind]}
            properties[option.name] = {
                "description": option.summary, "default": option.default, **kind
            }  # fmt: skip
        return {
            "type": "object",
            "description": definition.summary,
            "properties": properties,
            "required": ["name"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class ServerEntry:
    """A key that takes a server: its URL alone, or an object with more said about it."""

    members: Object

    def read(self, value: Any) -> Server:
        server: Server
        if isinstance(value, str):
            server = self.members.read((("url", URL.read(value)),))
        elif isinstance(value, tuple):
            server = self.members.read(value)
        else:
            refuse(f"must be a URL or an object with a url, got {got(value)}")
        return server

    def write(self, value: Server) -> Any:
        return self.members.write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [URL.schema(), self.members.schema()]}

    def words(self) -> str:
        return "URL or object"


def server_from(url: str, weight: int, backup: bool, max_connections: int, state: str) -> Server:
    """A server from its keys, its URL taken apart."""
    scheme, host, port, prefix = checks.split_url(url)
    return Server(url, scheme, host, port, prefix, weight, backup, max_connections, state)


def health_check_from(**values: Any) -> HealthCheck:
    """A health check from its keys. ConfigError if they do not go together."""
    bodiless = {"type": "tcp", "method": "HEAD"}
    problems = [
        Problem(wanted, f"has no use with {key} {json.dumps(value)}: such a check sees no body")
        for key, value in bodiless.items()
        for wanted in ("body", "body_regex")
        if values[key] == value and values[wanted] is not None
    ]
    if problems:
        raise ConfigError(problems)
    return HealthCheck(**values)


@dataclass(frozen=True)
class Delay:
    """A key that takes seconds, or a percentile of the times that answers take."""

    low: float
    high: float

    def read(self, value: Any) -> float | str:
        if not isinstance(value, str):
            return self._seconds.read(value)
        if not re.fullmatch(PERCENTILE, value):
            refuse(f'must be seconds or a percentile from "p50" to "p99", got {got(value)}')
        return value

    def write(self, value: float | str) -> float | str:
        return value if isinstance(value, str) else self._seconds.write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self._seconds.schema(), {"type": "string", "pattern": PERCENTILE}]}

    def words(self) -> str:
        return f'{self._seconds.words()}, or a percentile, "p50"–"p99"'

    @property
    def _seconds(self) -> Number:
        return Number(self.low, self.high)


def backend_tls_from(**values: Any) -> BackendTls:
    """What https:// servers are shown, from its keys. ConfigError for a certificate without its key."""
    for one, other in (("certificate", "key"), ("key", "certificate")):
        if values[one] is not None and values[other] is None:
            raise ConfigError([Problem(other, f"is required with backend_tls.{one}")])
    return BackendTls(**values)
