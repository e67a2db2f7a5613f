"""The configuration: every key there is, how it is read, and how it is shown.

Owns the table of keys below (``ROOT``). Validation, defaults, config.schema.json and
docs/configuration.md all come from that one table, so that they cannot disagree. Runs in the
gunicorn master at every start and reload, in ``load_balancer.py check``, and in workers, which read
the published form. Must never know gevent, requests, the shared table or a socket, and never change
the process: values in, value out; only ``load`` opens a file.

Reading never stops at the first mistake: each reader raises ConfigError with paths relative to
itself, its caller puts its own path in front, and the user sees every problem at once.

``python -m app.config schema`` and ``python -m app.config docs`` print the two generated files.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn, Protocol, TypeVar

from app.policies import POLICIES, Definition

T = TypeVar("T")

DEFAULT_FILE = "config.json"
DEFAULT_PORTS = {"http": 80, "https": 443}
UNIX_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108 with its final NUL (unix(7))
DAY_S = 86_400
LINE_WIDTH = 100
# Node and uvicorn close idle connections after 5 s, gunicorn after 2 s: at or above this, a request
# can meet a connection that its server is just closing.
KEEPALIVE_RACE_S = 5


# --- what the rest of the program sees -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (or, from ``warnings``, suspicious), and where."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"

    def under(self, parent: str) -> Problem:
        """The same problem, seen from outside ``parent``."""
        dot = "." if parent and self.path and not self.path.startswith("[") else ""
        return Problem(parent + dot + self.path, self.message)


class ConfigError(Exception):
    """The configuration is refused; ``problems`` has every reason, ``str()`` one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def _refuse(message: str) -> NoReturn:
    raise ConfigError([Problem("", message)])


@dataclass(frozen=True, slots=True)
class Server:
    """One backend. ``url`` is normalised and is its identity; for unix, ``host`` is the path."""

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
        return f"{_bracketed(self.host)}:{self.port}{self.prefix}"


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
    path: str
    interval: float
    timeout: float
    healthy_threshold: int
    unhealthy_threshold: int
    expected_status: tuple[tuple[int, int], ...]
    host: str | None
    headers: tuple[tuple[str, str], ...]
    jitter: float


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Failures in a row that eject a server, by kind (0 = never), and for how many seconds."""

    connect_failures: int
    resets: int
    server_errors: int
    ejection_time: float
    max_ejection_time: float


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 = none."""

    connect: float
    read: float
    total: float
    client: float
    keepalive: float
    backend_keepalive: float
    tunnel: float


@dataclass(frozen=True, slots=True)
class Retries:
    attempts: int
    statuses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """0 = unlimited."""

    body: int
    connections: int


@dataclass(frozen=True, slots=True)
class Logging:
    level: str
    access: bool


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths as written: relative to the working directory."""

    certificate: str
    key: str
    minimum_version: str
    client_ca: str | None


@dataclass(frozen=True, slots=True)
class Config:
    host: str
    port: int
    workers: int
    servers: tuple[Server, ...]
    algorithm: Algorithm
    health_check: HealthCheck | None
    outlier_detection: OutlierDetection | None
    timeouts: Timeouts
    retries: Retries
    limits: Limits
    logging: Logging
    tls: Tls | None
    trusted_proxies: tuple[str, ...]
    upgrade: tuple[str, ...]
    graceful_timeout: float


# --- verbs ---------------------------------------------------------------------------------------


def path_from(environ: Mapping[str, str]) -> str:
    """The configuration file's path: LB_CONFIG, or config.json in the working directory."""
    return environ.get("LB_CONFIG", DEFAULT_FILE)


def load(path: str, environ: Mapping[str, str]) -> Config:
    """Read the file at ``path``; LB_HOST, LB_PORT, WEB_CONCURRENCY in ``environ`` win over it."""
    problems: list[Problem] = []
    config = _attempt(problems, "", lambda name: parse(_text(name)), path)
    # A problem with the whole file has no path of its own.
    whole = path or "LB_CONFIG"
    problems = [problem if problem.path else problem.under(whole) for problem in problems]
    overrides = _overrides(problems, environ)
    if problems or config is None:
        raise ConfigError(problems)
    return replace(config, **overrides)


def to_json(config: Config) -> bytes:
    """The published form: the effective configuration with every default filled in."""
    return json.dumps(ROOT.write(config), separators=(",", ":")).encode()


def from_json(data: bytes) -> Config:
    """The configuration that ``to_json`` wrote; there are no comments in it to look for."""
    config: Config = ROOT.read(json.loads(data, object_pairs_hook=tuple))
    return config


def parse(text: str) -> Config:
    """The configuration that a file with this text gives."""
    config: Config = ROOT.read(_parse(text))
    return config


def describe(config: Config) -> str:
    """The effective configuration for people: pretty JSON, loadable again to an equal Config."""
    return _pretty(ROOT.write(config), top=True) + "\n"


def warnings(config: Config) -> tuple[Problem, ...]:
    """What is valid but looks like a mistake."""
    return tuple(Problem(path, message) for path, message in _suspicions(config))


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of config.json, for editors; config.schema.json is this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Load balancer configuration",
        "description": "Generated from app/config.py by `python -m app.config schema`.",
        # VS Code's own keywords; validators ignore them, as draft 2020-12 asks of unknown ones.
        "allowComments": True,
        "allowTrailingCommas": True,
        **ROOT.schema(),
    }


