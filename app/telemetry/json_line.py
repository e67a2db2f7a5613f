"""One log record in, one line of JSON out: at most 4096 bytes, pure ASCII, never an exception.

Pure: values in, bytes out. It knows neither where lines go (``app.telemetry.sink``) nor who writes them
(``app.telemetry.log`` and those beside it), and imports nothing of the project.

The limit is PIPE_BUF on Linux: the kernel never mixes such a write with another process's (pipe(7)).
ASCII, because a client chooses much of an access line: escaped, neither U+2028 nor U+0085 can end a
line for a reader that splits on them, and a C1 control such as U+009B (CSI) cannot drive the terminal
of somebody who looks at the log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import orjson

LINE_MAX_BYTES = 4096

# Deeper values become their repr: nothing we log nests deeper, and a value may contain itself.
_DEPTH_MAX = 8
# No string is cut below this: when even that does not fit, whole fields go, the last ones first.
_CUT_MIN_CHARS = 16
# Never dropped: a consumer relies on them in every line.
_ALWAYS = ("timestamp", "level", "logger", "message")
# What a traceback ends with says what happened, so it is cut at its front.
_KEEP_END = "exception"
_ELLIPSIS = "…"
# 16 attempts (the most that can be configured) take some 1,900 bytes.
_NESTED_MAX_BYTES = LINE_MAX_BYTES // 2

_to_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def encode(record: Mapping[str, Any]) -> bytes:
    """``record`` as one line, newline included; what orjson cannot do takes the slow path."""
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # JSONEncodeError: a lone surrogate, a foreign type, 2**64, a loop
        return encode_slowly(record)
    if len(line) <= LINE_MAX_BYTES and line.isascii():
        return line
    return encode_slowly(record)


def encode_slowly(record: Mapping[Any, Any]) -> bytes:
    """The same line for any record at all: cleaned, escaped to ASCII, and cut to the limit."""
    fields = {_text(key): _plain(value, _DEPTH_MAX) for key, value in record.items()}
    line = _dumps(fields)
    if len(line) < LINE_MAX_BYTES:
        return line + b"\n"
    return _cut(fields) + b"\n"


def timestamp(milliseconds: int) -> str:
    """Unix time in milliseconds as RFC 3339 in UTC: ``2026-01-02T03:04:05.678Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03d}Z"


def _dumps(value: object) -> bytes:
    return _to_ascii(value).encode("ascii")


def _plain(value: Any, depth: int) -> Any:
    """``value`` in JSON's own types; never raises."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        # Past 64 bits readers lose digits, and past 4300 digits str(int) itself refuses.
        return int(value) if -(2**63) <= value < 2**64 else hex(value)
    if isinstance(value, float):
        # NaN and the infinities are not JSON; null is what orjson writes as well.
        return float(value) if value - value == 0 else None
    if depth > 0 and isinstance(value, dict):
        return {_text(key): _plain(inner, depth - 1) for key, inner in value.items()}
    if depth > 0 and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner, depth - 1) for inner in value]
    return _text(value)


def _text(value: object) -> str:
    """``value`` as text without lone surrogates, which strict JSON readers refuse even escaped."""
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises
        return f"<{type(value).__name__}>"
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str(text)


def _cut(fields: dict[str, Any]) -> bytes:
    """Shorten the longest text again and again, by at most half, until the line fits.

    Halving lets two long values share the room; taking all from the longest would leave the second
    whole and the first useless.
    """
    for key, value in fields.items():
        if isinstance(value, list):
            while len(_dumps(value)) > _NESTED_MAX_BYTES:
                value.pop()  # a shorter list is still one to whoever reads it
        elif isinstance(value, dict) and len(_dumps(value)) > _NESTED_MAX_BYTES:
            # Only a text can be cut at any place, so a large object goes on as its JSON text.
            fields[key] = _dumps(value).decode("ascii")
    sizes = {key: len(_dumps(value)) for key, value in fields.items() if isinstance(value, str)}
    line = _dumps(fields)
    while len(line) >= LINE_MAX_BYTES:
        excess = len(line) + 1 - LINE_MAX_BYTES
        key = max(sizes, key=sizes.__getitem__, default="")
        if not sizes or len(fields[key]) <= _CUT_MIN_CHARS:
            _drop_last(fields, sizes)
        else:
            room = max(sizes[key] - excess - len("\\u2026"), sizes[key] // 2)
            chars = max(len(fields[key]) * room // sizes[key], _CUT_MIN_CHARS)
            fields[key] = _shortened(key, fields[key], chars)
            sizes[key] = len(_dumps(fields[key]))
        line = _dumps(fields)
    return line


def _shortened(key: str, text: str, chars: int) -> str:
    kept = chars - len(_ELLIPSIS)
    return _ELLIPSIS + text[-kept:] if key == _KEEP_END else text[:kept] + _ELLIPSIS


def _drop_last(fields: dict[str, Any], sizes: dict[str, int]) -> None:
    """More keys than fit into any line: let the last one go that no consumer relies on."""
    key = next(key for key in reversed(fields) if key not in _ALWAYS)
    del fields[key]
    sizes.pop(key, None)
