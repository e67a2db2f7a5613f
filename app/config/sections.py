"""How an object of the table of keys is declared, and all of them with their paths.

It exists so that each object can tell where a key belongs that was written into the wrong one: the objects
are declared before the root that holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from app.config import checks
from app.config.types import Key, ListOf, Object, Text

DAY_S = 86_400
PEM_FILE = Text(str, "path of a PEM file", r"^.+$", is_path=True)
CIPHER_LIST = ListOf("ciphers", Text(checks.cipher, "name", r"^[A-Z0-9][A-Z0-9-]*$"), str,
                     "list of names of cipher suites")  # fmt: skip
CURVE_LIST = ListOf(
    "curves", Text(checks.curve, "name", r"^[A-Za-z0-9-]+$"), str, "list of names of groups"
)

_roots: list[tuple[Object, tuple[tuple[str, Object], ...]]] = []


def section(make: Callable[..., Any], keys: tuple[Key, ...], or_false: bool = False) -> Object:
    return Object(make, keys, sections, or_false)


def root_section(
    make: Callable[..., Any], keys: tuple[Key, ...], elements: tuple[tuple[str, Object], ...]
) -> Object:
    """The object that is the whole file (app.config.keys); ``elements`` are the objects in its lists."""
    root = section(make, keys)
    _roots.append((root, elements))
    return root


def sections() -> Iterator[tuple[str, Object]]:
    """Every object of the table with its path."""
    for root, elements in _roots:
        yield "", root
        yield from elements
        for key in root.keys:
            if isinstance(key.type, Object):
                yield key.name, key.type