def available_cores() -> int:
    """Cores this process may run on: fewer than the machine has under taskset or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- types of values -----------------------------------------------------------------------------


class Type(Protocol):
    """What one key accepts."""

    def read(self, value: Any) -> Any:
        """The value as Config holds it; raises ConfigError."""

    def write(self, value: Any) -> Any:
        """The way back, to JSON."""

    def schema(self) -> dict[str, Any]: ...

    def words(self) -> str:
        """Type and range for people."""


@dataclass(frozen=True)
class Whole:
    low: int
    high: int
    unit: str = "whole number"

    def read(self, value: Any) -> int:
        if type(value) is not int:  # bool is an int to isinstance
            _refuse(f"must be a whole number, got {_got(value)}{_unquote(value, _DIGITS)}")
        _check_range(value, self.low, self.high)
        return int(value)

    def write(self, value: int) -> int:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def words(self) -> str:
        return f"{self.unit}, {self.low}–{self.high}"


@dataclass(frozen=True)
class Number:
    low: float
    high: float
    unit: str = "seconds"

    def read(self, value: Any) -> float:
        if type(value) is not int and type(value) is not float:
            _refuse(f"must be a number, got {_got(value)}{_unquote(value, _DECIMAL)}")
        if not math.isfinite(value):
            _refuse(f"must be a finite number, got {_got(value)}")
        _check_range(value, self.low, self.high)
        return float(value)

    def write(self, value: float) -> float | int:
        return int(value) if value.is_integer() else value

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def words(self) -> str:
        return f"{self.unit}, {self.low}–{self.high}"


@dataclass(frozen=True)
class Flag:
    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            _refuse(f"must be true or false, got {_got(value)}{_unquote(value, _BOOLEAN)}")
        return value

    def write(self, value: bool) -> bool:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def words(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice:
    names: tuple[str, ...]

    def read(self, value: Any) -> str:
        if value in self.names:
            return str(value)
        listed = self.words()
        hint = _suggest(value, self.names) if isinstance(value, str) else ""
        _refuse(f"must be {listed}, got {_got(value)}{hint}")

    def write(self, value: str) -> str:
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.names)}

    def words(self) -> str:
        listed = ", ".join(f'"{name}"' for name in self.names)
        return f"one of {listed}" if len(self.names) > 1 else listed


@dataclass(frozen=True)
class Text:
    """A string that ``check`` refuses or returns as Config holds it."""

    check: Callable[[str], str]
    what: str
    pattern: str = r"^\S+$"

    def read(self, value: Any) -> str:
        return self.check(_plain(value))

    def write(self, value: str) -> str:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern}

    def words(self) -> str:
        return self.what


@dataclass(frozen=True)
class Nullable:
    inner: Text

    def read(self, value: Any) -> str | None:
        return None if value is None else self.inner.read(value)

    def write(self, value: str | None) -> str | None:
        return value

    def schema(self) -> dict[str, Any]:
        return {**self.inner.schema(), "type": ["string", "null"]}

    def words(self) -> str:
        return f"{self.inner.words()}, or null"


@dataclass(frozen=True)
class Statuses:
    """Status codes and ranges of them, kept sorted and merged."""

    def read(self, value: Any) -> tuple[tuple[int, int], ...]:
        if not isinstance(value, list):
            return _merged(_status_ranges(value))
        if not value:
            _refuse("must not be empty")
        problems: list[Problem] = []
        ranges: list[tuple[int, int]] = []
        for index, item in enumerate(value):
            ranges += _attempt(problems, f"[{index}]", _status_ranges, item) or ()
        if problems:
            raise ConfigError(problems)
        return _merged(ranges)

    def write(self, value: tuple[tuple[int, int], ...]) -> str:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in value)

    def schema(self) -> dict[str, Any]:
        code = {"type": "integer", "minimum": 100, "maximum": 599}
        part = r"\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2}\s*)?"
        text = {"type": "string", "pattern": f"^{part}(,{part})*$"}
        many = {"type": "array", "items": {"anyOf": [code, text]}, "minItems": 1}
        return {"anyOf": [code, text, many]}

    def words(self) -> str:
        return "status codes 100–599: a code, a range, or a list of them"


@dataclass(frozen=True)
class Headers:
    def read(self, value: Any) -> tuple[tuple[str, str], ...]:
        problems: list[Problem] = []
        fields: dict[str, tuple[str, str]] = {}
        for name, content in _members(value):
            path = _key_path(name)
            if _attempt(problems, path, _header_name, name) is None:
                continue
            twin = fields.get(name.lower())
            if twin is not None:
                problems.append(Problem(path, f'is the same header as "{twin[0]}"; keep one'))
                continue
            text = _attempt(problems, path, _header_value, content)
            fields[name.lower()] = (name, text or "")
        if problems:
            raise ConfigError(problems)
        return tuple(fields.values())

    def write(self, value: tuple[tuple[str, str], ...]) -> dict[str, str]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{_HEADER_NAME}$"},
            "additionalProperties": {"type": "string", "pattern": "^[!-~]([ -~]*[!-~])?$"},
        }

    def words(self) -> str:
        return "object of name: value"


@dataclass(frozen=True)
class ListOf:
    """A list without two items of one identity; ``name`` is its key, so that a problem names both."""

    name: str
    item: Type
    identity: Callable[[Any], str]
    what: str

    def read(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            remedy = f": write [{_got(value)}]" if isinstance(value, str) else ""
            _refuse(f"must be a list, got {_got(value)}{remedy}")
        problems: list[Problem] = []
        items: list[Any] = []
        first: dict[str, int] = {}
        for index, raw in enumerate(value):
            item = _attempt(problems, f"[{index}]", self.item.read, raw)
            if item is None:
                continue
            identity = self.identity(item)
            earlier = first.setdefault(identity, index)
            if earlier != index:
                message = f"is the same as {self.name}[{earlier}] ({identity}); keep one"
                problems.append(Problem(f"[{index}]", message))
            items.append(item)
        if problems:
            raise ConfigError(problems)
        return tuple(items)

    def write(self, value: tuple[Any, ...]) -> list[Any]:
        return [self.item.write(item) for item in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}

    def words(self) -> str:
        return self.what


@dataclass(frozen=True)
class Key:
    """One key: its name, what it accepts, its default as Config holds it, its one line of docs.

    A callable default is computed at each reading; ``default_words`` says what it is. ``examples``
    are as written in JSON.
    """

    name: str
    type: Type
    default: Any
    doc: str
    default_words: str = ""
    examples: tuple[Any, ...] = ()
    required: bool = False

    def fallback(self) -> Any:
        return self.default() if callable(self.default) else self.default

    def schema(self) -> dict[str, Any]:
        made = {"description": self.doc, **self.type.schema()}
        if self.default is not None and not callable(self.default):
            made["default"] = self.type.write(self.default)
        if self.examples:
            made["examples"] = list(self.examples)
        return made


@dataclass(frozen=True)
class Object:
    """An object with exactly these keys. With ``or_false``, false stands for None."""

    make: Callable[..., Any]
    keys: tuple[Key, ...]
    or_false: bool = False

    def read(self, value: Any) -> Any:
        if self.or_false and value is False:
            return None
        members = _members(value, " or false" if self.or_false else "")
        problems: list[Problem] = []
        known = {key.name: key for key in self.keys}
        values: dict[str, Any] = {}
        for name, raw in members:
            path = _key_path(name)
            if name in values:
                problems.append(Problem(path, "appears more than once; keep one"))
                continue
            values[name] = None
            if name in known:
                values[name] = _attempt(problems, path, known[name].type.read, raw)
            else:
                problems.append(Problem(path, f"unknown key{_where_instead(name, known)}"))
        for key in self.keys:
            if key.name not in values:
                values[key.name] = key.fallback()
                if key.required:
                    problems.append(Problem(key.name, "is required"))
        if problems:
            raise ConfigError(problems)
        return self.make(**values)

    def defaults(self) -> Any:
        return self.make(**{key.name: key.fallback() for key in self.keys})

    def write(self, value: Any) -> Any:
        if value is None:
            return False
        written = (key for key in self.keys if key is not SCHEMA_KEY)
        return {key.name: key.type.write(getattr(value, key.name)) for key in written}

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {key.name: key.schema() for key in self.keys},
        }
        required = [key.name for key in self.keys if key.required]
        if required:
            made["required"] = required
        return {"anyOf": [made, {"const": False}]} if self.or_false else made

    def words(self) -> str:
        return "object or false" if self.or_false else "object"


@dataclass(frozen=True)
class AlgorithmEntry:
    """A policy's name alone, or an object with its options; the options come from app.policies."""

    def read(self, value: Any) -> Algorithm:
        if isinstance(value, str):
            return self._with_options(self._name(value), ())
        members = _members(value, " or a name")
        names = [given for name, given in members if name == "name"]
        if not names:
            raise ConfigError([Problem("name", "is required")])
        problems: list[Problem] = []
        name = _attempt(problems, "name", self._name, names[0])
        if name is None:
            raise ConfigError(problems)
        return self._with_options(name, members)

    def write(self, value: Algorithm) -> Any:
        if not value.hash_on:
            return value.name
        return {"name": value.name, "hash_on": value.hash_on, **dict(value.options)}

    def schema(self) -> dict[str, Any]:
        custom = {"type": "string", "pattern": f"^{_DOTTED}$"}
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
        if isinstance(value, str) and (value in POLICIES or re.fullmatch(_DOTTED, value)):
            return value
        names = ", ".join(f'"{name}"' for name in POLICIES)
        hint = _suggest(value, POLICIES) if isinstance(value, str) else ""
        _refuse(
            f"must be one of {names} or a class as package.module.Class, got {_got(value)}{hint}"
        )

    def _with_options(self, name: str, members: Sequence[tuple[str, Any]]) -> Algorithm:
        definition = POLICIES.get(name)
        has_key = definition is None or "key" in definition.reads
        problems: list[Problem] = []
        given: dict[str, Any] = {}
        hash_on = HASH_ON_DEFAULT if has_key else ""
        for option, value in members:
            path = _key_path(option)
            if option in given:
                problems.append(Problem(path, "appears more than once; keep one"))
            elif option == "hash_on" and has_key:
                hash_on = _attempt(problems, path, HASH_ON.read, value) or ""
            elif definition is None and option != "name":
                _attempt(problems, path, _scalar, value)
            given[option] = value
        given.pop("name", None)
        given.pop("hash_on" if has_key else "", None)
        if definition is not None:
            problems += _option_problems(definition, given, has_key)
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
    """A server: its URL alone, or an object with more said about it."""

    members: Object

    def read(self, value: Any) -> Server:
        server: Server
        if isinstance(value, str):
            server = self.members.read((("url", URL.read(value)),))
        elif isinstance(value, tuple):
            server = self.members.read(value)
        else:
            _refuse(f"must be a URL or an object with a url, got {_got(value)}")
        return server

    def write(self, value: Server) -> Any:
        return self.members.write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [URL.schema(), self.members.schema()]}

    def words(self) -> str:
        return "URL or object"


