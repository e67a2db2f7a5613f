"""What is wrong with a configuration, where, and in which words.

Owns Problem and ConfigError, and the helpers that every reader uses. Reading never stops at the
first mistake: each reader raises ConfigError with paths relative to itself, its caller puts its own
path in front, and the user sees every problem at once. Knows no key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


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


def refuse(message: str) -> NoReturn:
    """Raise a ConfigError with this one problem; its path is the caller's to say."""
    raise ConfigError([Problem("", message)])


def attempt(problems: list[Problem], path: str, read: Callable[[Any], T], value: Any) -> T | None:
    """The value that ``read`` gives; if it refuses, None, with its problems noted under ``path``."""
    try:
        return read(value)
    except ConfigError as error:
        problems += (problem.under(path) for problem in error.problems)
        return None


def members_of(value: Any, otherwise: str = "") -> Sequence[tuple[str, Any]]:
    """The members of an object, in their order and with duplicates, as app.config.jsonc reads them."""
    if not isinstance(value, tuple):
        # A text in the place of an object may be the secret that belongs into it.
        shown = kind_of(value) if isinstance(value, str) else got(value)
        refuse(f"must be an object{otherwise}, got {shown}")
    return value


def plain_text(value: Any) -> str:
    """A string that is neither empty nor holds control characters."""
    if not isinstance(value, str):
        refuse(f"must be a string, got {got(value)}")
    if not value:
        refuse("must not be empty")
    if not value.isprintable():
        first = next(character for character in value if not character.isprintable())
        refuse(f"must not contain control characters, found U+{ord(first):04X}")
    return value


def check_range(value: float, low: float, high: float) -> None:
    """Refuse a number outside of ``low`` to ``high``, both included."""
    if value < low:
        refuse(f"must be ≥ {low}, got {got(value)}")
    if value > high:
        refuse(f"must be ≤ {high}, got {got(value)}")


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, in words."""
    kinds = {tuple: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else kinds.get(type(value), "a number")


def got(value: Any) -> str:
    """The value as the user wrote it, or its kind if that is long."""
    if isinstance(value, (tuple, list)):
        return kind_of(value)
    plain = not isinstance(value, str) or value.isprintable()
    shown = json.dumps(value, ensure_ascii=not plain)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def unquote(value: Any, pattern: str) -> str:
    """A hint for a number or boolean that was written in quotes; "" if it is none."""
    quoted = isinstance(value, str) and re.fullmatch(pattern, value)
    return " (write it without quotes)" if quoted else ""


def key_path(name: str) -> str:
    """A key as a part of a path, in brackets and quotes where it is no plain word."""
    return name if re.fullmatch(r"[\w$-]+", name) else f"[{got(name)}]"


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar of the ``known`` names; "" if none is similar."""
    import difflib

    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
