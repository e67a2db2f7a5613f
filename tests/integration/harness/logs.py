"""The balancer's standard output: read by one thread, parsed line by line, checked against its promises.

A reader that can be paused is also how a stalled pipe is made. What a line must look like is said in
docs/log-schema.json; the few rules here (every line one JSON object with four fields) hold without it.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .timing import PATIENT, PROMPT, wait_until

Line = dict[str, Any]

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|\+00:00)")

ACCESS_FIELDS = frozenset(
    {
        "attempts",
        "backend",
        "bytes_in",
        "bytes_out",
        "client_ip",
        "connect_ms",
        "duration_ms",
        "first_byte_ms",
        "host",
        "method",
        "protocol",
        "reason",
        "request_id",
        "status",
        "target",
        "user_agent",
    }
)

IN_FULL = 2000
"""Lines of one run that are checked against the schema one by one; after that one of each shape."""


class Log:
    """Everything a balancer writes to its standard output, while it is written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._flowing = threading.Event()
        self._flowing.set()
        self.raw: list[bytes] = []
        self.lines: list[Line] = []
        self.broken: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Stop reading: the pipe fills up. One more piece may still be taken."""
        self._flowing.clear()

    def resume(self) -> None:
        """Read on."""
        self._flowing.set()

    def join(self, timeout: float = PATIENT) -> None:
        """Wait for the end of the output: every process that could write has ended."""
        self.resume()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "somebody still holds the standard output"

    def mark(self) -> int:
        """A position; pass it as ``since``."""
        return len(self.lines)

    def select(self, logger: str = "", since: int = 0, **fields: Any) -> list[Line]:
        """Lines of a logger with these values."""
        return [
            line
            for line in self.lines[since:]
            if (not logger or line.get("logger") == logger)
            and all(line.get(name) == value for name, value in fields.items())
        ]

    def wait_for(
        self,
        count: int = 1,
        logger: str = "",
        since: int = 0,
        timeout: float = PROMPT,
        where: Callable[[Line], bool] = lambda line: True,
        **fields: Any,
    ) -> list[Line]:
        """Wait for ``count`` such lines and return all there are."""

        def enough() -> list[Line]:
            found = [line for line in self.select(logger, since, **fields) if where(line)]
            return found if len(found) >= count else []

        return wait_until(
            enough, timeout, f"{count} lines of {logger or 'any logger'} with {fields}"
        )

    def tail(self, count: int = 40) -> str:
        """The last lines, for messages; access lines in short."""
        return "\n".join(map(_in_short, self.raw[-count:]))

    def problems(self) -> list[str]:
        """What is wrong with the lines: each kind of mistake once, with its number and an example."""
        found: dict[str, list[Line | bytes]] = {}
        for raw in self.broken:
            found.setdefault("not one JSON object", []).append(raw)
        shapes: set[tuple[Any, ...]] = set()
        for number, line in enumerate(self.lines):
            problems = _basics(line)
            shape = tuple((key, type(value)) for key, value in line.items())
            if number < IN_FULL or shape not in shapes:
                shapes.add(shape)
                problems += _schema(line)
            for problem in problems:
                found.setdefault(problem, []).append(line)
        return [
            f"{len(lines)} lines: {problem}; one of them: {str(lines[0])[:500]}"
            for problem, lines in found.items()
        ]

    def _read(self) -> None:
        rest = b""
        while True:
            self._flowing.wait()
            data = os.read(self._descriptor, 65536)
            if not data:
                break
            *complete, rest = (rest + data).split(b"\n")
            for raw in complete:
                self._take(raw)
        if rest:
            self.broken.append(b"(no end of line) " + rest)
        os.close(self._descriptor)

    def _take(self, raw: bytes) -> None:
        self.raw.append(raw)
        try:
            line = json.loads(raw.decode("utf-8"))
        except ValueError:
            line = None
        if isinstance(line, dict):
            self.lines.append(line)
        else:
            self.broken.append(raw)


def _in_short(raw: bytes) -> str:
    try:
        line = json.loads(raw)
        if line["logger"] != "access":
            return raw.decode(errors="replace").replace("\\n", "\n")
        words = [line[name] for name in ("timestamp", "method", "target", "backend")]
        words.append(len(line["attempts"]))
        return " ".join(str(word)[:60] for word in [*words, line["status"], line["reason"]])
    except (ValueError, KeyError, TypeError):
        return repr(raw[:300])


def _basics(line: Line) -> list[str]:
    problems = [
        f"{name} is not a text"
        for name in ("timestamp", "level", "logger", "message")
        if not isinstance(line.get(name), str)
    ]
    if not TIMESTAMP.fullmatch(str(line.get("timestamp"))):
        problems.append("timestamp is not RFC 3339 UTC with milliseconds")
    problems += [f'{name} is "-", not null' for name, value in line.items() if value == "-"]
    if line.get("logger") == "access":
        missing = ACCESS_FIELDS - line.keys()
        if missing:
            problems.append(f"no {', '.join(sorted(missing))}")
    if line.get("logger") == "health" and not {"backend", "reason"} <= line.keys():
        problems.append("a health line without backend or reason")
    return problems


def _schema(line: Line) -> list[str]:
    found = _validator()
    if found is None:
        return []
    validator, best_match = found
    error = best_match(validator.iter_errors(line))
    return [] if error is None else [f"{error.json_path}: {error.message[:200]}"]


@cache
def _validator() -> Any:
    path = Path(__file__).parents[3] / "docs" / "log-schema.json"
    if not path.exists():
        return None
    import jsonschema

    schema = json.loads(path.read_text(encoding="utf-8"))
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema), jsonschema.exceptions.best_match
