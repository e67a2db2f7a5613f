"""What clients have sent, by request id, and what the balancer's log says of it. Knows no sockets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PREFIX = "soak-"


@dataclass
class Ledger:
    """A request is certain when its whole head has reached the balancer: an answer came, or its connection
    was ended in an orderly way behind it. One that was torn off is possible: it may have a line."""

    certain: dict[str, str] = field(default_factory=dict)
    possible: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many of each kind of request ended how, such as "get 200"."""
    _count: int = 0

    def new(self, kind: str) -> str:
        """The id of a request that is about to be sent; possible until it is said to be certain."""
        self._count += 1
        request_id = f"{PREFIX}{self._count:07d}"
        self.possible[request_id] = kind
        return request_id

    def sent(self, request_id: str) -> None:
        """Its whole head is known to have arrived."""
        kind = self.possible.pop(request_id, None)
        if kind is not None:
            self.certain[request_id] = kind

    def ended(self, kind: str, outcome: object) -> None:
        self.outcomes[f"{kind} {outcome}"] += 1


@dataclass(frozen=True)
class Findings:
    """The log against the ledger."""

    lines: int
    without_line: list[str]
    with_several: list[str]
    not_json: list[str]
    errors: list[str]
    """Messages of level error and above, and tracebacks."""
    dropped: int
    """Lines that the balancer says it could not write."""

    def misses(self) -> list[str]:
        found = []
        for what, examples in (
            ("requests have no access line", self.without_line),
            ("requests have several", self.with_several),
            ("lines are no JSON object", self.not_json),
            ("errors were logged", self.errors),
        ):
            if examples:
                found.append(f"{len(examples)} {what}: {'; '.join(examples[:3])}")
        if self.dropped:
            found.append(f"{self.dropped} log lines were dropped")
        return found


def judge(ledger: Ledger, text: Iterable[str]) -> Findings:
    seen: Counter[str] = Counter()
    lines, dropped = 0, 0
    not_json: list[str] = []
    errors: list[str] = []
    for raw in text:
        line = _object(raw)
        if line is None:
            not_json.append(raw[:200])
            continue
        if line.get("logger") == "access":
            lines += 1
            seen[str(line.get("request_id"))] += 1
        elif line.get("level") in ("error", "critical") or "exc_info" in line:
            errors.append(str(line.get("message"))[:200])
        dropped += int(line.get("dropped") or 0)
    known = (ledger.certain, ledger.possible)
    return Findings(
        lines=lines,
        without_line=[
            f"{name} ({kind})" for name, kind in ledger.certain.items() if not seen[name]
        ],
        with_several=[
            f"{name} ({kind}: {seen[name]})"
            for requests in known
            for name, kind in requests.items()
            if seen[name] > 1
        ],
        not_json=not_json,
        errors=errors,
        dropped=dropped,
    )


def _object(raw: str) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