# --- checks of single values ---------------------------------------------------------------------

_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.|\Z))+"
)
_URL_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_URL_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_STATUS_RANGE = re.compile(r"\s*([0-9]{3})\s*(?:-\s*([0-9]{3})\s*)?")
# Written by the probe itself, or meant for one connection only (RFC 9110 §7.6.1).
_PROBE_OWN_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip


_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*"
_HASH_ON = rf"(client_ip|path|header:{_HEADER_NAME}|cookie:{_HEADER_NAME}|query:[!-%'-<>-~]+)"


def _hash_on(text: str) -> str:
    if not re.fullmatch(_HASH_ON, text):
        kinds = "client_ip, path, header:Name, cookie:name or query:name"
        _refuse(f"must be {kinds}, got {_got(text)}")
    return text


def _scalar(value: Any) -> Any:
    """An option of a user's class; more than a scalar could be changed after it was checked."""
    if not isinstance(value, (str, int, float)):
        _refuse(f"must be a string, a number or a boolean, got {_got(value)}")
    return value


def _option_problems(
    definition: Definition, given: Mapping[str, Any], has_key: bool
) -> Iterator[Problem]:
    known = [option.name for option in definition.options] + ["hash_on"] * has_key
    for name, message in definition.problems(given):
        if name in known:
            yield Problem(name, message)
        else:
            listed = f"; there are {', '.join(known)}" if known else "; it has none"
            hint = _suggest(name, known) or listed
            yield Problem(_key_path(name), f"is not an option of {definition.name}{hint}")


