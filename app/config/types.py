"""What one key accepts: how it is read, written back, described to editors and to people.

Owns the types that app.config.keys is made of, Key and Object. Each ``read`` takes a value from
JSON and returns it as Config holds it, or raises ConfigError with paths relative to itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from app.config import checks
from app.config.problems import (
    ConfigError,
    Problem,
    attempt,
    check_range,
    got,
    key_path,
    kind_of,
    members_of,
    plain_text,
    refuse,
    suggest,
    unquote,
)

_DIGITS = r"-?[0-9]+"
_DECIMAL = r"-?[0-9]+(\.[0-9]+)?"
_BOOLEAN = r"true|false"


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
            refuse(f"must be a whole number, got {got(value)}{unquote(value, _DIGITS)}")
        check_range(value, self.low, self.high)
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
            refuse(f"must be a number, got {got(value)}{unquote(value, _DECIMAL)}")
        if not math.isfinite(value):
            refuse(f"must be a finite number, got {got(value)}")
        check_range(value, self.low, self.high)
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
            refuse(f"must be true or false, got {got(value)}{unquote(value, _BOOLEAN)}")
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
        hint = suggest(value, self.names) if isinstance(value, str) else ""
        refuse(f"must be {listed}, got {got(value)}{hint}")

    def write(self, value: str) -> str:
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.names)}

    def words(self) -> str:
        listed = ", ".join(f'"{name}"' for name in self.names)
        return f"one of {listed}" if len(self.names) > 1 else listed


@dataclass(frozen=True)
class Text:
    """A string that ``check`` refuses or returns as Config holds it; a secret is never repeated.

    ``is_path``: where it is relative, it is so to the folder of the file that has it (app.config.paths).
    """

    check: Callable[[str], str]
    what: str
    pattern: str = r"^\S+$"
    is_secret: bool = False
    is_path: bool = False

    def read(self, value: Any) -> str:
        if self.is_secret and not isinstance(value, str):
            refuse(f"must be a string, got {kind_of(value)}")
        return self.check(plain_text(value))

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
            return checks.merged(checks.status_ranges(value))
        if not value:
            refuse("must not be empty")
        problems: list[Problem] = []
        ranges: list[tuple[int, int]] = []
        for index, item in enumerate(value):
            ranges += attempt(problems, f"[{index}]", checks.status_ranges, item) or ()
        if problems:
            raise ConfigError(problems)
        return checks.merged(ranges)

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
        for name, content in members_of(value):
            path = key_path(name.partition(":")[0] or name)  # "Authorization: Bearer …" as a name
            if attempt(problems, path, checks.header_name, name) is None:
                continue
            twin = fields.get(name.lower())
            if twin is not None:
                problems.append(Problem(path, f'is the same header as "{twin[0]}"; keep one'))
                continue
            text = attempt(problems, path, checks.header_value, content)
            fields[name.lower()] = (name, text or "")
        if problems:
            raise ConfigError(problems)
        return tuple(fields.values())

    def write(self, value: tuple[tuple[str, str], ...]) -> dict[str, str]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{checks.HEADER_NAME}$"},
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
            remedy = f": write [{got(value)}]" if isinstance(value, str) else ""
            refuse(f"must be a list, got {got(value)}{remedy}")
        problems: list[Problem] = []
        items: list[Any] = []
        first: dict[str, int] = {}
        for index, raw in enumerate(value):
            item = attempt(problems, f"[{index}]", self.item.read, raw)
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


SCHEMA_KEY = Key(
    "$schema", Text(str, "string"), None,
    "Where editors find the JSON Schema of this file; the load balancer does not read it.",
    examples=("./config.schema.json",),
)  # fmt: skip


@dataclass(frozen=True)
class Object:
    """An object with exactly these keys. With ``or_false``, false stands for None.

    ``sections()`` are all objects there are, each with its path: whoever writes a key into the wrong one is
    told where it belongs.
    """

    make: Callable[..., Any]
    keys: tuple[Key, ...]
    sections: Callable[[], Iterable[tuple[str, Object]]]
    or_false: bool = False

    def read(self, value: Any) -> Any:
        if self.or_false and value is False:
            return None
        members = members_of(value, " or false" if self.or_false else "")
        problems: list[Problem] = []
        known = {key.name: key for key in self.keys}
        values: dict[str, Any] = {}
        for name, raw in members:
            path = key_path(name)
            if name in values:
                problems.append(Problem(path, "appears more than once; keep one"))
                continue
            values[name] = None
            if name in known:
                values[name] = attempt(problems, path, known[name].type.read, raw)
            else:
                problems.append(Problem(path, f"unknown key{self._where_instead(name, known)}"))
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

    def _where_instead(self, name: str, known: Iterable[str]) -> str:
        """A like name among the keys here, else the same name in another object, else what there is."""
        here = suggest(name, known)
        if here:
            return here
        for path, section in self.sections():
            if not any(key.name == name for key in section.keys):
                continue
            if not path:
                return f'; "{name}" belongs at top level'
            return f'; did you mean "{path}.{name}"?'
        return f"; there are {', '.join(known)}"
