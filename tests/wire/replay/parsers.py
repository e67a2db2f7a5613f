"""The readers of heads over the C parser and over the one in Python, side by side: every reading of both.

``agree_on_request`` and ``agree_on_response`` raise AssertionError where the two come to different parts, a
different refusal, or find the head complete at different moments. Without gunicorn_h1c there is nothing to
compare (``HAS_C``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from app import config as configuration
from app.control.names import FixedPlace
from app.errors import ProxyError
from app.wire import lenient, python_parser

HAS_C = importlib.util.find_spec("gunicorn_h1c") is not None
NO_C = "gunicorn_h1c is not installed (make parser)"

_MODULES = (
    "wire.parser",
    "wire.refusal",
    "wire.request",
    "wire.response",
    "wire.lenient",
    "control.health.probe",
)
_ERRORS = (
    "IncompleteError",
    "LimitRequestLine",
    "LimitRequestHeaders",
    "InvalidRequestMethod",
    "ParseError",
)


class Readers(NamedTuple):
    """The modules above, imported over one parser."""

    parser: ModuleType
    refusal: ModuleType
    request: ModuleType
    response: ModuleType
    lenient: ModuleType
    probe: ModuleType


@cache
def readers(asked: str) -> Readers:
    """As if LB_PARSER had said so at the start of this process, beside those that are in use."""
    names = [f"app.{name}" for name in _MODULES]
    kept = [importlib.import_module(name) for name in names]
    before = os.environ.get("LB_PARSER")
    for name in names:
        del sys.modules[name]
    try:
        os.environ["LB_PARSER"] = asked
        found = [importlib.import_module(name) for name in names]
    finally:
        if before is None:
            del os.environ["LB_PARSER"]
        else:
            os.environ["LB_PARSER"] = before
        for name, module in zip(names, kept, strict=True):
            package, _, child = name.rpartition(".")
            sys.modules[name] = module
            setattr(sys.modules[package], child, module)
    assert found[0].is_python == (asked == "python")
    return Readers(*found)


def told(head: object) -> str:
    """All that a head says."""
    names = sorted(name for name in dir(head) if not name.startswith("_"))
    return repr([(name, getattr(head, name)) for name in names])


def split(parser: ModuleType, name: str, *arguments: Any) -> object:
    """What the parser itself makes of it: the parts, or the kind of its refusal."""
    try:
        return getattr(parser, name)(*arguments)
    except Exception as error:
        for kind in _ERRORS:
            if isinstance(error, getattr(parser, kind)):
                return kind
        raise


def reading(read: Callable[[], object]) -> object:
    """All that was read, None for an incomplete head, or status and reason of the refusal."""
    try:
        head = read()
    except ProxyError as error:
        return type(error).__name__, error.status, error.reason
    return None if head is None else told(head)


class _Pieces:
    """A connection that gives these pieces and ends."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def recv(self, size: int) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


@cache
def _check(probe: ModuleType) -> Any:
    config = configuration.parse('{"servers": ["http://a.example"], "health_check": {}}')
    server = config.servers[0]
    return probe.ProbeRequest(server, FixedPlace(server), config.health_check, None, "off", ())


def probed(probe: ModuleType, pieces: list[bytes], method: bytes) -> object:
    """What a health check makes of an answer: as ``reading``, or "ended"."""
    request = _check(probe)
    request.raw_method = method
    try:
        return reading(lambda: probe._read_head(_Pieces(pieces), request)[0])
    except ConnectionResetError:
        return "ended"


def agree_on_request(data: bytes, seen: int = 0, limits: dict[str, int] | None = None) -> object:
    """Both parsers, and both readers; what they read."""
    c, python = readers("c"), readers("python")
    given = c.request.HeadLimits(**limits or {})
    for any_method in (True, False):  # we take any; gunicorn's default is not to
        arguments = (data, seen, given.line, given.fields, given.field, any_method)
        parts = split(c.parser, "parse_request", *arguments)
        assert split(python_parser, "parse_request", *arguments) == parts, (data, seen, limits)
    theirs = reading(lambda: c.request.read_head(data, seen, given))
    ours = reading(lambda: python.request.read_head(data, seen, given))
    assert ours == theirs, (data, seen, limits)
    return ours


def agree_on_response(data: bytes, seen: int = 0, method: bytes = b"GET") -> object:
    """Both parsers, both readers, the forgiving ones, and those of health checks; what is read."""
    c, python = readers("c"), readers("python")
    parts = split(c.parser, "parse_response", data, seen)
    assert split(python_parser, "parse_response", data, seen) == parts, (data, seen)
    found = reading(lambda: python.response.read_head(data, method, seen))
    assert found == reading(lambda: c.response.read_head(data, method, seen)), (data, seen, method)
    if isinstance(found, tuple):  # forgiven is only what is refused
        forgiving, theirs = (one.lenient.reader(lenient.FAULTS) for one in (python, c))
        mended = reading(lambda: forgiving(data, method, seen))
        assert mended == reading(lambda: theirs(data, method, seen)), (data, seen)
    pieces = [data[:seen], data[seen:]]
    checked = probed(python.probe, pieces, method)
    assert checked == probed(c.probe, pieces, method), (data, seen)
    if isinstance(found, tuple) and not seen:  # refused of a request, refused of a check
        assert checked == found, (data, method)
    return found


def agree_in_pieces(agree: Callable[..., object], data: bytes, step: int = 1) -> None:
    """As it grows by ``step`` bytes, each call told what the one before has seen, to the first verdict."""
    seen = 0
    for end in [*range(step, len(data), step), len(data)]:
        if agree(data[:end], seen) is not None:
            return
        seen = end