def _listen_host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if _is_host_name(text):
            return text
    _refuse(f"must be an IP address or a host name, without port or brackets, got {_got(text)}")


def _host_field(text: str) -> str:
    """A Host header's value, kept as written."""
    _split_authority(text)
    return text


def _probe_path(text: str) -> str:
    if not text.startswith("/"):
        _refuse(f'must begin with "/", got {_got(text)}')
    if not re.fullmatch(r'[!"$-~]+', text):
        _refuse("must be ASCII without spaces or #: write others as %XX")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        _refuse(f'must be an address or a CIDR such as "10.0.0.0/8", got {_got(text)}')
    _refuse(f'has bits set after its prefix: write "{network}", got {_got(text)}')


def _protocol(text: str) -> str:
    """The name of a protocol in an Upgrade field; names are compared without case (RFC 9110 §7.8)."""
    if not re.fullmatch(_HEADER_NAME, text):
        _refuse(f'must be a name such as "websocket", without a version, got {_got(text)}')
    return text.lower()


def _header_name(text: str) -> str:
    if not re.fullmatch(_HEADER_NAME, text):
        _refuse("is not a header name: only letters, digits and !#$%&'*+-.^_`|~")
    if text.lower() == "host":
        _refuse("must not be set here: use health_check.host")
    if text.lower() in _PROBE_OWN_HEADERS:
        _refuse("must not be set here: the probe writes it itself")
    return text


def _header_value(value: Any) -> str:
    """Never repeated in a problem: it may be a credential."""
    if not isinstance(value, str):
        _refuse(f"must be a string, got {_kind(value)}")
    text = _plain(value)
    if not text.isascii() or text != text.strip():
        _refuse("must be printable ASCII without spaces around it")
    return text


def _status_ranges(value: Any) -> list[tuple[int, int]]:
    text = str(value) if type(value) is int else value
    parts = text.split(",") if isinstance(text, str) else [""]
    matches = [_STATUS_RANGE.fullmatch(part) for part in parts]
    if None in matches:
        _refuse(f'must be like 200, "200-399" or "200,204,300-399", got {_got(value)}')
    ranges = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
    for low, high in ranges:
        if not (100 <= low <= 599 and 100 <= high <= 599):
            _refuse(f"must have status codes from 100 to 599, got {_got(value)}")
        if low > high:
            _refuse(f'has a range that ends before it begins: write "{high}-{low}"')
    return ranges


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _normal_url(text: str) -> str:
    scheme, host, port, prefix = _split_url(text)
    if scheme == "unix":
        return f"unix:{host}"
    shown_port = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{_bracketed(host)}{shown_port}{prefix}"


def _server(url: str, weight: int, backup: bool, max_connections: int, state: str) -> Server:
    scheme, host, port, prefix = _split_url(url)
    return Server(url, scheme, host, port, prefix, weight, backup, max_connections, state)


