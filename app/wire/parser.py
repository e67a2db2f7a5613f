"""Which parser splits heads into their parts: gunicorn_h1c, a C extension, or app.wire.python_parser.

gunicorn_h1c is published as source only, and a machine without a C compiler has no other way to it. Both
come to the same parts, or refuse alike. LB_PARSER chooses: ``auto`` (the C parser where it can be imported),
``c`` (no start without), ``python``. Looks at it once, at import. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

VARIABLE: Final = "LB_PARSER"
_VALUES: Final = ("auto", "c", "python")

# For the log's first lines; the figures are those of docs/performance.md.
IN_PYTHON: Final = (
    "heads are read in Python: 5 to 8 microseconds more CPU for each request, "
    "a seventh of what a small one takes"
)
REMEDY: Final = (
    "install a C compiler and Python's headers (Debian: apt install gcc python3-dev), then: make parser, "
    "or .venv/bin/pip install --require-hashes -r requirements-c.lock"
)


def choose(asked: str) -> tuple[ModuleType, bool, str]:
    """Import the parser that ``asked`` (the value of LB_PARSER) means. ImportError where that cannot be had.

    Gives the module, whether it is the one in Python, and where "auto" came to that: why.
    """
    problem = ""
    if asked not in _VALUES:
        raise ImportError(f"{VARIABLE} must be auto, c or python, got {asked!r}")
    if asked != "python":
        try:
            import gunicorn_h1c

            return gunicorn_h1c, False, ""
        except ImportError as error:
            if asked == "c":
                raise ImportError(f"{VARIABLE}=c, but {error}: make parser") from error
            problem = str(error)
    from app.wire import python_parser

    return python_parser, True, problem


_chosen, is_python, problem = choose(os.environ.get(VARIABLE, "auto"))

parse_request: Final[Callable[..., dict[str, Any]]] = _chosen.parse_request
parse_response: Final[Callable[..., dict[str, Any]]] = _chosen.parse_response
IncompleteError: Final[type[Exception]] = _chosen.IncompleteError
ParseError: Final[type[Exception]] = _chosen.ParseError
LimitRequestLine: Final[type[Exception]] = _chosen.LimitRequestLine
LimitRequestHeaders: Final[type[Exception]] = _chosen.LimitRequestHeaders
InvalidRequestMethod: Final[type[Exception]] = _chosen.InvalidRequestMethod
