r"""Wire cases as files: one file a class, one paragraph a case.

    # The class, and where its rules come from.

    == a sign before the length
    > POST / HTTP/1.1
    > Host: a.example
    > Content-Length: +5
    >
    > hello\
    = 400 bad_framing

``>`` what the client sends (a plain GET if there is none), ``<`` what the backend answers (200 "ok" if there
is none). Each of these lines ends with CRLF unless it ends with a backslash. Escapes: \r \n \t \0 \s (a
space, where it would end the line) \xHH \\ and \{N*text} (text N times).

``=`` is what must happen, one line for each request, in order:
    = 400 slug     the client gets this status, no backend ever sees a complete request; then the connection
                   ends and nothing behind it is read. The slug is the reason in the body of our answer.
    = forwarded    the backend sees one complete request: as sent, or the ``>>`` lines that follow
    = answered 200 the client gets this status from us, no backend sees the request, the connection goes on
    = waits        nothing happens: the message is not complete, and never is forwarded as if it were
  with ``<`` lines:
    = passed       the client gets the answer as the backend sent it, or the ``<<`` lines that follow
    = 502 slug     the client gets this status instead
    = cut          the client sees the head, and that the body is not whole
    = broken       either 502 or cut: it depends on what came together with the head

``@`` says how:
    @ then close | reset     what the backend does behind its answer (nothing if not said)
    @ backend kept | closed  whether the backend's connection may be used again (asserted if given)
    @ early                  the backend answers at the end of the request's head
    @ ends                   the client's connection ends after this exchange
    @ peers skip             not for other products (it needs a setting of ours)
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

CASES = Path(__file__).parents[1] / "cases"
DEFAULT_REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"

_ESCAPE = re.compile(r"\\(?:\{(\d+)\*((?:[^{}\\]|\\[^{])*)\}|x([0-9A-Fa-f]{2})|(.))")
_SIMPLE = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "s": " ", "\\": "\\"}
_KNOWN = {
    "then": ("close", "reset"),
    "backend": ("kept", "closed"),
    "peers": ("skip",),
    "early": ("",),
    "ends": ("",),
}


@dataclass
class Outcome:
    """What must happen to one request."""

    kind: str
    """``refused``, ``answered``, ``forwarded``, ``waits``, ``passed``, ``cut`` or ``broken``."""

    status: int = 0
    reason: str = ""
    expected: bytes | None = None
    """The bytes of the ``>>`` or ``<<`` lines; None: as sent."""


@dataclass
class Case:
    """One case. ``group`` is its file, ``name`` its heading."""

    group: str
    name: str
    request: bytes = b""
    response: bytes | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"

    @property
    def identity(self) -> str:
        """A name for a test's id."""
        return f"{self.group}-{re.sub(r'[^A-Za-z0-9]+', '_', self.name)}"

    @property
    def is_about_responses(self) -> bool:
        """Whether the backend's bytes are what is tested."""
        return self.response is not None


def unescape(text: str) -> bytes:
    """The bytes that a line stands for."""

    def replace(match: re.Match[str]) -> str:
        count, repeated, code, simple = match.groups()
        if count is not None:
            return unescape(repeated).decode("latin-1") * int(count)
        if code is not None:
            return chr(int(code, 16))
        if simple not in _SIMPLE:
            raise ValueError(f"unknown escape \\{simple}")
        return _SIMPLE[simple]

    return _ESCAPE.sub(replace, text).encode("latin-1")


def _line(text: str) -> bytes:
    """One line of a message, with its CRLF unless a single backslash says that there is none."""
    text = text.removeprefix(" ")
    backslashes = len(text) - len(text.rstrip("\\"))
    if backslashes % 2:
        return unescape(text[:-1])
    return unescape(text) + b"\r\n"


def parse(text: str, group: str) -> list[Case]:
    """The cases of one file. ValueError with the line's number for what is not understood."""
    cases: list[Case] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            _read_line(line, group, cases)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{group}, line {number}: {error}") from None
    for case in cases:
        if not case.outcomes:
            raise ValueError(f"{case}: no outcome")
        if not case.request:
            case.request = DEFAULT_REQUEST
    if len({case.identity for case in cases}) != len(cases):
        raise ValueError(f"{group}: a name is used twice")
    return cases


def _read_line(line: str, group: str, cases: list[Case]) -> None:
    if not line.strip() or line.startswith("#"):
        return
    if line.startswith("== "):
        cases.append(Case(group, line[3:].strip()))
        return
    case = cases[-1]
    if line.startswith((">>", "<<")):
        outcome = case.outcomes[-1]
        outcome.expected = (outcome.expected or b"") + _line(line[2:])
    elif line.startswith(">"):
        if case.outcomes:
            raise ValueError("the client's bytes stand before the outcomes")
        case.request += _line(line[1:])
    elif line.startswith("<"):
        case.response = (case.response or b"") + _line(line[1:])
    elif line.startswith("="):
        case.outcomes.append(_outcome(line[1:].split()))
    elif line.startswith("@"):
        word, _, value = line[1:].strip().partition(" ")
        if value not in _KNOWN.get(word, ()):
            raise ValueError(f"unknown setting {line!r}")
        case.settings[word] = value
    else:
        raise ValueError(f"not understood: {line!r}")


def _outcome(words: list[str]) -> Outcome:
    kind, *more = words
    if kind.isdigit():
        return Outcome("refused", int(kind), more[0] if more else "")
    if kind == "answered":
        return Outcome(kind, int(more[0]))
    if kind not in ("forwarded", "waits", "passed", "cut", "broken") or more:
        raise ValueError(f"unknown outcome {' '.join(words)}")
    return Outcome(kind)


def load(folder: Path = CASES) -> list[Case]:
    """Every case of every file, in a fixed order."""
    cases = []
    for path in sorted(folder.rglob("*.wire")):
        group = f"{path.parent.name}/{path.stem}"
        cases += parse(path.read_text(encoding="utf-8"), group)
    return cases


def pieces(data: bytes, points: list[int]) -> list[bytes]:
    """``data`` cut at these places."""
    edges = [0, *sorted(points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if b > a]