@lru_cache(maxsize=1)  # each server's URL is read twice in a row: once to check, once to split
def _split_url(text: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, prefix. By hand: urllib.parse drops tabs and newlines and mends much."""
    if " " in text:  # the one space that is printable
        _refuse("must not contain spaces")
    if text[:5].lower() == "unix:":
        return "unix", _unix_path(text[5:]), 0, ""
    parts = _URL_PARTS.fullmatch(text)
    if parts is None:
        _refuse_schemeless(text)
    scheme, authority, path, query, fragment = parts.groups()
    if "@" in authority:  # first, so that no later message repeats a password
        _refuse("must not contain a user name or password (the part before @)")
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        _refuse(f'must begin with http://, https:// or unix:/, got "{scheme}://"')
    if query is not None:
        _refuse("must not contain a query (the part from ?): a request brings its own")
    if fragment is not None:
        _refuse("must not contain a fragment (the part from #): it is never sent to a server")
    host, port = _split_authority(authority)
    if not _URL_PATH.fullmatch(path):
        _refuse("has a path with characters that no URL may have: write them as %XX")
    return scheme, host.lower(), DEFAULT_PORTS[scheme] if port is None else port, path.rstrip("/")


def _unix_path(path: str) -> str:
    if path.startswith("//"):
        _refuse(f"must be written with one slash: unix:/{path.lstrip('/')}")
    if not path.startswith("/"):
        _refuse("must have an absolute path: unix:/run/app.sock")
    if "?" in path or "#" in path:
        _refuse("must not contain ? or #")
    if path.endswith("/"):
        _refuse("must name a socket, not a directory")
    size = len(path.encode())
    if size > UNIX_PATH_BYTES:
        _refuse(f"has a path of {size} bytes; a Unix socket's may have {UNIX_PATH_BYTES}")
    return path


def _refuse_schemeless(text: str) -> NoReturn:
    scheme = "https" if text.lower().startswith("https:") else "http"
    rest = re.sub(r"^(?:https?:)?/*", "", text, flags=re.IGNORECASE)
    shown = rest if rest and "@" not in rest else "host:port"
    _refuse(f"has no scheme: write {scheme}://{shown}")


def _split_authority(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or after[:1] not in ("", ":"):
            _refuse(f"has brackets that are not around an IPv6 address, got {_got(text)}")
        host, colon, port = _ipv6(host), after[:1], after[1:]
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            _refuse("has too many colons: write an IPv6 address in brackets, as in [::1]")
        _check_host(host)
    if not colon:
        return host, None
    if not re.fullmatch(r"[0-9]{1,9}", port):
        _refuse(f"must have a number as its port, got {_got(port)}")
    if not 1 <= int(port) <= 65_535:
        _refuse(f"must have a port from 1 to 65535, got {int(port)}")
    return host, int(port)


def _ipv6(text: str) -> str:
    if "%" in text:
        _refuse("must not have an IPv6 zone (the part from %)")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        _refuse(f"has brackets that are not around an IPv6 address, got {_got(text)}")


def _check_host(host: str) -> None:
    if not host:
        _refuse("has no host")
    if not host.isascii():
        _refuse(f"has a host that is not ASCII: write its punycode form (xn--…), got {_got(host)}")
    if not _is_host_name(host):
        _refuse(f"has a host that is neither an address nor a host name, got {_got(host)}")


def _is_host_name(text: str) -> bool:
    """A DNS name (with _ as Compose and Kubernetes users have it), or a plain IPv4 address.

    A last label of digits is an IPv4 address to every resolver, in spellings such as 127.1 or
    0x7f.1 that differ between them: only the one form that all agree on is taken.
    """
    if re.search(r"(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(text) is not None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# --- the table of keys ---------------------------------------------------------------------------

URL = Text(
    _normal_url,
    "URL: http://, https:// or unix:/path",
    r"^([Hh][Tt][Tt][Pp][Ss]?://[^\s?#]+|[Uu][Nn][Ii][Xx]:/[^\s?#]+)$",
)
HASH_ON = Text(_hash_on, "client_ip, path, header:Name, cookie:name or query:name", f"^{_HASH_ON}$")
HASH_ON_DEFAULT = "client_ip"
SCHEMA_KEY = Key(
    "$schema", Text(str, "string"), None,
    "Where editors find the JSON Schema of this file; the load balancer does not read it.",
    examples=("./config.schema.json",),
)  # fmt: skip


def _config(**values: Any) -> Config:
    del values[SCHEMA_KEY.name]
    return Config(**values)


# fmt: off
SERVER = Object(_server, (
    Key("url", URL, None,
        "Where it is. A path is put in front of the path of every request.",
        examples=("http://127.0.0.1:8001", "https://app.example/base", "http://[::1]:8001",
                  "unix:/run/app.sock"), required=True),
    Key("weight", Whole(1, 1000), 1,
        "Its share of the requests, relative to the other servers."),
    Key("backup", Flag(), False,
        "Used only while no other server is available."),
    Key("max_connections", Whole(0, 1_000_000), 0,
        "Requests in flight to it at once, over all workers (0 = unlimited)."),
    Key("state", Choice(("ready", "drain", "maint")), "ready",
        "drain: it gets no more requests, those in flight finish; maint: it is not checked either, and "
        "checked before it is used again."),
))

HEALTH_CHECK = Object(HealthCheck, (
    Key("path", Text(_probe_path, "path, with a query if wanted", r"^/[!\"$-~]*$"), "/",
        "What is asked for with GET; redirects are not followed.", examples=("/healthz",)),
    Key("interval", Number(0.01, DAY_S), 5.0,
        "Time from one check of a server to its next."),
    Key("timeout", Number(0.01, 3600), 2.0,
        "The whole check must be over in this time, whatever the server does."),
    Key("healthy_threshold", Whole(1, 100), 2,
        "Checks passed in a row that make an unhealthy server healthy; the very first decides alone."),
    Key("unhealthy_threshold", Whole(1, 100), 3,
        "Checks failed in a row that make a healthy server unhealthy; the very first decides alone."),
    Key("expected_status", Statuses(), ((200, 399),),
        "Statuses that pass.", examples=("200-399", "200,204,300-399", 200, [200, "300-399"])),
    Key("host", Nullable(Text(_host_field, "host or host:port")), None,
        "Host header of the check, instead of the server's own.", examples=("app.example",)),
    Key("headers", Headers(), (),
        "Extra headers of the check.", examples=({"X-Probe": "load-balancer"},)),
    Key("jitter", Number(0, 0.5, "share of interval"), 0.1,
        "Each wait is longer or shorter by up to this share, so that checks do not come in bursts."),
), or_false=True)

OUTLIER_DETECTION = Object(OutlierDetection, (
    Key("connect_failures", Whole(0, 10_000), 3,
        "Failed connects in a row that set a server aside, over all workers (0 = never)."),
    Key("resets", Whole(0, 10_000), 5,
        "The same for requests without a whole answer: reset, cut, unreadable, timed out (0 = never)."),
    Key("server_errors", Whole(0, 10_000), 5,
        "The same for answers of 500 and above, but 501 and 505 (0 = never)."),
    Key("ejection_time", Number(0.1, DAY_S), 5.0,
        "How long it is set aside, times the number of times it lately was; then one request tries it."),
    Key("max_ejection_time", Number(0.1, DAY_S), 300.0,
        "The longest that this time grows to."),
), or_false=True)

TIMEOUTS = Object(Timeouts, (
    Key("connect", Number(0, DAY_S), 3.0,
        "To connect to a server (0 = none); over it, another server is tried, or 504."),
    Key("read", Number(0, DAY_S), 60.0,
        "Longest silence of a server while its response is awaited or read (0 = none); over it, 504."),
    Key("total", Number(0, DAY_S), 0.0,
        "The whole request, from its head to the end of its response (0 = none); over it, 504."),
    Key("client", Number(0, DAY_S), 60.0,
        "For a client to send its request head, and between parts of its body (0 = none); over it, 408."),
    Key("keepalive", Number(0, DAY_S), 75.0,
        "An idle connection of a client is closed after this time (0 = none)."),
    Key("backend_keepalive", Number(0, DAY_S), 1.5,
        "An idle connection to a server is closed after this time (0 = none); keep it below the server's "
        "own (gunicorn 2 s, Node and uvicorn 5 s), or requests meet connections that are being closed."),
    Key("tunnel", Number(0, DAY_S), 3600.0,
        "A tunnel (WebSocket) in which nothing moves either way is closed after this time (0 = none); "
        "`client`, `read` and `total` do not apply to it."),
))

RETRIES = Object(Retries, (
    Key("attempts", Whole(0, 16), 2,
        "Servers that may be tried for one request, the first included (0 or 1 = never another)."),
    Key("statuses", ListOf("statuses", Whole(400, 599), str, "list of status codes 400–599"), (),
        "Answers with these make another server be asked, where there is one and the method is idempotent "
        "(GET, HEAD, OPTIONS, PUT, DELETE); the last answer is the client's.",
        examples=([500, 502, 503, 504],)),
))

LIMITS = Object(Limits, (
    Key("body", Whole(0, 2**50, "bytes"), 0,
        "Longest request body (0 = unlimited); over it, 413."),
    Key("connections", Whole(0, 1_000_000), 0,
        "Client connections of one worker at once (0 = unlimited)."),
))

LOGGING = Object(Logging, (
    Key("level", Choice(("debug", "info", "warning", "error", "critical")), "info",
        "Least level of the messages that are logged; access lines are not affected."),
    Key("access", Flag(), True,
        "One line for each request."),
))

PEM_FILE = Text(str, "path of a PEM file", r"^.+$")

TLS = Object(Tls, (
    Key("certificate", PEM_FILE, None,
        "The certificate, and behind it those between it and the root.", required=True,
        examples=("/etc/load-balancer/tls.crt",)),
    Key("key", PEM_FILE, None,
        "Its private key, without a password.", required=True,
        examples=("/etc/load-balancer/tls.key",)),
    Key("minimum_version", Choice(("1.2", "1.3")), "1.2",
        "Clients that speak only older versions of TLS are refused."),
    Key("client_ca", Nullable(PEM_FILE), None,
        "Only clients with a certificate of these authorities are let in (mutual TLS)."),
), or_false=True)

ROOT = Object(_config, (
    SCHEMA_KEY,
    Key("host", Text(_listen_host, "address or host name"), "0.0.0.0",
        "Address to listen on.", examples=("127.0.0.1", "::")),
    Key("port", Whole(1, 65_535), 8080,
        "Port to listen on."),
    Key("workers", Whole(1, 1024), available_cores,
        "Worker processes; one a core is enough, each serves thousands of connections.",
        default_words="the cores available"),
    Key("servers", ListOf("servers", ServerEntry(SERVER), lambda server: str(server.url),
                          "list of URLs or objects"), (),
        "The servers that requests are forwarded to, each a URL or an object. "
        "With none, every request is answered 503.",
        examples=(["http://127.0.0.1:8001", {"url": "http://127.0.0.1:8002", "weight": 2}],)),
    Key("algorithm", AlgorithmEntry(), Algorithm("round_robin"),
        "How the server for a request is picked; each algorithm and its options: algorithms.md.",
        examples=("least_connections",
                  {"name": "hash", "hash_on": "header:X-User", "balance_factor": 1.25},
                  {"name": "mypackage.NightShift", "limit": 20})),
    Key("health_check", HEALTH_CHECK, HEALTH_CHECK.defaults,
        "How servers are found healthy or unhealthy; false: never checked, all count as healthy."),
    Key("outlier_detection", OUTLIER_DETECTION, OUTLIER_DETECTION.defaults,
        "When a server is set aside for what requests meet there: never the last one, at most half of them "
        "(one of two or three); false: never."),
    Key("timeouts", TIMEOUTS, TIMEOUTS.defaults,
        "How long each thing may take."),
    Key("retries", RETRIES, RETRIES.defaults,
        "When another server is tried."),
    Key("limits", LIMITS, LIMITS.defaults,
        "How much clients may ask for."),
    Key("logging", LOGGING, LOGGING.defaults,
        "What is written to standard output, each line a JSON object."),
    Key("tls", TLS, None,
        "Clients speak HTTPS; false: plain HTTP. Files that are replaced are used for new connections "
        "within seconds, without a reload; bad ones are refused and the old ones stay."),
    Key("trusted_proxies", ListOf("trusted_proxies", Text(_network, "address or CIDR"), str,
                                  "list of addresses and CIDRs"), (),
        "Proxies in front of this one, whose X-Forwarded-* and X-Request-Id are believed.",
        examples=(["10.0.0.0/8", "::1"],)),
    Key("upgrade", ListOf("upgrade", Text(_protocol, "protocol name", f"^{_HEADER_NAME}$"), str,
                          "list of protocol names"), ("websocket",),
        "Protocols that a connection may be switched to (the Upgrade header); it is then a tunnel. "
        "A request that asks for another one is forwarded without that wish.",
        examples=([], ["websocket", "tcp"])),
    Key("graceful_timeout", Number(0, DAY_S), 30.0,
        "When stopping or reloading, how long requests and tunnels in flight may take to finish."),
))

OVERRIDES = (  # environment variable, key that it wins over
    ("LB_HOST", "host"),
    ("LB_PORT", "port"),
    ("WEB_CONCURRENCY", "workers"),
)
# fmt: on


# --- JSON with comments --------------------------------------------------------------------------

# Objects arrive as tuples of pairs (lists stay lists), so that a duplicate key survives until the
# reader that knows its path.

_LEXEME = re.compile(
    r'"(?:[^"\\]+|\\.)*"?|//[^\r\n]*|/\*.*?\*/|/\*|[^\s",/}\]]+|[,}\]/\\]|\s+', re.DOTALL
)


def strip_comments(text: str) -> str:
    """Blank out comments and trailing commas; every other character keeps its place."""
    kept: list[str] = []
    before = "["  # the last thing that was neither space nor comment
    comma = -1  # where in ``kept`` a comma waits to be found trailing or not
    for match in _LEXEME.finditer(text):
        lexeme = match[0]
        if lexeme == "/*":
            raise json.JSONDecodeError("Unterminated comment starting at", text, match.start())
        if lexeme.startswith(("//", "/*")):
            kept.append(re.sub(r"[^\r\n]", " ", lexeme))
            continue
        kept.append(lexeme)
        if lexeme.isspace():
            continue
        if lexeme in "}]" and comma >= 0:
            kept[comma] = " "
        # "[,]" and "[1,,]" have no trailing comma: there is no value in front of it.
        comma = len(kept) - 1 if lexeme == "," and before[-1] not in "[{,:" else -1
        before = lexeme
    return "".join(kept)


def _text(path: str) -> str:
    if not path:
        _refuse("must not be empty: name a file, or unset it")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block the start for ever
            if os.path.isdir(path):
                inside = os.path.join(path, DEFAULT_FILE)
                _refuse(f"is a directory: name the file in it, such as {inside}")
            _refuse("is not a regular file: it is read again at every reload")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        _refuse("there is no such file: create it, or name another with LB_CONFIG")
    except OSError as error:
        _refuse(f"cannot be read: {error.strerror}: check its owner and mode")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _refuse(f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8")


def _parse(text: str) -> Any:
    try:
        bare = strip_comments(text)
        if not bare.strip():
            _refuse("is empty: write {} for the defaults")
        return json.loads(bare, object_pairs_hook=tuple, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        _refuse(f"line {error.lineno}, column {error.colno}: {_syntax_words(error)}")
    except RecursionError:
        _refuse("is nested too deeply")


def _parse_int(digits: str) -> int:
    """Longer ones are out of every range anyway, and int() refuses thousands of digits."""
    return int(digits[:40])


_SYNTAX_WORDS = {
    "Unterminated comment": "this comment is never closed: */ is missing",
    "Unterminated string": 'this string is never closed: " is missing',
    "Invalid control character": 'a string is not closed on its line: " is missing',
    "Invalid \\": "a string has a \\ that begins no escape: write \\\\ for the character itself",
    "Expecting property name": "expected a key in double quotes, found {found}",
    "Expecting ':'": 'expected ":" after the key, found {found}',
    "Expecting ','": 'expected "," or the closing bracket, found {found}',
    "Expecting value": "expected a value, found {found}",
    "Extra data": "expected the end of the file, found {found}",
}


def _syntax_words(error: json.JSONDecodeError) -> str:
    rest = re.match(r"[\w.+-]{1,30}|.", error.doc[error.pos :])
    found = rest[0] if rest else "the end of the file"
    if not found.isprintable() or found.isspace():
        found = f"the character U+{ord(found[0]):04X}"
    for start, words in _SYNTAX_WORDS.items():
        if error.msg.startswith(start):
            return words.format(found=found)
    return error.msg


# --- helpers of the readers ----------------------------------------------------------------------


def _attempt(problems: list[Problem], path: str, read: Callable[[Any], T], value: Any) -> T | None:
    """Read, or note what is wrong and go on."""
    try:
        return read(value)
    except ConfigError as error:
        problems += (problem.under(path) for problem in error.problems)
        return None


def _overrides(problems: list[Problem], environ: Mapping[str, str]) -> dict[str, Any]:
    types = {key.name: key.type for key in ROOT.keys}
    given = ((variable, name) for variable, name in OVERRIDES if variable in environ)
    overrides: dict[str, Any] = {}
    for variable, name in given:
        value = _from_environ(environ[variable], types[name])
        overrides[name] = _attempt(problems, variable, types[name].read, value)
    return overrides


def _from_environ(text: str, kind: Type) -> Any:
    is_number = isinstance(kind, Whole) and re.fullmatch(r"-?[0-9]{1,40}", text.strip())
    return int(text) if is_number else text


def _members(value: Any, otherwise: str = "") -> Sequence[tuple[str, Any]]:
    if not isinstance(value, tuple):
        _refuse(f"must be an object{otherwise}, got {_got(value)}")
    return value


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        _refuse(f"must be a string, got {_got(value)}")
    if not value:
        _refuse("must not be empty")
    if not value.isprintable():
        first = next(character for character in value if not character.isprintable())
        _refuse(f"must not contain control characters, found U+{ord(first):04X}")
    return value


def _check_range(value: float, low: float, high: float) -> None:
    if value < low:
        _refuse(f"must be ≥ {low}, got {_got(value)}")
    if value > high:
        _refuse(f"must be ≤ {high}, got {_got(value)}")


def _kind(value: Any) -> str:
    kinds = {tuple: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _got(value: Any) -> str:
    """The value as the user wrote it, or its kind if that is long."""
    if isinstance(value, (tuple, list)):
        return _kind(value)
    plain = not isinstance(value, str) or value.isprintable()
    shown = json.dumps(value, ensure_ascii=not plain)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


_DIGITS = r"-?[0-9]+"
_DECIMAL = r"-?[0-9]+(\.[0-9]+)?"
_BOOLEAN = r"true|false"


def _unquote(value: Any, pattern: str) -> str:
    quoted = isinstance(value, str) and re.fullmatch(pattern, value)
    return " (write it without quotes)" if quoted else ""


def _key_path(name: str) -> str:
    return name if re.fullmatch(r"[\w$-]+", name) else f"[{_got(name)}]"


def _suggest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _where_instead(name: str, known: Iterable[str]) -> str:
    """A like name among the keys here, else the same name in another object, else what there is."""
    here = _suggest(name, known)
    if here:
        return here
    for path, section in _sections():
        if any(key.name == name for key in section.keys):
            return (
                f'; did you mean "{path}.{name}"?' if path else f'; "{name}" belongs at top level'
            )
    return f"; there are {', '.join(known)}"


def _sections() -> Iterator[tuple[str, Object]]:
    """Every object of the table with its path."""
    yield "", ROOT
    yield "servers[]", SERVER
    for key in ROOT.keys:
        if isinstance(key.type, Object):
            yield key.name, key.type


# --- warnings, printing --------------------------------------------------------------------------


def _suspicions(config: Config) -> Iterator[tuple[str, str]]:
    if not config.servers:
        yield "servers", "there are none: every request is answered 503"
    for index, server in enumerate(config.servers):
        if server.port == config.port and _is_own_host(server.host, config.host):
            yield f"servers[{index}]", f"{server.url} is where this load balancer itself listens"
    check = config.health_check
    if check and check.timeout > check.interval:
        late = "a server that hangs is checked less often than the interval says"
        longer = f"is longer than health_check.interval ({check.interval:g} s)"
        yield "health_check.timeout", f"{check.timeout:g} s {longer}: {late}"
    idle = config.timeouts.backend_keepalive
    if idle == 0 or idle >= KEEPALIVE_RACE_S:
        kept = f"for {idle:g} s" if idle else "for ever (0)"
        race = "many servers close theirs after 2 to 5 s, and a request may meet one being closed"
        yield "timeouts.backend_keepalive", f"idle connections are kept {kept}: {race}"
    for index, network in enumerate(config.trusted_proxies):
        if network.endswith("/0"):
            yield f"trusted_proxies[{index}]", f"{network} lets every client forge its address"
    for index, protocol in enumerate(config.upgrade):
        if protocol in ("h2c", "http", "tls"):
            passed = "requests inside such a tunnel are neither checked, balanced nor logged"
            yield f"upgrade[{index}]", f"{protocol}: {passed}"


def _is_own_host(host: str, listen: str) -> bool:
    everywhere = listen in {"0.0.0.0", "::"}
    return host == listen or (everywhere and host in {"localhost", "127.0.0.1", "::1"})


def _pretty(value: Any, lead: str = "", top: bool = False) -> str:
    """JSON with each object or list on one line where that fits; ``lead`` comes before it."""
    line = json.dumps(value, ensure_ascii=False)
    nested = isinstance(value, (dict, list)) and value
    if not nested or (len(lead + line) < LINE_WIDTH and not top):
        return lead + line
    inner = lead[: len(lead) - len(lead.lstrip())] + "  "
    if isinstance(value, dict):
        parts = [_pretty(item, f"{inner}{json.dumps(name)}: ") for name, item in value.items()]
    else:
        parts = [_pretty(item, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{lead}{opening}\n" + ",\n".join(parts) + f"\n{inner[2:]}{closing}"


_DOCS_HEAD = """\
<!-- Generated from app/config.py by `python -m app.config docs`: change it there. -->
# Configuration

The load balancer reads `config.json` in its working directory, or the file that the environment
variable `LB_CONFIG` names. Every key has a default, so `{}` is a valid file.

The file is JSON in UTF-8 that may also hold `//` and `/* */` comments and trailing commas. Times
are in seconds, with fractions if wanted. Unknown keys, duplicate keys, and wrong types or values
are refused at start and at reload, all at once and each with its path
(`servers[2].weight: must be ≥ 1, got 0`); at start the exit status is then 78 and nothing runs.

`python load_balancer.py check` does only that, and prints the configuration with every default
filled in, the values of `health_check.headers` included.

Editors that know JSON Schema complete and check the file if it begins with
`"$schema": "./config.schema.json"`.
"""

_DOCS_SERVERS = """
`"http://127.0.0.1:8001"` alone means `{"url": "http://127.0.0.1:8001"}`. The certificate of an
https:// server is verified. A server can be listed once: `HTTP://Example.com:80/` and
`http://example.com` are the same.
"""

_DOCS_ENVIRONMENT = """
## Environment

These win over the file, and are checked like it.

| Variable | Wins over |
| --- | --- |
"""


def docs() -> str:
    """The reference for people; docs/configuration.md is this."""
    parts = [_DOCS_HEAD]
    for path, section in _sections():
        name = path.removesuffix("[]")
        about = next((key.doc for key in ROOT.keys if key.name == name), "")
        parts.append(f"\n## `{name}`\n\n{about}\n" if name else "\n## Top level\n")
        if section is SERVER:
            parts.append(_DOCS_SERVERS)
        parts.append("\n| Key | Type and range | Default | What it does |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts += (_docs_row(key) for key in section.keys)
    parts.append(_DOCS_ENVIRONMENT)
    parts.append("| `LB_CONFIG` | the path of the file, `config.json` |\n")
    parts += (f"| `{variable}` | `{name}` |\n" for variable, name in OVERRIDES)
    return "".join(parts)


def _docs_row(key: Key) -> str:
    if key.required:
        default = "required"
    elif isinstance(key.type, Object):
        default = f"[see below](#{key.name})"
    elif key.default is None:
        default = "none"
    else:
        default = key.default_words or f"`{json.dumps(key.type.write(key.default))}`"
    examples = " ".join(f"`{json.dumps(item, ensure_ascii=False)}`" for item in key.examples)
    about = f"{key.doc} For example {examples}" if examples else key.doc
    return f"| `{key.name}` | {key.type.words()} | {default} | {about} |\n"


def main(arguments: Sequence[str]) -> int:
    outputs: dict[str, Callable[[], str]] = {
        "schema": lambda: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        "docs": docs,
    }
    if len(arguments) != 1 or arguments[0] not in outputs:
        sys.stderr.write("usage: python -m app.config {schema|docs}\n")
        return 2
    sys.stdout.buffer.write(outputs[arguments[0]]().encode())  # whatever the locale's encoding
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
