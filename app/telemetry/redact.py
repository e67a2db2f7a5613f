"""What a log line must not repeat: the values of parameters that are secrets.

Owns which part of a request target is hidden and how, and what stays of gunicorn's messages about requests
that it could not read. Header fields are not in any line but Host and User-Agent, so there is nothing to
hide in them. Pure: text in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote_plus

HIDDEN = "***"

# gunicorn quotes what it could not read, a whole line of the head or all that had come of it.
_QUOTED = re.compile(r":? b?(?:'.*|\".*)", re.DOTALL)
_PAIRS = re.compile(r"[^&;]+")


def redactor(names: Iterable[str]) -> Callable[[str], str] | None:
    """A function that hides the values of these query parameters in a request target; None for no names."""
    hidden = frozenset(name.lower() for name in names)
    if not hidden:
        return None

    def hide(pair: re.Match[str]) -> str:
        text = pair[0]
        name, mark, _ = text.partition("=")
        if not mark:
            return text
        plain = name.lower() if "%" not in name else unquote_plus(name, "latin-1").lower()
        if plain in hidden or ("[" in plain and _innermost(plain) in hidden):
            return f"{name}={HIDDEN}"
        return text

    def redact(target: str) -> str:
        path, mark, query = target.partition("?")
        return f"{path}?{_PAIRS.sub(hide, query)}" if mark else target

    return redact


def _innermost(name: str) -> str:
    """Of ``user[password]`` the ``password``, of ``token[]`` the ``token``, as Rails and PHP nest them."""
    outer, _, inner = name.rpartition("[")
    return inner.rstrip("]") or outer


def without_quotes(text: str) -> str:
    """A message of gunicorn's about a request, without what it quotes from it."""
    return _QUOTED.sub("", text)
